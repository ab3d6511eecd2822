"""What ONNX Runtime's CUDA and TensorRT providers are asked, and whether they can load here. Plain data: no device."""

from __future__ import annotations

import ctypes
import io
import os
import stat
import struct
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from edgebig.cache import cache_folder, key_of

Provider = Literal["cuda", "tensorrt"]
Options = dict[str, str]
Profiles = Mapping[str, Mapping[str, Sequence[int]]]
"""For each dynamic input its ``min``, ``opt`` and ``max`` shapes, as the manifest holds them."""

NAMES: dict[Provider, str] = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
TITLES: dict[Provider, str] = {"cuda": "CUDA", "tensorrt": "TensorRT"}
_FLAGS = {"float16": "trt_fp16_enable", "bfloat16": "trt_bf16_enable", "int8": "trt_int8_enable"}
_DYNAMIC, _LOAD, _NEEDED, _STRINGS = 2, 1, 1, 5
"""PT_DYNAMIC, PT_LOAD, DT_NEEDED and DT_STRTAB of the ELF format (elf.h)."""


def cuda_options(device: int, *, tf32: bool, cuda_graph: bool) -> Options:
    """Options of the CUDA provider: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html."""
    return {"device_id": str(device), "use_tf32": str(tf32), "enable_cuda_graph": str(cuda_graph)}


def tensorrt_options(
    device: int, *, formats: Sequence[str], profiles: Profiles, folder: Path | None, cuda_graph: bool
) -> Options:
    """Options of the TensorRT provider: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.

    Args:
        device: which GPU.
        formats: number formats that the graph has: TensorRT may use these and float32, and no others.
        profiles: shapes to build for, so that no run builds again.
        folder: where engines and timings are kept; ``None``: nowhere.
        cuda_graph: whether runs are recorded.
    """
    options = {"device_id": str(device), "trt_cuda_graph_enable": str(cuda_graph)}
    options |= {flag: "True" for name, flag in _FLAGS.items() if name in formats}
    if folder is not None:
        options |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(folder.parent),
        }
    if profiles:
        for side in ("min", "opt", "max"):
            shapes = [f"{name}:{'x'.join(map(str, spans[side]))}" for name, spans in profiles.items()]
            options[f"trt_profile_{side}_shapes"] = ",".join(shapes)
    return options


def engine_folder(hashes: Sequence[str]) -> Path | None:
    """The folder in edgebig's cache for the engines of one graph; ``None`` where there may be none.

    TensorRT runs what it finds there, so it must be this user's alone: others may not write it.

    Args:
        hashes: SHA-256 of the graph and of its external data.
    """
    cache = cache_folder()
    if cache is None:
        return None
    folder = cache / "onnxruntime-tensorrt" / key_of(hashes)[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.parent.chmod(0o700)
        folder.chmod(0o700)
        found = [path.stat() for path in (folder, folder.parent)]
    except OSError:
        return None
    uid = os.getuid() if hasattr(os, "getuid") else None
    safe = all(uid in (None, f.st_uid) and not f.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for f in found)
    return folder if safe else None


def missing_libraries(onnxruntime: Any, provider: Provider) -> list[str]:
    """Libraries that the provider needs and that are not found, after those of pip's packages were loaded.

    The provider's own library is never loaded here: ONNX Runtime has to be the first to do so.
    """
    library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    if not library.is_file():
        return [library.name] if os.name == "posix" else []
    lacking = _not_loadable(needed_libraries(library))
    if lacking and hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
    if lacking and provider == "tensorrt":
        with suppress(ImportError, OSError, RuntimeError):
            import_module("tensorrt")
    return _not_loadable(lacking)


def needed_libraries(library: Path) -> list[str]:
    """Names of the libraries that a 64-bit ELF library asks the loader for; empty for other files."""
    with library.open("rb") as stream:
        head = stream.read(64)
        if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
            return []
        offset, size, count = *struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54)
        stream.seek(offset)
        table = stream.read(size * count)
        rows = [struct.unpack_from("<IIQQQQ", table, size * row) for row in range(count)]
        dynamic = next((row for row in rows if row[0] == _DYNAMIC), None)
        if dynamic is None:
            return []
        stream.seek(dynamic[2])
        entries = list(struct.iter_unpack("<qQ", stream.read(dynamic[5] // 16 * 16)))
        strings = next((value for tag, value in entries if tag == _STRINGS), 0)
        place = next((r[2] + strings - r[3] for r in rows if r[0] == _LOAD and r[3] <= strings < r[3] + r[5]), None)
        if place is None:
            return []
        names = []
        for value in (value for tag, value in entries if tag == _NEEDED):
            stream.seek(place + value)
            names.append(stream.read(256).split(b"\0")[0].decode(errors="replace"))
        return names


def _not_loadable(names: Sequence[str]) -> list[str]:
    lacking = []
    for name in names:
        if name.startswith("libonnxruntime_providers_shared"):
            continue  # lies beside the provider
        try:
            ctypes.CDLL(name)
        except OSError:
            lacking.append(name)
    return lacking
