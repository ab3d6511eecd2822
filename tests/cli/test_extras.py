"""Which packages are missing, and what installs them."""

from __future__ import annotations

import sys
from configparser import ConfigParser

import pytest
from cli_runner import ROOT

from edgebig.cli.extras import EXTRAS, absent_modules, missing_extra


@pytest.mark.parametrize(
    ("module", "extra"),
    [("onnx.helper", "compile"), ("onnxruntime", "compile"), ("yaml", "compile"), ("torch.nn", "export"),
     ("optimum", "export"), ("tensorrt_rtx_bindings", "rtx"), ("tokenizers", "text")],
)  # fmt: skip
def test_a_missing_module_names_its_extra(monkeypatch: pytest.MonkeyPatch, module: str, extra: str) -> None:
    name = module.partition(".")[0]
    monkeypatch.setitem(sys.modules, name, None)
    found = missing_extra(ModuleNotFoundError("no", name=module))
    assert str(found) == f'this needs edgebig[{extra}] ({name} is not installed): pip install "edgebig[{extra}]"'
    assert name in absent_modules(extra)


def test_other_import_errors_are_left_alone() -> None:
    assert missing_extra(ModuleNotFoundError("no", name="edgebig.absent")) is None
    assert missing_extra(ImportError("cannot import name")) is None
    assert missing_extra(ImportError("cannot import name", name="onnx")) is None  # installed, but broken


def test_the_extras_are_those_of_the_package() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert set(config["options.extras_require"]) - {"demo", "dev"} == set(EXTRAS)
