"""Chooses an index by measuring recall, latency and bytes on real queries of the catalogue."""

from corerec.retrieval.choose.chooser import Choice, choose_index
from corerec.retrieval.choose.frontier import cheapest, frontier, nearest
from corerec.retrieval.choose.plans import Plan, plans_for, predicted_bytes
from corerec.retrieval.choose.size import format_size, parse_size
from corerec.retrieval.choose.target import Target
from corerec.retrieval.choose.trial import Trial

__all__ = [
    "Choice",
    "Plan",
    "Target",
    "Trial",
    "cheapest",
    "choose_index",
    "format_size",
    "frontier",
    "nearest",
    "parse_size",
    "plans_for",
    "predicted_bytes",
]
