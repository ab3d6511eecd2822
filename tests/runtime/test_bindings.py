"""What the runtime uses of TensorRT and of cuda-python, held against the real bindings.

TensorRT's are those of four versions, downloaded and imported as ``tests/build/test_bindings.py`` does it.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_cuda
import pytest

from edgebig.runtime.gpu import cuda

GPU = Path(cuda.__file__).parent


def _of_the_builder() -> ModuleType:
    """The test of what the builder uses. Test folders are no packages: it is found by its path."""
    path = Path(__file__).parent.parent / "build" / "test_bindings.py"
    spec = importlib.util.spec_from_file_location("bindings_of_the_builder", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builder = _of_the_builder()

OBJECTS = {
    "engine.py": {"self._engine": "ICudaEngine", "engine": "ICudaEngine", "self._runtime": "Runtime"},
    "execution.py": {"self._context": "IExecutionContext", "context": "IExecutionContext"},
    "allocator.py": {},
    "profiler.py": {},
}
"""What each source calls TensorRT's objects; the module is ``tensorrt`` or ``trt`` in all of them."""
_MODULE = re.compile(r"(?:self\.)?(?:tensorrt|trt)\.([A-Z][\w.]*)")

Use = tuple[str, str, int | None]
"""A class, a member of it (empty: the class itself), and how many arguments are given to it where it is called."""


def used() -> set[Use]:
    """All that the runtime uses."""
    return set().union(*(_used(ast.parse((GPU / name).read_text()), objects) for name, objects in OBJECTS.items()))


