"""The first stage: vectors, the index over them, the popular list, and the core that joins them."""

from corerec.retrieval.build import build_index, load_index, save_index
from corerec.retrieval.core import RetrievalCore
from corerec.retrieval.index import IndexConfig, ItemIndex
from corerec.retrieval.live_index import LiveIndex
from corerec.retrieval.options import RetrievalOptions
from corerec.retrieval.popular import PopularList
from corerec.retrieval.stores import IndexSpec, VectorStore, create_index, load_store

__all__ = [
    "IndexConfig",
    "IndexSpec",
    "ItemIndex",
    "LiveIndex",
    "PopularList",
    "RetrievalCore",
    "RetrievalOptions",
    "VectorStore",
    "build_index",
    "create_index",
    "load_index",
    "load_store",
    "save_index",
]
