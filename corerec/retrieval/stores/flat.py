"""FlatStore: every vector is compared, by one matrix product or by FAISS's own scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from corerec.retrieval.stores.arrays import (
    grown,
    inside,
    positions,
    prepared,
    squared_lengths,
    unit,
)
from corerec.retrieval.stores.base import (
    Bytes,
    Mask,
    check_numbers,
    check_search,
    check_vectors,
    refuse_known,
)
from corerec.retrieval.stores.described import Described
from corerec.retrieval.stores.exact import Rows
from corerec.retrieval.stores.files import (
    describe,
    read_faiss,
    read_numbers,
    write_header,
    write_numbers,
)
from corerec.retrieval.stores.places import Places
from corerec.retrieval.stores.spec import Backend, IndexSpec, Metric
from corerec.stages import Float32s, Int64s

_SLACK = 8
"""Results that FAISS is asked for beyond k, so that near ties at the end are seen."""


class FlatStore(Described):
    """Exact search over vectors held in one matrix."""

    def __init__(
        self,
        dim: int,
        metric: Metric = "ip",
        spec: IndexSpec | None = None,
        *,
        backend: Backend = "numpy",
    ) -> None:
        super().__init__(dim, metric, spec or IndexSpec())
        self.backend = backend
        self._places = Places()
        self._count, self._longest = 0, 0.0
        self._numbers = np.empty(0, np.int64)
        self._vectors = np.empty((0, dim), np.float32)
        self._squares = np.empty(0, np.float32)

    def __len__(self) -> int:
        return self._count

    def held(self) -> Bytes:
        """Return the memory held by its use."""
        each = 8 + 4 * (self._metric == "l2")
        index = self._count * each + self._places.nbytes
        return Bytes(index=index, vectors=self._count * self._dim * 4)

    def numbers(self) -> Int64s:
        """Return the numbers held, ascending."""
        return np.sort(self._numbers[: self._count])

    def holds(self, numbers: Int64s) -> Mask:
        """Return which of the numbers (n,) are held."""
        return self._places.find(numbers) >= 0

    @property
    def dead(self) -> int:
        """Entries of removed items that are still in the way of a search."""
        return 0

    def vectors(self, numbers: Int64s) -> Float32s:
        """Return the vectors (n, D) of numbers held; with cosine they have length 1."""
        found: Float32s = self._vectors[self._places.find(numbers)]
        return found

    def train(self, sample: Float32s, count: int | None = None) -> None:
        """Learn nothing."""

    def add(self, numbers: Int64s, vectors: Float32s) -> None:
        """Add items; see VectorStore."""
        numbers, vectors = check_vectors(numbers, vectors, self._dim)
        refuse_known(self._places, numbers)
        if self._metric == "cosine":
            vectors = unit(vectors)
        start, self._count = self._count, self._count + len(numbers)
        self._numbers = grown(self._numbers, self._count, start)
        self._vectors = grown(self._vectors, self._count, start)
        self._numbers[start : self._count] = numbers
        self._vectors[start : self._count] = vectors
        squares = squared_lengths(vectors)
        self._longest = max(self._longest, float(squares.max(initial=0)))
        if self._metric == "l2":
            self._squares = grown(self._squares, self._count, start)
            self._squares[start : self._count] = squares
        self._places.put(numbers, np.arange(start, self._count))

    def remove(self, numbers: Int64s) -> int:
        """Remove items and return how many were there."""
        numbers = np.unique(check_numbers(numbers))
        rows = self._places.find(numbers)
        numbers, rows = numbers[rows >= 0], rows[rows >= 0]
        self._places.drop(numbers)
        left = self._count - len(rows)
        # The last rows fill the gaps, so the matrix stays whole.
        gaps = rows[rows < left]
        last = np.setdiff1d(np.arange(left, self._count), rows)
        self._numbers[gaps], self._vectors[gaps] = self._numbers[last], self._vectors[last]
        if self._metric == "l2":
            self._squares[gaps] = self._squares[last]
        self._places.put(self._numbers[gaps], gaps)
        self._count = left
        return len(rows)

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
        blocked = None
        if allowed is not None:
            known = inside(self._numbers[: self._count], allowed)
            if 2 * np.count_nonzero(known) < self._count:
                some = np.flatnonzero(known)
                return self._search_some(queries, k, some, excluded)
            blocked = np.flatnonzero(~known)
        rows = None
        if excluded is not None:
            rows = [self._places.find(np.asarray(own, np.int64)) for own in excluded]
            rows = [own[own >= 0] for own in rows]
        if self.backend == "faiss" and blocked is None and self._count:
            return self._search_faiss(queries, k, rows)
        return self._rows().search(queries, k, blocked, rows)

    def tune(
        self,
        *,
        nprobe: int | None = None,
        ef_search: int | None = None,
        refine_factor: float | None = None,
        search_nodes: int | None = None,
    ) -> None:
        """Change nothing: the search has no parameters."""

    def write(self, path: Path, *, with_vectors: bool = True) -> dict[str, Any]:
        """Write the vectors and return what a header says of them."""
        ascending = np.argsort(self._numbers[: self._count])
        index = faiss.IndexFlat(
            self._dim, faiss.METRIC_L2 if self._metric == "l2" else faiss.METRIC_INNER_PRODUCT
        )
        index.add(self._vectors[: self._count][ascending])
        faiss.write_index(index, str(path))
        return describe(self) | write_numbers(path, self._numbers[ascending])

    def read(self, path: Path, header: dict[str, Any]) -> None:
        """Fill an empty store with what `write` wrote."""
        index = read_faiss(path, self._dim, int(header["count"]))
        numbers = read_numbers(path, header)
        memory = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * self._dim)
        self.add(numbers, np.array(memory).reshape(-1, self._dim))

    def save(self, path: Path) -> None:
        """Write the store to a file and files beside it."""
        write_header(path, self.write(path))

    def _rows(self) -> Rows:
        n = self._count
        squares = self._squares[:n] if self._metric == "l2" else None
        return Rows(
            self._numbers[:n],
            self._vectors[:n],
            self._metric,
            squares=squares,
            longest=self._longest,
        )

    def _search_some(
        self, queries: Float32s, k: int, rows: Int64s, excluded: Sequence[Int64s] | None
    ) -> tuple[Int64s, Float32s]:
        part = Rows(
            self._numbers[rows],
            self._vectors[rows],
            self._metric,
            squares=self._squares[rows] if self._metric == "l2" else None,
            longest=self._longest,
        )
        return part.search(queries, k, None, positions(part.numbers, excluded))

    def _search_faiss(
        self, queries: Float32s, k: int, excluded: list[Int64s] | None
    ) -> tuple[Int64s, Float32s]:
        rows = self._rows()
        most = max((len(own) for own in excluded), default=0) if excluded is not None else 0
        wanted = min(k + most + _SLACK, self._count)
        kind = faiss.METRIC_L2 if self._metric == "l2" else faiss.METRIC_INNER_PRODUCT
        values, found = faiss.knn(queries, rows.matrix, wanted, metric=kind)
        if excluded is not None:
            for line, own in zip(found, excluded, strict=True):
                line[np.isin(line, own)] = -1
        numbers, scores = rows.choose(queries, found, k)
        if wanted == self._count:
            return numbers, scores
        last = -values[:, -1] if self._metric == "l2" else values[:, -1]
        for i, query in enumerate(queries):
            # Equal scores may go on beyond what was asked for: then all of them are looked at.
            if scores[i, -1] - rows.margin(query) <= last[i]:
                out = [excluded[i]] if excluded is not None else None
                numbers[i : i + 1], scores[i : i + 1] = rows.search(query[None], k, None, out)
        return numbers, scores
