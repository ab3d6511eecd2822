"""The searches: for the fastest plan within a loss, and for the most accurate one that is fast enough."""

from edgebig.quantize.search.budget import Found, Loss, Option, Trial, search
from edgebig.quantize.search.cost import measured_gains, roofline_gains
from edgebig.quantize.search.groups import Group, group_layers
from edgebig.quantize.search.speed import Added, Speed, search_by_speed

__all__ = [
    "Added",
    "Found",
    "Group",
    "Loss",
    "Option",
    "Speed",
    "Trial",
    "group_layers",
    "measured_gains",
    "roofline_gains",
    "search",
    "search_by_speed",
]
