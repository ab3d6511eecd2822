"""Request: what was asked of one compile, resolved and free of contradictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgebig.errors import UsageError
from edgebig.recipe import Recipe, Shape, ShapeRange, parse_shapes
from edgebig.target import Target

Data = str | Path | Iterable[Mapping[str, Any]]


OneShapes = str | Mapping[str, Shape]
AskedShapes = OneShapes | Sequence[OneShapes] | None


@dataclass(frozen=True)
class Shapes:
    """Shapes as the command line gives them, each a SPEC (``name:1x3x224x224,other:1x16``) or a mapping.

    Several of them, in a sequence, make several sets: the first ``min``, ``opt`` and ``max`` one, the second another.
    """

    fixed: AskedShapes = None
    min: AskedShapes = None
    opt: AskedShapes = None
    max: AskedShapes = None

    def sets(self) -> tuple[dict[str, ShapeRange], ...]:
        """For each set a range for each named input; none where nothing was asked.

        Raises:
            UsageError: fixed shapes together with ranges, or ranges that are not whole.
        """
        fixed, low, best, high = (_several(s) for s in (self.fixed, self.min, self.opt, self.max))
        if fixed and (low or best or high):
            raise UsageError("--shapes fixes every size: give either it or --min-shapes, --opt-shapes and --max-shapes")
        if not len(low) == len(best) == len(high):
            raise UsageError(
                "--min-shapes, --opt-shapes and --max-shapes belong together, once for each set of shapes: "
                f"found {len(low)}, {len(best)} and {len(high)}"
            )
        if fixed:
            return tuple({n: _range("--shapes", n, s, s, s) for n, s in _shapes(one).items()} for one in fixed)
        return tuple(_ranges(*(_shapes(s) for s in ends)) for ends in zip(low, best, high, strict=True))


@dataclass(frozen=True)
class Request:
    """What was asked.

    Attributes:
        recipe: with the caller's overrides in it.
        target: the device.
        data: calibration data; ``None`` where there is none.
        insisted: inputs that the caller (not a recipe file) named, which must exist.
    """

    recipe: Recipe
    target: Target
    data: Data | None
    insisted: frozenset[str]

    @classmethod
    def resolve(
        cls,
        recipe: Recipe | str | Path | None,
        target: Target | str | Path | None,
        data: Data | None,
        shapes: Shapes,
        overrides: Mapping[str, Any],
    ) -> Request:
        """Joins a recipe and what overrides it.

        Args:
            recipe: itself, its name or file; the empty recipe if ``None``.
            target: itself, its name or file; the recipe's or ``cpu`` if ``None``.
            data: overrides the recipe's calibration data.
            shapes: override the recipe's shapes by input.
            overrides: recipe fields to replace; ``None`` leaves a field. Of ``build`` and ``freeze`` only what is
                named is replaced.

        Raises:
            RecipeError, TargetError, UsageError: what was asked does not exist or contradicts itself.
        """
        base = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe) if recipe is not None else Recipe()
        first, *more = shapes.sets() or ({},)
        changes = {name: value for name, value in overrides.items() if value is not None}
        freeze = {**base.freeze, **changes.pop("freeze", {})}
        build = changes.pop("build", {})
        merged = base.with_build(build).changed(**changes, freeze=freeze, shapes={**base.shapes, **first})
        if first:  # sets that were asked for replace the recipe's
            merged = merged.changed(more_shapes=more)
        chosen = target if isinstance(target, Target) else Target.load(target or merged.target or "cpu")
        _check_capabilities(merged.capabilities, chosen)
        _check_speed(merged, chosen)
        insisted = frozenset({*first, *(name for one in more for name in one), *(set(overrides.get("freeze") or {}))})
        return cls(merged, chosen, data if data is not None else merged.calibration.data, insisted)


def _check_capabilities(capabilities: tuple[str, ...], target: Target) -> None:
    if capabilities and target.engine != "ahead":
        raise UsageError(f"capabilities are for engines that are built ahead, not for {target.name}: leave them out")
    if capabilities and target.compute_capability not in capabilities:
        raise UsageError(
            f"capabilities {', '.join(capabilities)} lack {target.name}'s own, {target.compute_capability}: add it"
        )


def _check_speed(recipe: Recipe, target: Target) -> None:
    if recipe.min_speedup is None:
        return
    if recipe.precision != "auto":
        raise UsageError(f"--min-speedup is for --precision auto, not for {recipe.precision}: leave it out")
    if target.is_nvidia:
        raise UsageError(f"--min-speedup is measured, which {target.name} cannot be here: use --max-drop")


def _ranges(low: dict[str, Shape], best: dict[str, Shape], high: dict[str, Shape]) -> dict[str, ShapeRange]:
    if not low.keys() == best.keys() == high.keys():
        raise UsageError("--min-shapes, --opt-shapes and --max-shapes must name the same inputs")
    option = "--min-shapes, --opt-shapes, --max-shapes"
    return {name: _range(option, name, low[name], best[name], high[name]) for name in low}


def _several(value: AskedShapes) -> Sequence[OneShapes]:
    if not value:
        return ()
    return (value,) if isinstance(value, str | Mapping) else value


def _shapes(value: OneShapes) -> dict[str, Shape]:
    return parse_shapes(value) if isinstance(value, str) else {k: tuple(v) for k, v in value.items()}


def _range(option: str, name: str, low: Shape, best: Shape, high: Shape) -> ShapeRange:
    try:
        found = ShapeRange(min=low, opt=best, max=high)
    except ValidationError as error:
        why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise UsageError(f"{option}: {name}: {why}") from error
    try:
        found.check_empty(name)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
    return found