def _used(tree: ast.AST, objects: dict[str, str]) -> set[Use]:
    found: set[Use] = set()
    calls = {id(node.func): len(node.args) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in map(ast.unparse, node.bases):
                if matched := _MODULE.fullmatch(base):
                    own = [f for f in node.body if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")]
                    found |= {(matched[1], f.name, len(f.args.args) - 1) for f in own}
        if not isinstance(node, ast.Attribute):
            continue
        text = ast.unparse(node)
        owner, _, name = text.rpartition(".")
        if owner in objects:
            found.add((objects[owner], name, calls.get(id(node))))
        elif matched := _MODULE.fullmatch(text):
            above, _, last = matched[1].rpartition(".")
            found.add((above, last, None) if above and last != "__init__" else (above or matched[1], "", None))
    return found


def takes(doc: str, count: int) -> bool:
    """Whether one of the signatures in a docstring of pybind11 takes so many arguments after ``self``."""
    for signature in re.findall(r"\(self: [^\n]*?\) ->", re.sub(r"<[^<>]*>", "", doc)):
        names = re.findall(r"(\w+): ", signature)[1:]
        optional = len(re.findall(r" = ", signature))
        if len(names) - optional <= count <= len(names):
            return True
    return "self:" not in doc  # a property, or a class


def lacking(uses: set[Use], api: dict[str, Any]) -> list[str]:
    """Those that the bindings lack, or that take another number of arguments there."""
    found: list[str] = builder.missing({(owner, name) for owner, name, _ in uses}, api)
    for owner, name, count in sorted(uses, key=str):
        if count is not None and f"{owner}.{name}" not in found and not takes(api[owner][name], count):
            found.append(f"{owner}.{name} with {count} arguments")
    return found


@pytest.mark.parametrize(("package", "version"), builder.VERSIONS)
def test_all_that_the_runtime_uses_of_tensorrt_is_there(package: str, version: str, tmp_path: Path) -> None:
    api = _api(package, version, tmp_path)
    overridden = {use for use in used() if use[0] == "IOutputAllocator" and use[1]}
    of_rtx_alone = {
        use for use in used() if use[0].startswith("EngineInvalidityDiagnostics") or use[1] == "get_engine_validity"
    }
    assert lacking(used() - overridden - of_rtx_alone, api) == []
    # TensorRT calls these by name on the Python object; they are no members, but the class's docstring has them.
    (library,) = (builder.KEPT / version / "tensorrt_bindings").glob("tensorrt*.so")
    data = library.read_bytes()
    assert {name for _, name, _ in overridden} == {"notify_shape", "reallocate_output", "reallocate_output_async"}
    for _, name, count in overridden:
        (parameters,) = set(re.findall(rf"def {name}\(self, ([\w, ]+)\)".encode(), data))
        assert len(parameters.split(b", ")) == count, name
    wrong: set[Use] = {
        ("ICudaEngine", "get_binding_name", 1),
        ("IExecutionContext", "execute_async_v3", 2),
        ("IExecutionContext", "set_tensor_address", 1),
    }
    assert lacking(wrong, api) == [
        "ICudaEngine.get_binding_name",
        "IExecutionContext.execute_async_v3 with 2 arguments",
        "IExecutionContext.set_tensor_address with 1 arguments",
    ]


def test_the_names_are_found_in_the_sources() -> None:
    assert len(used()) > 30
    assert used() >= {
        ("ICudaEngine", "get_tensor_profile_shape", 2),
        ("ICudaEngine", "device_memory_size_v2", None),
        ("IExecutionContext", "execute_async_v3", 1),
        ("IExecutionContext", "set_input_shape", 2),
        ("IExecutionContext", "profiler", None),
        ("IOutputAllocator", "reallocate_output_async", 5),
        ("IProfiler", "report_layer_time", 2),
        ("Runtime", "engine_host_code_allowed", None),
        ("TensorLocation", "HOST", None),
    }


def _api(package: str, version: str, folder: Path) -> dict[str, Any]:
    """Every class of the bindings, with its members' docstrings."""
    import json
    import subprocess
    import sys

    unpacked, major = builder.unpacked(package, version), version.split(".")[0]
    stub = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in builder.SYMBOLS.split())
    (folder / "stub.c").write_text(stub)
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{major}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", library, "stub.c"]
        subprocess.run(command, cwd=folder, check=True, timeout=60)
    command = [sys.executable, "-c", builder.IMPORT, str(folder), str(unpacked), major]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found, api = json.loads(ran.stdout)
    assert found == version
    members: dict[str, Any] = api
    return members


def cuda_calls() -> dict[str, int | None]:
    """What ``gpu/cuda.py`` uses of ``cuda.bindings.runtime``, with the number of arguments where it is called."""
    tree = ast.parse((GPU / "cuda.py").read_text())
    calls = {id(node.func): len(node.args) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    aliases = {"self._copy": "cudaMemcpyAsync", "self._launch": "cudaGraphLaunch"}
    aliases["self._synchronize"] = "cudaStreamSynchronize"
    found: dict[str, int | None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            name = aliases.get(ast.unparse(node)) or (node.attr if owner in ("runtime", "self._rt") else None)
            if name is not None:
                count = calls.get(id(node))
                found[name] = found.get(name) if count is None else count
    return found


def test_the_fake_of_cuda_has_all_that_is_used() -> None:
    found = cuda_calls()
    assert len(found) > 25 and found["cudaMemcpyAsync"] == 5 and found["cudaStreamSynchronize"] == 1
    assert [name for name in found if not hasattr(fake_cuda.FakeCuda, name)] == []


def test_all_that_the_runtime_uses_of_cuda_python_is_there() -> None:
    runtime: Any = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    for name, count in cuda_calls().items():
        assert hasattr(runtime, name), name
        if count is not None:
            assert len(inspect.signature(getattr(runtime, name)).parameters) == count, name
    known = {error.name for error in runtime.cudaError_t}
    assert known >= cuda._GONE - {"cudaErrorContained"}  # of CUDA 12.8 and newer
    assert "cudaErrorMemoryAllocation" in known
    attributes = [name for name in dir(runtime.cudaPointerAttributes) if not name.startswith("_")]
    assert {"device", "type", "devicePointer"} <= set(attributes)
