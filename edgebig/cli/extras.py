"""The optional parts of edgebig, which modules each brings, and which of them are here."""

from __future__ import annotations

from importlib.util import find_spec

from edgebig.errors import MissingExtra

EXTRAS: dict[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime",),
    "compile": ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "PIL", "pydantic", "yaml", "rich"),
    "export": ("torch", "transformers", "optimum"),
    "rtx": ("tensorrt_rtx_bindings",),
    "gpu": ("onnxruntime", "tensorrt", "cuda"),
    "cuda": ("onnxruntime", "cuda"),
    "jetson": ("onnxruntime", "cuda"),
    "vision": ("PIL",),
    "text": ("tokenizers",),
    "data": ("pyarrow",),
    "examples": ("PIL", "fastapi", "cv2", "uvicorn"),
    "eval": ("torchmetrics", "jiwer", "sacrebleu", "pycocotools"),
}
"""Import names of what each extra installs, beside what the base install brings."""

_OWNERS = {module: extra for extra in ("eval", "data", "text", "rtx", "export", "compile") for module in EXTRAS[extra]}
_OWNERS["google"] = "compile"  # protobuf, which onnx brings


def absent_modules(extra: str) -> list[str]:
    """The extra's modules that are not installed; nothing is imported."""
    return [module for module in EXTRAS[extra] if not _is_installed(module)]


def missing_extra(error: ImportError) -> MissingExtra | None:
    """What to install so that this import works; ``None`` where the module belongs to no extra."""
    module = (error.name or "").partition(".")[0]
    if module not in _OWNERS or _is_installed(module):
        return None
    return MissingExtra(_OWNERS[module], module)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a package that is half there
        return False
