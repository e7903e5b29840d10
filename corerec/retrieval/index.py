"""Top-k by inner product over a catalogue's vectors, with exclusions inside the search.

Small catalogues are scanned exactly; larger ones go through FAISS inverted lists, whose number of
probes is measured at build. It knows rows and numbers, neither users nor releases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import torch

from corerec.errors import FailedPrecondition, InvalidArgument
from corerec.retrieval.scan import best_allowed
from corerec.stages import Float32s, Int64s

_faiss: Any = faiss  # its stubs lack the keyword arguments of its parameters

Kind = Literal["flat", "ivf-flat", "ivf-sq8-refine"]


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How an index is built."""

    flat_below: int = 25_000
    """Catalogues with fewer items are scanned exactly."""
    sq8_from: int = 2_000_000
    """From so many items the lists hold 8-bit codes, and the best are scored again exactly."""
    target_recall: float = 0.96
    """Share of the exact top `recall_at` that the chosen number of probes must find, (0, 1]."""
    recall_at: int = 500
    """The k at which recall is measured."""
    refine_factor: float = 1.2
    """With 8-bit codes: so many times k candidates are scored again. >= 1."""


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """What an index says of itself; kept in a JSON file beside it."""

    kind: Kind
    dim: int
    count: int
    model_id: str
    """Id of the model whose vectors these are; a query of another model is refused."""
    nlist: int = 0
    nprobe: int = 0
    recall: float = 1.0
    """Measured at build against the exact answer on held-out queries."""
    recall_at: int = 500
    queries: int = 0
    """Number of queries that recall was measured on."""
    refine_factor: float = 1.0
    identity: bool = True
    """Whether row i is item number i; otherwise the numbers lie beside the index."""


