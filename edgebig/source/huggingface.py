"""Exports a Hugging Face model through Optimum and compares each graph with the original."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgebig.errors import EdgebigError, MissingExtra, SourceError
from edgebig.graph import Graph
from edgebig.source import processors
from edgebig.source.axes import axes_of, fixed_shapes, positions_of
from edgebig.source.source import Sample, Source, SourcePart, check_export


def export_huggingface(
    model: str,
    folder: Path,
    task: str | None,
    opset: int,
    tolerance: float,
    text_length: int | None = None,
    *,
    pads: bool = False,
) -> Source:
    """Exports every graph of the model and compares it with PyTorch on example inputs.

    Args:
        model: a folder as ``save_pretrained`` writes it, or a hub name.
        folder: where the graphs and the processor's files are written.
        task: Optimum's task name; found from the model's config if ``None``.
        opset: at least this opset is exported.
        tolerance: largest difference, relative to an output's largest magnitude.
        text_length: texts are cut to so many tokens.
        pads: shorter texts are filled up to as many, which the attention mask leaves out.

    Raises:
        SourceError: no such model, an unknown task, or the export failed.
        ExportMismatch: a graph computes something else than PyTorch.
        MissingExtra: torch, transformers or optimum-onnx is not installed.
    """
    try:
        import optimum.exporters.onnx.model_configs  # noqa: F401  (registers the architectures)
        from optimum.exporters.tasks import TasksManager
        from transformers import AutoConfig
    except ImportError as error:
        raise MissingExtra("export", error.name or "") from error
    name = Path(model).name if Path(model).is_dir() else model
    with _quiet():
        config = _load_config(AutoConfig, model)
        found_task = _find_task(TasksManager, config, name, task)
        try:
            parts, notes = _export(TasksManager, model, found_task, config, folder, opset, tolerance)
        except EdgebigError:
            raise
        except Exception as error:  # transformers and optimum raise many kinds
            raise SourceError(f"export of {name} for {found_task} failed: {_first_line(error)}") from error
        processor = processors.load(model, folder / "processor", text_length, pads=pads)
        labelled = processors.save_labels(config, folder / "processor")
    return Source(
        "huggingface",
        Path(name).name,
        parts,
        task=found_task,
        sha256=None,
        processor=processor.folder or labelled,
        text=processor.text,
        picture=processor.picture,
        sound=processor.sound,
        notes=(f"task {found_task}", *notes),
    )


def _load_config(auto_config: Any, model: str) -> Any:
    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        # transformers would guess the architecture from the folder's name
        raise SourceError(f"{model} is not a Hugging Face model folder: it has no config.json")
    try:
        return auto_config.from_pretrained(model)
    except Exception as error:
        if Path(model).is_dir():
            raise SourceError(f"{model} is not a Hugging Face model folder: {_first_line(error)}") from error
        raise SourceError(
            f"no such model: {model} is neither a file nor a folder here, and the hub gave none: {_first_line(error)}"
        ) from error


def _find_task(manager: Any, config: Any, name: str, task: str | None) -> str:
    """The task with ``-with-past`` where the architecture has it, since generation needs its cache."""
    import transformers

    model_type = config.model_type
    try:
        supported = manager.get_supported_tasks_for_model_type(model_type, "onnx", library_name="transformers")
    except KeyError as error:
        raise SourceError(
            f"{name}: Optimum cannot export the architecture {model_type!r}: give an .onnx file"
        ) from error
    if task is None:
        classes = [c for c in (getattr(transformers, a, None) for a in config.architectures or []) if c is not None]
        try:
            task = str(manager.infer_task_from_model(classes[0]))
        except (IndexError, ValueError, KeyError) as error:
            raise SourceError(
                f"{name}: its config names no known task: give --task, one of {', '.join(supported)}"
            ) from error
    task = str(manager.map_from_synonym(task))
    if f"{task}-with-past" in supported:
        return f"{task}-with-past"
    if task not in supported:
        raise SourceError(f"--task {task}: {model_type} has no such task: choose one of {', '.join(supported)}")
    return task


def _export(
    manager: Any, model: str, task: str, config: Any, folder: Path, opset: int, tolerance: float
) -> tuple[tuple[SourcePart, ...], list[str]]:
    import torch
    from optimum.exporters.onnx.convert import export_models
    from optimum.exporters.onnx.utils import _get_submodels_and_onnx_configs
    from optimum.utils.save_utils import maybe_load_preprocessors

    torch.manual_seed(0)
    # an older default would leave models in the type of their checkpoint
    module = manager.get_model_from_task(
        task, model, framework="pt", library_name="transformers", torch_dtype=torch.float32, device="cpu"
    ).eval()
    module.config.use_cache = task.endswith("-with-past")
    preprocessors = maybe_load_preprocessors(model)
    main, submodels = _get_submodels_and_onnx_configs(
        model=module,
        task=task,
        monolith=False,
        custom_onnx_configs={},
        custom_architecture=False,
        float_dtype="fp32",
        fn_get_submodels=None,
        preprocessors=preprocessors,
        _variant="default",
        library_name="transformers",
        model_kwargs=None,
    )
    shapes = processors.picture_shapes(preprocessors, config)
    export_models(
        models_and_onnx_configs=submodels,
        opset=max(opset, main.DEFAULT_ONNX_OPSET),
        output_dir=folder,
        output_names=[f"{part}.onnx" for part in submodels],
        input_shapes=shapes,
        device="cpu",
        dtype="fp32",
    )
    parts, notes = [], []
    for part, (submodel, onnx_config) in submodels.items():
        path = folder / f"{part}.onnx"
        graph = Graph.load(path)
        inputs, expected = _reference(submodel, onnx_config, shapes, [s.name for s in graph.inputs])
        notes.append(check_export(part, path, inputs, expected, tolerance))
        axes, fixed = axes_of(graph.inputs, config), fixed_shapes(graph.inputs, inputs)
        parts.append(SourcePart(part, graph, path, (inputs,), axes, fixed, positions_of(config)))
    return tuple(parts), notes


def _reference(submodel: Any, config: Any, shapes: dict[str, int], names: list[str]) -> tuple[Sample, Sample]:
    """Example inputs and PyTorch's outputs on them, by the graph's names."""
    import copy

    import torch

    inputs = config.generate_dummy_inputs(framework="pt", **shapes)
    arguments = config.rename_ambiguous_inputs(copy.deepcopy(inputs))
    with config.patch_model_for_export(submodel), torch.inference_mode():
        outputs = submodel(**arguments)
    renamed = config.torch_to_onnx_output_map
    expected: Sample = {}
    for key, value in outputs.items():
        name = "present" if key == "past_key_values" else key
        expected.update(_arrays(config, renamed.get(name, name), value))
    feeds: Sample = {}
    for name, value in config.generate_dummy_inputs_for_validation(inputs, names).items():
        feeds.update(_arrays(config, name, value))
    return feeds, expected


def _arrays(config: Any, name: str, value: Any) -> Sample:
    """A tensor under its name, or the tensors of a cache under theirs."""
    if isinstance(value, list | tuple):
        value = config.flatten_output_collection_property(name, value)
    if isinstance(value, dict):
        return {k: v.detach().cpu().numpy() for k, v in value.items()}
    return {name: value.detach().cpu().numpy()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' warnings and prints away from the user: what matters becomes an error."""
    loggers = [logging.getLogger(n) for n in ("transformers", "optimum", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
