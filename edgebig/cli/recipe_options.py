"""Options of ``edgebig compile`` that are nothing but fields of the recipe, by subject."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgebig.errors import UsageError

if TYPE_CHECKING:
    from edgebig.recipe import Recipe

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]
_KEPT = "edgebig.recipe"


def _field(name: str, read: Callable[[Any], Any] = lambda value: value) -> Callable[..., None]:
    """A callback that keeps an option's value under the name of the recipe's field, where it was given."""

    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value != () and value is not False:
            context.meta.setdefault(_KEPT, {})[name] = read(value)

    return keep


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _repairs(text: str) -> list[str]:
    return [] if text == "none" else _names(text)


def _option(
    flag: str,
    field: str,
    help_text: str,
    *,
    kind: click.ParamType[Any] | None = None,
    metavar: str | None = None,
    read: Callable[[Any], Any] = lambda value: value,
    multiple: bool = False,
    is_flag: bool | None = None,
) -> Decorator[Any]:
    """An option that is nothing but a field of the recipe.

    Args:
        flag: as the command line has it.
        field: its name in the recipe; in a group of fields ``group.field``.
        help_text: for ``--help``.
        kind: click's type of the value; text where it is absent.
        metavar: what stands for the value in ``--help``.
        read: makes the field's value of the option's.
        multiple: whether it may be given several times.
        is_flag: whether it takes no value; click finds out by itself otherwise.
    """
    return click.option(
        flag,
        type=kind,
        metavar=metavar,
        multiple=multiple,
        is_flag=is_flag,
        expose_value=False,
        callback=_field(field, read),
        help=help_text,
    )


_ACCURACY: list[Decorator[Any]] = [
    _option(
        "--max-drop",
        "max_drop",
        "The largest loss allowed: 1 - cosine of the worst output, or with --eval in the metric's unit. Beyond it "
        "the compile fails; -p auto finds the fastest plan within it.  [default for auto: 0.005]",
        kind=click.FloatRange(0),
        metavar="X",
    ),
    _option("--eval", "evaluation.data", "Labelled data that decides; docs/evaluation.md says which.", metavar="PATH"),
    _option(
        "--metric",
        "evaluation.metric",
        "What --eval measures; what suits the task otherwise.",
        metavar="NAME|FILE.py:FUNCTION",
    ),
    _option(
        "--eval-samples", "evaluation.samples", "Items of --eval to use at most.", kind=click.IntRange(1), metavar="N"
    ),
    _option(
        "--search-minutes",
        "search_minutes",
        "Ends the search of auto.",
        kind=click.FloatRange(0, min_open=True),
        metavar="N",
    ),
    _option("--plan", "plan", "Formats of the layers, as a bundle's evidence/PART.plan.json has them.", metavar="FILE"),
    _option(
        "--keep-float", "keep_float", "Nodes that are not quantized; repeatable.", metavar="PATTERN", multiple=True
    ),
    _option(
        "--repair",
        "repair",
        "What keeps accuracy: equalize, outliers, smooth, mse, gptq, adaround, awq, bias.  [default: by format]",
        metavar="NAME,...|none",
        read=_repairs,
    ),
]

_CALIBRATION: list[Decorator[Any]] = [
    _option(
        "--calib-method",
        "calibration.methods",
        "How ranges are made: min-max, average-min-max, percentile, entropy, mse; the first is used, "
        "the others are reported beside it.  [default: min-max]",
        metavar="NAME,...",
        read=_names,
    ),
    _option(
        "--calib-samples",
        "calibration.samples",
        "Samples to read at most.  [default: 128]",
        kind=click.IntRange(1),
        metavar="N",
    ),
    _option(
        "--calib-skip-bad",
        "calibration.skip_bad",
        "Leaves out so many samples that do not fit or cannot be read.  [default: 0]",
        kind=click.IntRange(0),
        metavar="N",
    ),
    _option(
        "--calib-memory",
        "calibration.memory_mb",
        "Activations held at once.  [default: 128]",
        kind=click.IntRange(1),
        metavar="MB",
    ),
    _option(
        "--calib-device",
        "calibration.device",
        "Where the samples run.  [default: cuda where ONNX Runtime has it]",
        kind=click.Choice(["cpu", "cuda"]),
    ),
]

_GOLDEN: list[Decorator[Any]] = [
    _option(
        "--golden",
        "golden_inputs",
        "Inputs that the bundle carries as evidence: held-out samples, or made ones.  [default: held-out]",
        kind=click.Choice(["held-out", "synthetic"]),
    ),
    _option("--no-golden", "no_golden", "The bundle carries no inputs; they are compared here alone.", is_flag=True),
]


_BUILD: list[Decorator[Any]] = [
    _option("--workspace", "build.workspace", "Memory that one layer may use for scratch: 2G.", metavar="SIZE"),
    _option(
        "--opt-level",
        "build.optimization_level",
        "0 builds fastest, 5 makes the fastest engine.  [default: the builder's]",
        kind=click.IntRange(0, 5),
    ),
    _option(
        "--aux-streams",
        "build.aux_streams",
        "Streams beside the main one that an engine may use.",
        kind=click.IntRange(0),
        metavar="N",
    ),
    _option(
        "--dla-core",
        "build.dla_core",
        "Deep learning accelerator that runs what it can (AGX Orin, Orin NX, Xavier); wants fp16 or int8, fixed sizes.",
        kind=click.IntRange(0),
        metavar="N",
    ),
    _option(
        "--no-gpu-fallback",
        "build.gpu_fallback",
        "Fails where the DLA cannot run a layer; the GPU takes it otherwise.",
        read=lambda value: not value,
        is_flag=True,
    ),
    _option("--refit", "build.refit", "Weights can be replaced in the built engine.", is_flag=True),
    _option(
        "--strip-weights",
        "build.strip_weights",
        "The engine holds no weights: they come from the bundle's graph when it is loaded.",
        is_flag=True,
    ),
    _option(
        "--weight-streaming",
        "build.weight_streaming",
        "Weights may stay in the processor's memory: so many bytes of them stay on the GPU.",
        metavar="auto|SIZE",
    ),
    _option(
        "--version-compatible", "build.version_compatible", "Later versions of TensorRT load the engine.", is_flag=True
    ),
    _option(
        "--hardware-compatible",
        "build.hardware_compatible",
        "Other GPUs that are to load the engine.",
        kind=click.Choice(["ampere+", "same-capability"]),
    ),
]


def accuracy_options(command: Command) -> Command:
    """What may be lost, and what is done about it."""
    return _with(command, _ACCURACY)


def calibration_options(command: Command) -> Command:
    """How calibration samples are read and used."""
    return _with(command, _CALIBRATION)


def golden_options(command: Command) -> Command:
    """The inputs that a bundle carries."""
    return _with(command, _GOLDEN)


def build_options(command: Command) -> Command:
    """What is asked of the engine builder."""
    return _with(command, _BUILD)


def asked_build(context: click.Context) -> dict[str, Any]:
    """The fields of the recipe's ``build`` that options gave."""
    return _nested(dict(context.meta.get(_KEPT, {})), "build")


