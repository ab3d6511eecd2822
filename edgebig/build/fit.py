"""Fits ranges of sizes to what a graph computes at, by trying it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from edgebig.build.axes import Extent, Role, Sizes

Refusal = Callable[[Sizes], str]
"""Why the graph does not compute at these sizes; empty where it does."""

Group = tuple[str, ...]

TRIALS = 250
"""So many points are tried at most; the range stays within those that were found."""

_CANDIDATES: dict[Role, tuple[int, ...]] = {
    "batch": (1, 2, 4, 8),
    "sequence": (128, 64, 32, 16, 8, 1, 256, 512, 2, 4, 100, 384),
    "past": (0, 1, 16, 127),
    "sound": (16000, 8000, 4000, 512, 576, 1024, 32000, 48000, 160000, 480000),
    # small ones last: a single patch fits whatever it is added to
    "side": (224, 256, 384, 320, 512, 640, 448, 416, 480, 300, 768, 1024, 240, 192, 160, 128, 96, 64, 32, 28),
    "volume": (64, 96, 128, 32, 48, 16, 160, 192, 224, 8),
    "frames": (16, 8, 32, 4, 1, 64),
    "channels": (3, 1, 4),
    "other": (1, 2, 3, 4, 8, 16, 32, 64, 80, 100, 128, 224, 256, 512, 1024, 3000, 16000),
}
"""What models with a fixed size usually take."""

_STEPS = (*range(1, 17), 20, 24, 28, 32, 48, 64, 96, 128, 256)


class Fitter:
    """Moves the ends of ranges until the graph computes there.

    A builder checks a profile where every axis is smallest, where every axis is best and where every axis is largest;
    so does this, but for the batch, which is largest where the others are smallest: graphs that compute at two
    batches and at two lengths compute at both, and trying it would take a long time.
    """

    def __init__(
        self, roles: Mapping[str, Role], refusal: Refusal, fixed: Iterable[str] = (), trials: int = TRIALS
    ) -> None:
        """``fixed`` are axes whose range was asked for, and stays."""
        self._roles = roles
        self._ask = refusal
        self._fixed = frozenset(fixed)
        self._left = trials
        self._known: dict[tuple[int, ...], bool] = {}

    def fit(self, extents: Mapping[str, Extent], example: Sizes | None = None) -> dict[str, Extent] | None:
        """The widest ranges within ``extents`` that were found.

        Args:
            extents: a first guess for each axis; only where its best size fails may the result leave it.
            example: sizes at which the graph computes, where the source knows some.

        Returns:
            ``None`` where the graph computes at no point that was tried.
        """
        best = self.best(extents, example)
        if best is None:
            return None
        batch = {axis for axis, role in self._roles.items() if role == "batch"}
        low = self._corner(best, {axis: min(extent[0], best[axis]) for axis, extent in extents.items()})
        most = {axis: max(extent[2], best[axis]) for axis, extent in extents.items()}
        high = self._corner(best, {axis: best[axis] if axis in batch else size for axis, size in most.items()})
        # the batch goes from its best size at the others' smallest, so that the trial is quick
        small = {axis: best[axis] if axis in batch else size for axis, size in low.items()}
        base = small if self._computes(small) else best
        many = self._corner(base, {axis: most[axis] if axis in batch else size for axis, size in base.items()})
        return {axis: (low[axis], best[axis], (many if axis in batch else high)[axis]) for axis in extents}

    def _computes(self, sizes: Sizes) -> bool:
        """Whether the graph computes at these sizes; each point is tried once."""
        key = tuple(sizes[axis] for axis in self._roles)
        if key not in self._known:
            if self._left <= 0:
                return False
            self._left -= 1
            self._known[key] = not self._ask(sizes)
        return self._known[key]

    def best(self, extents: Mapping[str, Extent], example: Sizes | None = None) -> Sizes | None:
        """The sizes nearest to the guess at which the graph computes; ``None`` where there are none."""
        wanted = {axis: extent[1] for axis, extent in extents.items()}
        asked = {axis: size for axis, size in wanted.items() if axis in self._fixed}
        points = itertools.chain([wanted, {**wanted, **(example or {}), **asked}], self._near(wanted))
        return next((point for point in points if self._computes(point)), None)

    def _near(self, wanted: Sizes) -> Iterator[Sizes]:
        """Points that differ from the guess in one group of axes, in one that is a sum, in two groups, in one axis."""
        choices = [
            [dict.fromkeys(group, size) for size in _CANDIDATES[self._roles[group[0]]]]
            for group in self._groups(wanted, wanted)
            if group[0] not in self._fixed
        ]
        for options in choices:
            yield from ({**wanted, **option} for option in options)
        free = [axis for axis in self._roles if axis not in self._fixed]
        for axis in free:
            sums = {wanted[axis] + wanted[other] for other in self._roles if other != axis}
            yield from ({**wanted, axis: size} for size in sorted(sums))
        for first, second in itertools.combinations(choices, 2):
            yield from ({**wanted, **a, **b} for a, b in itertools.product(first, second))
        for axis in free:
            yield from ({**wanted, axis: size} for size in _CANDIDATES[self._roles[axis]])

    def _corner(self, start: Sizes, goal: Sizes) -> dict[str, int]:
        """The sizes nearest to ``goal`` at which the graph computes, from ``start``, where it does.

        Axes of one kind that have one range move together, else one after the other, at last two by two.
        """
        if self._computes(goal):
            return dict(goal)
        point = dict(start)
        for group in self._groups(start, goal):
            moved = self._furthest(point, group, goal)
            if moved == point:
                for axis in group if len(group) > 1 else ():
                    moved = self._furthest(moved, (axis,), goal)
            point = moved
        for pair in itertools.combinations(self._roles, 2):
            if all(point[axis] == start[axis] != goal[axis] for axis in pair):
                point = self._furthest(point, pair, goal)
        return point

    def _groups(self, start: Sizes, goal: Sizes) -> list[Group]:
        groups: dict[tuple[object, ...], list[str]] = {}
        for axis, role in self._roles.items():
            groups.setdefault((role, start[axis], goal[axis], axis in self._fixed), []).append(axis)
        return [tuple(group) for group in groups.values()]

    def _furthest(self, point: Sizes, group: Group, goal: Sizes) -> dict[str, int]:
        """The point with the group's axes moved as far to the goal as the graph computes, in equal steps."""
        there = {**point, **{axis: goal[axis] for axis in group}}
        if self._computes(there):
            return there
        ways = [goal[axis] - point[axis] for axis in group]
        if self._fixed & set(group) or not all(ways):
            return dict(point)

        def moved(by: int) -> dict[str, int]:
            return {**point, **{a: point[a] + (by if way > 0 else -by) for a, way in zip(group, ways, strict=True)}}

        most = min(map(abs, ways))
        step = next((s for s in _STEPS if s <= most and self._computes(moved(s))), 0)
        if not step:
            return dict(point)
        good, bad = 1, most // step + 1
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if self._computes(moved(step * middle)) else (good, middle)
        return moved(step * good)
