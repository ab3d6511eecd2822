"""Makes the largest sizes of a range smaller until they fit a device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from edgebig.build.axes import Extent, Role, Sizes

Fits = Callable[[Sizes], bool]
"""Whether the graph fits the device at these sizes."""

_ORDER: tuple[tuple[Role, ...], ...] = (
    ("batch",),
    ("sequence", "past", "sound", "side", "volume", "frames", "other", "channels"),
)
"""What is given up first: rows can be computed one after the other, a longer text or a larger picture cannot."""


def fit_to_room(
    roles: Mapping[str, Role], extents: Mapping[str, Extent], fixed: Collection[str], fits: Fits
) -> dict[str, Extent]:
    """The ranges with their largest sizes halved until they fit; best sizes are kept.

    Batches go down first, then the other axes that were not asked for, together, each to its best size at the least.
    What does not fit even then is left at the best sizes.

    Args:
        roles: of the axes.
        extents: their ranges.
        fixed: axes whose range was asked for, which stays.
        fits: is asked at the largest sizes only.
    """
    found = dict(extents)
    for group in _ORDER:
        axes = [axis for axis, role in roles.items() if role in group and axis not in fixed]
        while not fits({axis: extent[2] for axis, extent in found.items()}):
            smaller = {axis: _halved(found[axis]) for axis in axes}
            if all(found[axis] == extent for axis, extent in smaller.items()):
                break
            found.update(smaller)
    return found


def _halved(extent: Extent) -> Extent:
    low, best, most = extent
    half = most // 2
    # lengths of a cache are one less than a power of two
    return low, best, max(best, half if half < 64 or most % 2 == 0 else (most + 1) // 2 - 1)
