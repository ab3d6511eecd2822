"""Phases of text generation: one graph computes a prompt (prefill) and then token after token (decode).

Each phase gets an optimization profile of its own, since an engine is tuned for one shape of each profile: a prompt is
long and its cache empty, a step is one token long and its cache full.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from edgebig.build.axes import Extent, Layout, axis_name

Phase = Literal["", "prefill", "decode"]

_TOKENS = ("input_ids", "inputs_embeds")
"""How the names of a decoder's own tokens end: ``decoder_input_ids`` too."""


@dataclass(frozen=True)
class Ranges:
    """The ranges of a graph's axes in one phase.

    Attributes:
        phase: which; empty where the graph generates nothing, or all ranges were asked for.
        extents: smallest, best and largest size of each axis.
        fixed: the axis whose range makes the phase, and stays.
    """

    phase: Phase
    extents: dict[str, Extent]
    fixed: frozenset[str] = frozenset()


def phases_of(
    layout: Layout, extents: Mapping[str, Extent], asked: Collection[str], positions: int | None = None
) -> list[Ranges]:
    """The phases that a graph serves, with the ranges of its axes in each.

    - Without a cache among its inputs: all of the text at once. One set, as it is.
    - With an encoder's values in the cache (Optimum's ``decoder_with_past``), which another graph has computed together
      with the first tokens: decode alone, with a cache that is never empty.
    - With a cache and a fixed number of tokens: the same, but the cache may be empty.
    - With a cache and any number of tokens: prefill, with a cache that is empty or as long as the positions leave room
      for beside the longest prompt, and decode, with one token and any cache.

    Args:
        layout: the graph's axes.
        extents: their ranges.
        asked: axes whose range was asked for. A range of the cache, or of several tokens at the least, is one set.
        positions: the largest number of tokens, cache and new ones together, where it is known.
    """
    past = [axis for axis, role in layout.roles.items() if role == "past"]
    if not past:
        return [Ranges("", dict(extents))]
    tokens = _tokens(layout)
    if set(past) & set(asked) or (tokens is not None and tokens in asked and extents[tokens][0] > 1):
        return [Ranges("", dict(extents))]
    continues = any("past" in name and ".encoder." in name for name in layout.names)
    if tokens is None and not continues:
        return [Ranges("decode", dict(extents))]
    full = {**extents, **{axis: _from(1, extents[axis]) for axis in past}}
    if tokens is not None and not (continues and tokens in asked):
        full[tokens] = (1, 1, 1)
    decode = Ranges("decode", full, frozenset() if tokens is None else frozenset({tokens}))
    if tokens is None or continues:
        return [decode]
    longest = extents[tokens][2]
    empty = dict(extents)
    for axis in past:
        low, _, most = extents[axis]
        room = most if positions is None else min(most, max(positions - longest, low))
        empty[axis] = (low, low, room)
    return [Ranges("prefill", empty), decode]


def _tokens(layout: Layout) -> str | None:
    """The axis that counts a decoder's new tokens; ``None`` where their number is fixed."""
    for spec in layout.inputs:
        if spec.name.lower().endswith(_TOKENS) and len(spec.shape) > 1 and not isinstance(spec.shape[1], int):
            axis = axis_name(spec, 1)
            return axis if layout.roles.get(axis) == "sequence" else None
    return None


def _from(least: int, extent: Extent) -> Extent:
    low, best, most = extent
    low = max(low, min(least, most))
    return low, max(low, best), most
