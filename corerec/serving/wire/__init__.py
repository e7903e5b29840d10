"""Turns stage entries and results into protos and back, checking every column on the way in.

The same functions serve both ends of a wire: a servicer reads what a stage client wrote. One module
a service.
"""

from corerec.serving.wire.catalogue import (
    catalogue_item_from_proto,
    catalogue_item_to_proto,
    change_to_proto,
)
from corerec.serving.wire.common import (
    MAX_PREDICATES,
    candidates_from_proto,
    candidates_to_proto,
    predicates_from_proto,
    predicates_to_proto,
    timings_to_proto,
)
from corerec.serving.wire.rerank import item_to_proto, items_to_proto

__all__ = [
    "MAX_PREDICATES",
    "candidates_from_proto",
    "candidates_to_proto",
    "catalogue_item_from_proto",
    "catalogue_item_to_proto",
    "change_to_proto",
    "item_to_proto",
    "items_to_proto",
    "predicates_from_proto",
    "predicates_to_proto",
    "timings_to_proto",
]
