"""Which values a run hands out at once, so that they fit a budget of memory."""

from __future__ import annotations

from collections.abc import Mapping


def in_groups(sizes: Mapping[str, int], memory: int) -> list[list[str]]:
    """The tensors in groups that fit, one run each; one group, perhaps empty, at least.

    Args:
        sizes: bytes of each tensor, in order.
        memory: bytes that a group may have, unless a single tensor is larger.
    """
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if groups[-1] and used + size > memory:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups
