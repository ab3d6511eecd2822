"""The search for the fastest plan whose loss stays within a budget."""

from edgebig.quantize.search.budget import Found, Loss, Option, Trial, search
from edgebig.quantize.search.cost import measured_gains, roofline_gains
from edgebig.quantize.search.groups import Group, group_layers

__all__ = ["Found", "Group", "Loss", "Option", "Trial", "group_layers", "measured_gains", "roofline_gains", "search"]
