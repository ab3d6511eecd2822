"""What a Hugging Face model's folder holds; the model is neither loaded nor exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgebig.cli.console import size_text, table
from edgebig.cli.extras import absent_modules
from edgebig.errors import SourceError

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack")


def facts(path: Path) -> dict[str, Any]:
    """Architecture, tasks and files, as plain data.

    Raises:
        SourceError: config.json cannot be read or is not a model's config.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read {path / 'config.json'}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise SourceError(f"{path / 'config.json'} names no model_type: this is not a Hugging Face model's folder")
    tasks, problem = _tasks(config["model_type"])
    files = {f.relative_to(path).as_posix(): f.stat().st_size for f in sorted(path.rglob("*")) if f.is_file()}
    return {
        "kind": "huggingface",
        "path": str(path),
        "architectures": list(config.get("architectures") or []),
        "model_type": config["model_type"],
        "tasks": tasks,
        "tasks_need": problem,
        "files": files,
        "bytes": sum(files.values()),
        "weight_bytes": sum(size for name, size in files.items() if name.endswith(_WEIGHTS)),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """For people."""
    architectures = ", ".join(found["architectures"]) or "no architecture named"
    out = [f"{found['path']}: Hugging Face model {found['model_type']} ({architectures}), {size_text(found['bytes'])}"]
    out += ["", "tasks that it can be exported for (--task)"]
    out += [f"  {', '.join(found['tasks']) or found['tasks_need'] or 'none: give an .onnx file'}"]
    out += ["", f"files: weights {size_text(found['weight_bytes'])}"]
    return out + table([[name, size_text(size)] for name, size in found["files"].items()], right=[1], indent=2)


def _tasks(model_type: str) -> tuple[list[str], str | None]:
    """Optimum's tasks for the architecture; or none, and what would tell."""
    if absent_modules("export"):
        return [], 'the list needs edgebig[export]: pip install "edgebig[export]"'
    import optimum.exporters.onnx.model_configs  # noqa: F401  (registers the architectures)
    from optimum.exporters.tasks import TasksManager

    try:
        tasks = TasksManager.get_supported_tasks_for_model_type(model_type, "onnx", library_name="transformers")
    except KeyError:
        return [], None
    return sorted(tasks), None
