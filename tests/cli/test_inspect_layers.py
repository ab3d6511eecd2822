"""``edgebig inspect --layers``: the report of a bundle's layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Run
from nets import conv_net, samples_for

import edgebig as package


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    graph = conv_net()
    graph.save(folder / "conv.onnx")
    package.compile(folder / "conv.onnx", precision="int8", calibration=samples_for(graph, 24), out=folder / "b")
    package.compile(folder / "conv.onnx", out=folder / "plain")
    return folder / "b"


def test_the_worst_come_first(edgebig: Run, bundle: Path) -> None:
    result = edgebig("inspect", bundle, "--layers")
    found = edgebig("inspect", bundle, "--json").json["layers"]["model"]
    assert result.code == 0
    lines = result.out.splitlines()
    count = len(found["layers"])
    assert count >= 8 and lines[0].startswith(f"part model: {count} layers on 3 inputs; time as measured")
    header = next(i for i, line in enumerate(lines) if line.split()[:2] == ["layer", "operator"])
    named = [line.split()[0] for line in lines[header + 1 :]]
    shares = {row["name"]: row["share_of_error"] for row in found["layers"]}
    assert [shares[name] for name in named[:3]] == sorted(shares.values(), reverse=True)[:3]
    assert "relu" not in named  # it adds no error and has no arithmetic
    for name in found["costly"]:
        assert f"of the error comes from {name} (" in result.out
        assert f"of the error comes from {name} (" in edgebig("inspect", bundle).out


def test_what_has_no_report(edgebig: Run, bundle: Path, mlp: Path) -> None:
    plain = edgebig("inspect", bundle.parent / "plain", "--layers")
    assert plain.code == 14 and "has no layer report: it is not quantized" in plain.err
    assert edgebig("inspect", bundle.parent / "plain", "--json").json["layers"] == {}
    model = edgebig("inspect", mlp, "--layers")
    assert model.code == 2 and "is no bundle" in model.err


def test_a_damaged_report_is_left_out(edgebig: Run, bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "b"
    shutil.copytree(bundle, copy)
    (copy / "evidence" / "model.layers.json").write_text("{")
    result = edgebig("inspect", copy, "--json")
    assert result.code == 0 and result.json["layers"] == {} and not result.json["intact"]
