"""ModelConfig as Triton itself reads it, from the package tritonclient.

tritonclient wants an older protobuf than the rest of the environment, so it is not installed: the one generated file is
taken from its wheel. A generated file of protobuf 6 is served by the libraries of protobuf 6 and 7.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from wheels import downloaded

VERSION = "2.73.0"
KEPT = Path(sys.prefix) / "edgebig-tritonclient" / VERSION
MEMBER = "tritonclient/grpc/model_config_pb2.py"


@cache
def model_config_pb2() -> ModuleType:
    """The module, downloaded once; skips where that is impossible, and fails there where CI=true."""
    file = KEPT / "model_config_pb2.py"
    if not file.is_file():
        with downloaded("tritonclient", VERSION, KEPT, "--python-version", "3.12") as archive:
            partial = file.with_suffix(f".{os.getpid()}.partial")
            partial.write_bytes(archive.read(MEMBER))
        partial.rename(file)
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(text: str) -> Any:
    """The configuration that Triton sees in this text; an unknown field or a wrong type raises ``ParseError``."""
    from google.protobuf import text_format

    return text_format.Parse(text, model_config_pb2().ModelConfig())
