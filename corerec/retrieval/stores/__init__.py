"""Vector stores: one interface over NumPy, FAISS and Annoy."""

from corerec.retrieval.stores.base import Bytes, VectorStore
from corerec.retrieval.stores.spec import Backend, IndexSpec, Kind, Metric

__all__ = ["Backend", "Bytes", "IndexSpec", "Kind", "Metric", "VectorStore"]
