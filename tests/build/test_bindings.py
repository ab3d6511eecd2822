"""What the builder uses of TensorRT's Python API, held against the real bindings of four versions.

Each is downloaded and imported in a process of its own, against stub libraries that hold the symbols and nothing
behind them: classes and signatures are there, objects are not.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wheels import downloaded

from edgebig.build import tensorrt
from edgebig.runtime.gpu import weights

VERSIONS = [
    ("tensorrt-cu12-bindings", "10.3.0"),
    ("tensorrt-cu12-bindings", "10.13.3.9"),
    ("tensorrt-cu13-bindings", "10.16.1.11"),
    ("tensorrt-cu13-bindings", "11.4.0.106"),
]
KEPT = Path(sys.prefix) / "edgebig-bindings"
BUILD = Path(tensorrt.__file__).parent
OBJECTS = {
    "builder": "Builder",
    "self._builder": "Builder",
    "config": "IBuilderConfig",
    "self._config": "IBuilderConfig",
    "live": "ITimingCache",
    "network": "INetworkDefinition",
    "layer": "ILayer",
    "self._live": "ITimingCache",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "first": "ParserError",
    "flags": "BuilderFlag",
    "engine": "ICudaEngine",
    "refitter": "Refitter",
    "weights_parser": "OnnxParserRefitter",
}
"""What the sources call TensorRT's objects."""

SYMBOLS = """createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL getInferLibVersion
createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getBuilderPluginRegistry getNvOnnxParserVersion
getPluginRegistry initLibNvInferPlugins getLogger"""
IMPORT = """
import ctypes, json, sys
stubs, package, major = sys.argv[1:]
for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
    ctypes.CDLL(f"{stubs}/lib{name}.so.{major}", mode=ctypes.RTLD_GLOBAL)
sys.path.insert(0, package)
import tensorrt_bindings as trt
def members(owner):
    return {name: getattr(getattr(owner, name, None), "__doc__", None) or "" for name in dir(owner)}
found = {name: members(getattr(trt, name)) for name in dir(trt) if isinstance(getattr(trt, name), type)}
found["ILogger.Severity"] = members(trt.ILogger.Severity)
print(json.dumps([trt.__version__, found]))
"""


def used(source: str) -> set[tuple[str, str]]:
    """Pairs of a class and a member of it (empty: the class itself) that a source uses; ``f(k=)`` for a keyword."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            for base in map(ast.unparse, node.bases):
                if base.startswith("trt."):
                    names = [f.name for f in node.body if isinstance(f, ast.FunctionDef)]
                    found |= {(base[4:], name) for name in names if not name.startswith("_")}
        elif isinstance(node, ast.Attribute):
            found |= pair(ast.unparse(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            for owner, name in pair(ast.unparse(node.func)):
                found |= {(owner, f"{name}({k.arg}=)") for k in node.keywords}
    return found


def pair(text: str) -> set[tuple[str, str]]:
    owner, _, name = text.rpartition(".")
    if owner in OBJECTS:
        return {(OBJECTS[owner], name)}
    if text.startswith("trt.") and re.fullmatch(r"[\w.]+", text):
        path = text[4:]
        above, _, last = path.rpartition(".")
        return {(above, last)} if above and path != "ILogger.Severity" else {(path, "")}
    return set()


def missing(pairs: set[tuple[str, str]], api: dict[str, Any]) -> list[str]:
    """Those of the pairs that the bindings lack."""
    lacks = []
    for owner, member in sorted(pairs):
        name, _, keyword = member.partition("(")
        there = owner in api and (not name or name in api[owner])
        if there and keyword:
            there = re.search(rf"\b{keyword[:-2]}:", api[owner][name]) is not None
        if not there:
            lacks.append(f"{owner}.{member}")
    return lacks


def sources() -> set[tuple[str, str]]:
    """Of the builder, and of an engine's weights; ``flavour.py`` asks for what only some versions have."""
    files = [BUILD / name for name in ("tensorrt.py", "listening.py", "timing_cache.py")]
    return set().union(*(used(file.read_text()) for file in (*files, Path(weights.__file__))))


def unpacked(package: str, version: str) -> Path:
    """The folder with the bindings, downloaded once; skips where that is impossible.

    Not every version has wheels for every Python: CI must have those of 3.11.
    """
    folder = KEPT / version
    if not (folder / "tensorrt_bindings").is_dir():
        partial = KEPT / f"{version}.partial"
        required = sys.version_info[:2] == (3, 11)
        with downloaded(package, version, KEPT / "wheels" / version, required=required) as archive:
            archive.extractall(partial)
        partial.rename(folder)
    return folder


@pytest.mark.parametrize(("package", "version"), VERSIONS)
def test_all_that_the_builder_uses_is_there(package: str, version: str, tmp_path: Path) -> None:
    folder, major = unpacked(package, version), version.split(".")[0]
    (tmp_path / "stub.c").write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS.split()))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{major}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", library, "stub.c"]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    command = [sys.executable, "-c", IMPORT, str(tmp_path), str(folder), major]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr[-800:]
    found, api = json.loads(ran.stdout)
    assert found == version
    assert missing(sources(), api) == []
    flags = ("FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS")  # with the next what type_for_dla() uses; 11 has no more
    typing = {*(("BuilderFlag", flag) for flag in flags), ("ILayer", "precision")}
    assert missing(typing, api) == ([] if major == "10" else [f"{a}.{b}" for a, b in sorted(typing)])
    kinds = {("LayerType", kind) for kind in ("CONSTANT", "CAST", "QUANTIZE", "DEQUANTIZE")}
    assert missing({("ILayer", "get_output_type"), ("ILayer", "type"), ("DataType", "FLOAT"), *kinds}, api) == []
    levels = api["HardwareCompatibilityLevel"]
    assert "AMPERE_PLUS" in levels and ("SAME_COMPUTE_CAPABILITY" in levels) is (version != "10.3.0")
    assert missing({("Builder", "build_cuda_engine"), ("IBuilderConfig", "set_flag(flags=)")}, api) == [
        "Builder.build_cuda_engine",
        "IBuilderConfig.set_flag(flags=)",
    ]


def test_the_names_are_found_in_the_sources() -> None:
    found = sources()
    assert len(found) > 35
    assert found >= {
        ("IBuilderConfig", "add_optimization_profile"),
        ("BuilderFlag", "STRIP_PLAN"),
        ("IErrorRecorder", "report_error"),
        ("ITimingCache", "combine"),
        ("ILogger.Severity", "WARNING"),
        ("ParserError", "node_operator"),
        ("OnnxParserRefitter", "refit_from_file"),
        ("IBuilderConfig", "can_run_on_DLA"),
        ("INetworkDefinition", "get_layer"),
        ("ILayer", "name"),
        ("ICudaEngine", "weight_streaming_budget_v2"),
    }
    assert used("config.set_flag(flag=trt.BuilderFlag.FP16)") >= {
        ("IBuilderConfig", "set_flag(flag=)"),
        ("BuilderFlag", "FP16"),
    }
