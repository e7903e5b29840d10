"""AnnoyStore: a forest of Annoy over vectors that are kept, built at the first search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from corerec.errors import FailedPrecondition
from corerec.retrieval.stores.arrays import inside, prepared
from corerec.retrieval.stores.base import Mask, check_numbers, check_search
from corerec.retrieval.stores.flat import FlatStore
from corerec.retrieval.stores.spec import IndexSpec, Metric
from corerec.stages import Float32s, Int64s

_NARROW = 0.1
"""Filters that allow a smaller share than this are searched exactly: Annoy knows no filters."""
_NAMES = {"ip": "dot", "cosine": "angular", "l2": "euclidean"}


def annoy_class() -> Any:
    """Return Annoy's index. Raises FailedPrecondition that says what to install."""
    try:
        return import_module("annoy").AnnoyIndex
    except ImportError:
        raise FailedPrecondition(
            "backend 'annoy' needs the package annoy: run scripts/native, or pip install annoy "
            "(it is compiled, so a C++ compiler and Python's headers are needed)"
        ) from None


class AnnoyStore(FlatStore):
    """Approximate search of trees; what they find is scored by the vectors.

    The trees cannot change: the first search after an add or a remove builds them afresh.
    """

    def __init__(self, dim: int, metric: Metric, spec: IndexSpec) -> None:
        super().__init__(dim, metric, spec, backend="annoy")
        self._class = annoy_class()
        self._trees: Any = None
        self._by_number = np.empty(0, np.int64)

    def add(self, numbers: Int64s, vectors: Float32s) -> None:
        """Add items; see VectorStore."""
        super().add(numbers, vectors)
        self._trees = None

    def remove(self, numbers: Int64s) -> int:
        """Remove items and return how many were there."""
        removed = super().remove(numbers)
        if removed:
            self._trees = None
        return removed

    def search(
        self,
        queries: Float32s,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[Int64s] | None = None,
    ) -> tuple[Int64s, Float32s]:
        """Return the k best allowed items of each query; see VectorStore."""
        check_search(queries, k, allowed, excluded, self._dim)
        live = None
        count = len(self)
        if allowed is not None:
            live = inside(self._numbers[:count], allowed)
            count = int(np.count_nonzero(live))
        if count < max(_NARROW * len(self), 2 * k):
            return super().search(queries, k, allowed, excluded)
        queries = prepared(queries, self._metric)
        trees, rows = self._built(), self._rows()
        numbers = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for i, query in enumerate(queries):
            own = np.empty(0, np.int64)
            if excluded is not None:
                own = self._places.find(np.unique(check_numbers(excluded[i])))
                own = own[own >= 0]
            wanted = min(len(self), int((k + len(own)) * len(self) / count * 1.2))
            nodes = self._spec.search_nodes or 4 * self._spec.trees * wanted
            found = self._by_number[trees.get_nns_by_vector(query, wanted, nodes)]
            if live is not None:
                found = found[live[found]]
            found = found[~np.isin(found, own)]
            numbers[i : i + 1], scores[i : i + 1] = rows.choose(query[None], found[None], k)
            if len(found) < min(k, count - len(own)):
                some = [excluded[i]] if excluded is not None else None
                numbers[i : i + 1], scores[i : i + 1] = super().search(
                    queries[i : i + 1], k, allowed, some
                )
        return numbers, scores

    def tune(
        self,
        *,
        nprobe: int | None = None,
        ef_search: int | None = None,
        refine_factor: float | None = None,
        search_nodes: int | None = None,
    ) -> None:
        """Set how many nodes a search reads."""
        if search_nodes is not None:
            self._spec = replace(self._spec, search_nodes=search_nodes)

    def _built(self) -> Any:
        if self._trees is None:
            trees = self._class(self._dim, _NAMES[self._metric])
            trees.set_seed(self._spec.seed or 1)
            # By number, so that the order of adding does not change the trees.
            self._by_number = np.argsort(self._numbers[: self._count])
            for place, row in enumerate(self._by_number):
                trees.add_item(place, self._vectors[row])
            trees.build(self._spec.trees)
            self._trees = trees
        return self._trees
