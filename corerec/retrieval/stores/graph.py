"""GraphStore: FAISS's HNSW graph, with removals and filters; what it cannot reach is scanned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from corerec.retrieval.stores.arrays import grown, inside, positions, prepared, unit
from corerec.retrieval.stores.base import (
    Bytes,
    Mask,
    check_numbers,
    check_search,
    check_vectors,
    refuse_known,
)
from corerec.retrieval.stores.described import Described
from corerec.retrieval.stores.exact import Rows, order, score_rows
from corerec.retrieval.stores.files import (
    describe,
    numbers_path,
    read_array,
    read_faiss,
    write_header,
)
from corerec.retrieval.stores.places import Places
from corerec.retrieval.stores.probing import faiss_metric
from corerec.retrieval.stores.spec import Backend, IndexSpec, Metric
from corerec.stages import Float32s, Int64s

_faiss: Any = faiss
_NARROW = 0.1
"""Filters that allow a smaller share are searched exactly; a graph would walk past the rest."""

_MORE = 1.2
"""So many times what a filter should leave k of is walked to."""


class GraphStore(Described):
    """Approximate search along a graph of neighbours. A removed item stays a node that is never
    found, so a store that changes much is built afresh now and then."""

    backend: Backend = "faiss"

    def __init__(self, dim: int, metric: Metric, spec: IndexSpec) -> None:
        super().__init__(dim, metric, spec)
        self._index: Any = _faiss.IndexHNSWFlat(dim, spec.m, faiss_metric(metric))
        self._index.hnsw.efConstruction = spec.ef_construction
        self._places = Places()
        self._numbers, self._alive = np.empty(0, np.int64), np.empty(0, np.bool_)

    def __len__(self) -> int:
        return len(self._places)

    def held(self) -> Bytes:
        """Return the memory held by its use."""
        graph = self._index.hnsw.neighbors.size() * 4 + self._index.ntotal * 8
        own = self._numbers.nbytes + self._alive.nbytes + self._places.nbytes
        return Bytes(index=graph + own, vectors=self._index.ntotal * self._dim * 4)

    def numbers(self) -> Int64s:
        """Return the numbers held, ascending."""
        return self._places.numbers()

    def holds(self, numbers: Int64s) -> Mask:
        """Return which of the numbers (n,) are held."""
        return self._places.find(numbers) >= 0

    @property
    def dead(self) -> int:
        """Entries of removed items that are still in the way of a search."""
        return int(self._index.ntotal) - len(self)

    def vectors(self, numbers: Int64s) -> Float32s:
        """Return the vectors (n, D) of numbers held; with cosine they have length 1."""
        found: Float32s = self._matrix()[self._places.find(numbers)]
        return found

    def train(self, sample: Float32s, count: int | None = None) -> None:
        """Learn nothing."""

    def add(self, numbers: Int64s, vectors: Float32s) -> None:
        """Add items; see VectorStore."""
        numbers, vectors = check_vectors(numbers, vectors, self._dim)
        refuse_known(self._places, numbers)
        start = self._index.ntotal
        end = start + len(numbers)
        self._index.add(unit(vectors) if self._metric == "cosine" else vectors)
        self._numbers = grown(self._numbers, end, start)
        self._alive = grown(self._alive, end, start)
        self._numbers[start:end], self._alive[start:end] = numbers, True
        self._places.put(numbers, np.arange(start, end))

    def remove(self, numbers: Int64s) -> int:
        """Remove items and return how many were there."""
        numbers = np.unique(check_numbers(numbers))
        rows = self._places.find(numbers)
        self._alive[rows[rows >= 0]] = False
        self._places.drop(numbers[rows >= 0])
        return int((rows >= 0).sum())

    def search(
        self,
        queries: Float32s,
        k: int,
        allowed: Mask | None = None,
        excluded: Sequence[Int64s] | None = None,
    ) -> tuple[Int64s, Float32s]:
        """Return the k best allowed items of each query; see VectorStore."""
        check_search(queries, k, allowed, excluded, self._dim)
        queries = prepared(queries, self._metric)
        total = self._index.ntotal
        live = self._alive[:total]
        if allowed is not None:
            live = live & inside(self._numbers[:total], allowed)
        count = int(np.count_nonzero(live))
        if count < max(_NARROW * total, 2 * k):
            return self._scan(queries, k, live, excluded)
        out = [self._places.find(np.unique(check_numbers(own))) for own in excluded or ()]
        found = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        room = np.array([len(own[own >= 0]) for own in out] or [0] * len(queries))
        for extra in np.unique(room).tolist():
            some = np.flatnonzero(room == extra)
            wanted = k + extra if count == total else int(_MORE * (k + extra) * total / count)
            breadth = math.ceil(self._spec.ef_search * wanted / k)
            rows = self._walk(queries[some], min(wanted, total), breadth)
            rows[(rows >= 0) & ~live[rows]] = -1
            for line, i in zip(rows, some.tolist(), strict=True):
                if extra:
                    line[np.isin(line, out[i])] = -1
            values = score_rows(self._matrix(), queries[some], rows, self._metric)
            numbers = np.where(rows >= 0, self._numbers[rows], -1)
            found[some], scores[some] = order(numbers, values, k)
        # A graph may not lead to k items although so many are allowed.
        for i in np.flatnonzero((found >= 0).sum(1) < np.minimum(k, count - room)).tolist():
            own = [excluded[i]] if excluded is not None else None
            found[i : i + 1], scores[i : i + 1] = self._scan(queries[i : i + 1], k, live, own)
        return found, scores

    def tune(
        self,
        *,
        nprobe: int | None = None,
        ef_search: int | None = None,
        refine_factor: float | None = None,
        search_nodes: int | None = None,
    ) -> None:
        """Set how many candidates a search keeps."""
        if ef_search is not None:
            self._spec = replace(self._spec, ef_search=ef_search)

    def write(self, path: Path, *, with_vectors: bool = True) -> dict[str, Any]:
        """Write the graph and return what a header says of it."""
        faiss.write_index(self._index, str(path))
        numbers = np.where(self._alive, self._numbers, -1)[: self._index.ntotal]
        np.save(numbers_path(path), numbers, allow_pickle=False)
        return describe(self) | {"count": self._index.ntotal}

    def read(self, path: Path, header: dict[str, Any]) -> None:
        """Fill an empty store with what `write` wrote."""
        count = int(header["count"])
        self._index = read_faiss(path, self._dim, count)
        self._numbers = read_array(numbers_path(path), (count,), np.int64)
        self._alive = self._numbers >= 0
        rows = np.flatnonzero(self._alive)
        self._places.put(self._numbers[rows], rows)

    def save(self, path: Path) -> None:
        """Write the store to a file and files beside it."""
        write_header(path, self.write(path))

    def _walk(self, queries: Float32s, k: int, breadth: int) -> Int64s:
        """Return the rows (B, k) that the graph leads to, best first, -1 for none."""
        # Of so many the allowed ones are taken. A selector inside the walk would be cheaper, but
        # where a query is far from what is allowed it ends before it has come there.
        params = _faiss.SearchParametersHNSW(efSearch=max(breadth, k))
        found: Int64s = self._index.search(queries, k, params=params)[1]
        return found

    def _scan(
        self, queries: Float32s, k: int, live: Mask, excluded: Sequence[Int64s] | None
    ) -> tuple[Int64s, Float32s]:
        rows = np.flatnonzero(live)
        part = Rows(self._numbers[rows], self._matrix()[rows], self._metric)
        return part.search(queries, k, None, positions(part.numbers, excluded))

    def _matrix(self) -> Float32s:
        """Return a view (n, D) on FAISS's own memory."""
        if not self._index.ntotal:
            return np.empty((0, self._dim), np.float32)
        storage = _faiss.downcast_index(self._index.storage)
        memory = _faiss.rev_swig_ptr(storage.get_xb(), self._index.ntotal * self._dim)
        view: Float32s = memory.reshape(-1, self._dim)
        return view
