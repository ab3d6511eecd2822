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


_ACCURACY: list[Decorator[Any]] = [
    click.option(
        "--max-drop",
        type=click.FloatRange(0),
        metavar="X",
        expose_value=False,
        callback=_field("max_drop"),
        help="The largest loss allowed: 1 - cosine of the worst output, or with --eval in the metric's unit. Beyond it "
        "the compile fails; -p auto finds the fastest plan within it.  [default for auto: 0.01]",
    ),
    click.option(
        "--eval",
        metavar="PATH",
        expose_value=False,
        callback=_field("evaluation.data"),
        help="Labelled data that decides; docs/evaluation.md says which.",
    ),
    click.option(
        "--metric",
        metavar="NAME|FILE.py:FUNCTION",
        expose_value=False,
        callback=_field("evaluation.metric"),
        help="What --eval measures; what suits the task otherwise.",
    ),
    click.option(
        "--eval-samples",
        type=click.IntRange(1),
        metavar="N",
        expose_value=False,
        callback=_field("evaluation.samples"),
        help="Items of --eval to use at most.",
    ),
    click.option(
        "--search-minutes",
        type=click.FloatRange(0, min_open=True),
        metavar="N",
        expose_value=False,
        callback=_field("search_minutes"),
        help="Ends the search of auto.",
    ),
    click.option(
        "--plan",
        metavar="FILE",
        expose_value=False,
        callback=_field("plan"),
        help="Formats of the layers, as a bundle's evidence/PART.plan.json has them.",
    ),
    click.option(
        "--keep-float",
        metavar="PATTERN",
        multiple=True,
        expose_value=False,
        callback=_field("keep_float"),
        help="Nodes that are not quantized; repeatable.",
    ),
    click.option(
        "--repair",
        metavar="NAME,...|none",
        expose_value=False,
        callback=_field("repair", _repairs),
        help="What keeps accuracy: equalize, outliers, smooth, mse, gptq, adaround, awq, bias.  [default: by format]",
    ),
]

_CALIBRATION: list[Decorator[Any]] = [
    click.option(
        "--calib-method",
        metavar="NAME,...",
        expose_value=False,
        callback=_field("calibration.methods", _names),
        help="How ranges are made: min-max, average-min-max, percentile, entropy, mse; the first is used, "
        "the others are reported beside it.  [default: min-max]",
    ),
    click.option(
        "--calib-samples",
        type=click.IntRange(1),
        metavar="N",
        expose_value=False,
        callback=_field("calibration.samples"),
        help="Samples to read at most.  [default: 128]",
    ),
    click.option(
        "--calib-skip-bad",
        type=click.IntRange(0),
        metavar="N",
        expose_value=False,
        callback=_field("calibration.skip_bad"),
        help="Leaves out so many samples that do not fit or cannot be read.  [default: 0]",
    ),
    click.option(
        "--calib-memory",
        type=click.IntRange(1),
        metavar="MB",
        expose_value=False,
        callback=_field("calibration.memory_mb"),
        help="Activations held at once.  [default: 128]",
    ),
    click.option(
        "--calib-device",
        type=click.Choice(["cpu", "cuda"]),
        expose_value=False,
        callback=_field("calibration.device"),
        help="Where the samples run.  [default: cuda where ONNX Runtime has it]",
    ),
]

_GOLDEN: list[Decorator[Any]] = [
    click.option(
        "--golden",
        type=click.Choice(["held-out", "synthetic"]),
        expose_value=False,
        callback=_field("golden_inputs"),
        help="Inputs that the bundle carries as evidence: held-out samples, or made ones.  [default: held-out]",
    ),
    click.option(
        "--no-golden",
        is_flag=True,
        expose_value=False,
        callback=_field("no_golden"),
        help="The bundle carries no inputs; they are compared here alone.",
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
    if evaluation:
        if "data" not in evaluation:
            raise UsageError("--metric and --eval-samples say how --eval measures: give --eval PATH")
        asked["evaluation"] = evaluation
    from edgebig.recipe import Recipe

    recipe = Recipe.load(base) if base is not None else Recipe()
    return recipe.with_calibration(calibration).changed(**asked)


def _with(command: Command, options: list[Decorator[Any]]) -> Command:
    for option in reversed(options):  # the help lists them in the order in which decorators stand
        command = option(command)
    return command


def _nested(asked: dict[str, Any], group: str) -> dict[str, Any]:
    """Takes the fields of one group out."""
    names = [name for name in asked if name.startswith(f"{group}.")]
    return {name.removeprefix(f"{group}."): asked.pop(name) for name in names}
