"""compile(): source -> graph -> calibrate -> quantize -> build -> verify, and the bundle that holds the result.

This is the only module that imports every stage, and the only one that knows their order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebig import steps
from edgebig.bundle import Bundle, BundleWriter
from edgebig.quantize import check_precision
from edgebig.recipe import BuildRecipe, Recipe
from edgebig.request import AskedShapes, Data, Request, Shapes
from edgebig.stages import Listener, StageLog
from edgebig.target import Target


def compile(
    model: Any,
    *,
    out: str | Path,
    target: Target | str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    precision: str | None = None,
    calibration: Data | None = None,
    task: str | None = None,
    shapes: AskedShapes = None,
    min_shapes: AskedShapes = None,
    opt_shapes: AskedShapes = None,
    max_shapes: AskedShapes = None,
    freeze: Mapping[str, int | float | bool] | None = None,
    capabilities: Sequence[str] | None = None,
    build: BuildRecipe | Mapping[str, Any] | None = None,
    example_inputs: Mapping[str, Any] | Sequence[Any] | None = None,
    keep_original: bool | None = None,
    force: bool = False,
    listener: Listener | None = None,
) -> Bundle:
    """Compiles a trained model for a target and writes the bundle.

    Args:
        model: a Hugging Face folder or hub name, an ``.onnx`` file, or a ``torch.nn.Module``.
        out: the bundle's folder, which must not exist unless ``force`` is set.
        target: a Target, its name or YAML file; the recipe's, or ``cpu``.
        recipe: a Recipe, its name or YAML file; the arguments below override its fields.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``fp8``, ``int4``, ``int8-weights``, ``nvfp4`` or ``auto``.
        calibration: samples: a file or folder, ``ready:NAME`` for a set that ships with edgebig, or an
            iterable of mappings from input name to array.
        task: Optimum's task name; found from the model's config otherwise.
        shapes: fixed input shapes, as ``name:1x3x224x224,other:1x16`` or a mapping.
        min_shapes, opt_shapes, max_shapes: the range of shapes instead, each in the same form. A sequence of them
            gives several sets, each an optimization profile of its own: the first of each, the second of each.
        freeze: inputs that become constants, with their values.
        capabilities: compute capabilities that one engine is to serve, as ``("8.6", "8.9")``.
        build: what is asked of the engine builder, as ``{"optimization_level": 5, "workspace": "2G"}``: fields of
            :class:`edgebig.recipe.BuildRecipe`, or one; those that are named replace the recipe's.
        example_inputs: for a module: its inputs, by parameter name or in order; their first axis becomes dynamic.
        keep_original: whether the bundle also carries the graph before quantization.
        force: replaces a bundle that is at ``out``.
        listener: called with each :class:`edgebig.stages.Event`.

    Returns:
        The written bundle.

    Raises:
        EdgebigError: see :mod:`edgebig.errors`; nothing is left at ``out``.
    """
    overrides: dict[str, Any] = {"precision": precision, "task": task, "freeze": freeze, "capabilities": capabilities}
    overrides |= {"keep_original": keep_original, "build": build}
    wanted = Shapes(shapes, min_shapes, opt_shapes, max_shapes)
    request = steps.with_plan(Request.resolve(recipe, target, calibration, wanted, overrides))
    check_precision(request.target, request.recipe.precision)
    steps.check_build(request)
    steps.check_model_exists(model)

    with BundleWriter(out, force=force) as writer, tempfile.TemporaryDirectory(prefix="edgebig-") as folder:
        log, work = StageLog(listener), Path(folder)
        with log.stage("source") as notes:
            source = steps.load_source(model, request, example_inputs, work, notes)
        with log.stage("graph") as notes:
            parts = [steps.prepare_graph(part, source, request, notes) for part in source.parts]
            for part in parts:
                steps.fix_sizes(part, request, notes)
        with log.stage("calibrate") as notes:
            for part in parts:
                steps.calibrate_part(part, source, request, notes)
        with log.stage("quantize") as notes:
            for part in parts:
                steps.quantize_part(part, source, request, notes)
        with log.stage("build") as notes:
            for part in parts:
                steps.build_part(part, request, writer, work, notes)
        with log.stage("verify") as notes:
            finished = {part.name: steps.verify_part(part, request, writer, notes) for part in parts}
        steps.write_processor(source, request, writer)
        return writer.commit(steps.make_manifest(source, request, finished, log.stages))