class ItemIndex:
    """Answers top-k queries by inner product over (N, D) vectors of any length."""

    def __init__(self, index: Any, numbers: Int64s, info: IndexInfo) -> None:
        self.info = info
        self._index, self._numbers = index, numbers
        self._vectors = _flat_vectors(index, info) if info.kind == "flat" else None

    @property
    def count(self) -> int:
        """Number of items."""
        return self.info.count

    def search(
        self,
        queries: Float32s,
        k: int,
        excluded: Sequence[Int64s] | None = None,
        *,
        model_id: str | None = None,
    ) -> tuple[Int64s, Float32s]:
        """Return the k best allowed items of each query, best first.

        As many come back as exist: rows are padded with number -1 and score -inf beyond that.

        Shapes: queries (B, D); excluded, one array of item numbers a query, in any order, unknown
        ones ignored; returns numbers (B, k) int64 and scores (B, k) float32.

        Raises:
            InvalidArgument: for k < 1, a wrong dimension, a query with NaN or Inf.
            FailedPrecondition: when `model_id` is given and is not that of these vectors.
        """
        self._check(queries, k, excluded, model_id)
        rows = [self._rows(numbers) for numbers in excluded] if excluded is not None else None
        numbers = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        if not len(queries) or not self.count:
            return numbers, scores
        wanted = min(k, self.count)
        if self._vectors is not None:
            found, scores[:, :wanted] = self._scan(queries, wanted, rows)
        else:
            found, scores[:, :wanted] = self._probe(queries, wanted, rows)
        known = found >= 0
        numbers[:, :wanted] = np.where(known, self._numbers[found], -1)
        scores[:, :wanted][~known] = -np.inf
        return numbers, scores

    def _scan(
        self, queries: Float32s, k: int, excluded: list[Int64s] | None
    ) -> tuple[Int64s, Float32s]:
        # FAISS leaves BLAS as soon as it is given a selector; one product for the whole batch with
        # the excluded scores at -inf before the choice is the same answer three times faster.
        vectors = self._vectors
        assert vectors is not None
        product = (torch.from_numpy(queries) @ vectors.T).numpy()  # (B, N)
        rows = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for i, line in enumerate(product):
            out = excluded[i] if excluded is not None else None
            rows[i], scores[i] = best_allowed(line, k, out)
        return rows, scores

    def _probe(
        self, queries: Float32s, k: int, excluded: list[Int64s] | None
    ) -> tuple[Int64s, Float32s]:
        rows = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        free = [i for i in range(len(queries)) if excluded is None or not len(excluded[i])]
        if free:
            scores[free], rows[free] = self._ask(queries[free], k, None, self.info.nprobe)
        for i in set(range(len(queries))).difference(free):
            assert excluded is not None
            one = queries[i : i + 1]
            scores[i], rows[i] = self._ask(one, k, excluded[i], self.info.nprobe)
        # Few probed lists or many exclusions may leave a row short although allowed items exist.
        for i in np.flatnonzero((rows < 0).any(1)).tolist():
            out = excluded[i] if excluded is not None else np.empty(0, np.int64)
            if np.count_nonzero(rows[i] >= 0) < min(k, self.count - len(out)):
                scores[i], rows[i] = self._ask(queries[i : i + 1], k, out, self.info.nlist)
        return rows, scores

    def _ask(
        self, queries: Float32s, k: int, excluded: Int64s | None, nprobe: int
    ) -> tuple[Float32s, Int64s]:
        selector = None
        if excluded is not None and len(excluded):
            batch = faiss.IDSelectorBatch(excluded)
            selector = faiss.IDSelectorNot(batch)
        params = _faiss.SearchParametersIVF(sel=selector, nprobe=nprobe)
        if self.info.kind == "ivf-sq8-refine":
            params = _faiss.IndexRefineSearchParameters(
                k_factor=self.info.refine_factor, base_index_params=params
            )
        scores, rows = self._index.search(queries, k, params=params)
        return scores, rows

    def _rows(self, numbers: Int64s) -> Int64s:
        """Return the distinct rows of those numbers that this index holds."""
        if self.info.identity:
            inside = numbers[(numbers >= 0) & (numbers < self.count)]
        else:
            place = np.searchsorted(self._numbers, numbers)
            place[place == self.count] = 0
            inside = place[self._numbers[place] == numbers] if self.count else place[:0]
        return np.unique(inside).astype(np.int64)

    def _check(
        self,
        queries: Float32s,
        k: int,
        excluded: Sequence[Int64s] | None,
        model_id: str | None,
    ) -> None:
        if model_id is not None and model_id != self.info.model_id:
            raise FailedPrecondition(
                f"query and index must come from one model, got a query of {model_id!r} "
                f"for an index of {self.info.model_id!r}"
            )
        if k < 1:
            raise InvalidArgument(f"k must be at least 1, got {k}")
        if queries.ndim != 2 or queries.shape[1] != self.info.dim or queries.dtype != np.float32:
            raise InvalidArgument(
                f"queries must be float32 of shape (B, {self.info.dim}), "
                f"got {queries.dtype} {queries.shape}"
            )
        if excluded is not None and len(excluded) != len(queries):
            raise InvalidArgument(
                f"excluded must have one array a query, got {len(excluded)} for {len(queries)}"
            )
        # FAISS answers NaN with nothing and Inf with anything, neither with an error.
        bad = ~np.isfinite(queries).all(1)
        if bad.any():
            raise InvalidArgument(f"queries must be finite, row {int(bad.argmax())} is not")


def _flat_vectors(index: Any, info: IndexInfo) -> torch.Tensor:
    size = info.count * info.dim
    # A view on FAISS's own memory: the index object is kept alive beside it.
    memory = faiss.rev_swig_ptr(index.get_xb(), size) if size else np.empty(0, np.float32)
    return torch.from_numpy(memory.reshape(info.count, info.dim))


def info_as_json(info: IndexInfo) -> dict[str, Any]:
    """Return the header as JSON values."""
    return asdict(info)


def numbers_path(index: Path) -> Path:
    """Return where the item numbers of an index lie when its rows are not the numbers."""
    return index.with_suffix(".numbers.npy")
