"""Vector stores: one interface over NumPy, FAISS and Annoy."""

from corerec.retrieval.stores.base import Bytes, Mask, VectorStore
from corerec.retrieval.stores.create import create_index, load_store
from corerec.retrieval.stores.spec import Backend, IndexSpec, Kind, Metric

__all__ = [
    "Backend",
    "Bytes",
    "IndexSpec",
    "Kind",
    "Mask",
    "Metric",
    "VectorStore",
    "create_index",
    "load_store",
]
