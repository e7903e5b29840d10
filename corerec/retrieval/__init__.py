"""The first stage: vectors, the index over them, the popular list, and the core that joins them."""

from corerec.retrieval.build import build_index, load_index, save_index
from corerec.retrieval.core import RetrievalCore
from corerec.retrieval.index import IndexConfig, ItemIndex
from corerec.retrieval.options import RetrievalOptions
from corerec.retrieval.popular import PopularList

__all__ = [
    "IndexConfig",
    "ItemIndex",
    "PopularList",
    "RetrievalCore",
    "RetrievalOptions",
    "build_index",
    "load_index",
    "save_index",
]