def asked_recipe(context: click.Context, base: str | None) -> Recipe:
    """The recipe of that name or file, or the empty one, with the fields that options replace.

    Raises:
        UsageError: options that contradict each other.
        RecipeError: no such recipe, or a value that its field cannot take.
    """
    asked: dict[str, Any] = dict(context.meta.get(_KEPT, {}))
    if asked.pop("no_golden", False):
        if "golden_inputs" in asked:
            raise UsageError("--golden says which inputs the bundle carries and --no-golden that it carries none")
        asked["golden_inputs"] = "private"
    calibration, evaluation = _nested(asked, "calibration"), _nested(asked, "evaluation")
    build = _nested(asked, "build")
    if evaluation:
        if "data" not in evaluation:
            raise UsageError("--metric and --eval-samples say how --eval measures: give --eval PATH")
        asked["evaluation"] = evaluation
    from edgebig.recipe import Recipe

    recipe = Recipe.load(base) if base is not None else Recipe()
    return recipe.with_calibration(calibration).with_build(build).changed(**asked)


def _with(command: Command, options: list[Decorator[Any]]) -> Command:
    for option in reversed(options):  # the help lists them in the order in which decorators stand
        command = option(command)
    return command


def _nested(asked: dict[str, Any], group: str) -> dict[str, Any]:
    """Takes the fields of one group out."""
    names = [name for name in asked if name.startswith(f"{group}.")]
    return {name.removeprefix(f"{group}."): asked.pop(name) for name in names}
