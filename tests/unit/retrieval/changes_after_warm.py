"""Prints what is compiled once a live index is warm, and after changes of every kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from numba.core.dispatcher import Dispatcher

from corerec.retrieval.live_index import LiveIndex
from corerec.retrieval.stores import IndexSpec, create_index
from corerec.retrieval.stores.base import VectorStore

DIM = 16


def compiled() -> Iterator[str]:
    """Each compiled function of retrieval with each of its signatures."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith("corerec.retrieval"):
            for own in vars(module).values():
                if isinstance(own, Dispatcher) and own.py_func.__module__ == name:
                    for signature in own.signatures:
                        yield f"{name}.{own.__name__}:{signature}".replace(" ", "")


def stores(vectors: np.ndarray) -> Iterator[VectorStore]:
    """A store of each kind that a release of the default configuration has."""
    yield create_index("numpy", dim=DIM)
    yield create_index("faiss", dim=DIM, spec=IndexSpec(kind="ivf-int8-refine", nlist=8))


rng = np.random.default_rng(0)
fresh = rng.normal(size=(1000, DIM)).astype(np.float32)
indexes = []
for store in stores(fresh):
    store.add(np.arange(500), fresh[:500])
    store.search(fresh[:1], 10, None, [np.zeros(1, np.int64)])
    indexes.append(LiveIndex(store))
for index in indexes:
    index.warm()
sys.stdout.write(" ".join(compiled()) + "\n")
for index in indexes:
    index.upsert(np.arange(500, 1000), fresh[500:])
    while index.maintain():
        index.search(fresh[:1], 10, None, [np.arange(3)])
    index.upsert(np.arange(490, 510), fresh[:20])
    index.search(fresh[:2], 10, None, [np.arange(3), np.arange(0)])
    index.remove(np.arange(700))
    index.settle()
sys.stdout.write(" ".join(compiled()) + "\n")
