"""Labelled samples + a runnable model -> a score, its confidence interval, and what was lost against another."""

from edgebig.evaluate.catalog import METRICS, choose_metric
from edgebig.evaluate.item import Array, Item, Outputs
from edgebig.evaluate.label_files import Labels, read_labels
from edgebig.evaluate.labels import ClassNames, typed_label
from edgebig.evaluate.metric import Metric
from edgebig.evaluate.score import Drop, Interval, Score, compare_scores, evaluate

__all__ = [
    "METRICS",
    "Array",
    "ClassNames",
    "Drop",
    "Interval",
    "Item",
    "Labels",
    "Metric",
    "Outputs",
    "Score",
    "choose_metric",
    "compare_scores",
    "evaluate",
    "read_labels",
    "typed_label",
]
