"""Exact search of a matrix: one product chooses, then each pair is scored alone and ordered.

The bits of a matrix product depend on its shape. The chosen rows are therefore scored once more,
each pair by itself, so that a query has the same answer alone, in any batch and in any shard.
"""

# B queries, D width, n rows, K candidates

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import torch

from corerec.retrieval.scan import near_best
from corerec.retrieval.stores.arrays import squared_lengths
from corerec.retrieval.stores.spec import Metric
from corerec.stages import Float32s, Int64s

_faiss: Any = faiss
_LOW = np.int64(0xFFFFFFFF)
_SIGN = np.int32(0x7FFFFFFF)
_PRODUCT = 1 << 25
"""Most scores of one product, 128 MiB."""
_TIED = 4096
_ROUNDING = 2.0**-24


def score_rows(matrix: Float32s, queries: Float32s, rows: Int64s, metric: Metric) -> Float32s:
    """Return the score of each query with its own rows, a pair at a time.

    Shapes: matrix (n, D), queries (B, D), rows (B, K), -1 for none; returns (B, K), -inf for none.
    Cosine expects rows and queries of length 1.
    """
    scores = np.full(rows.shape, -np.inf, np.float32)
    if not rows.size or not len(matrix):
        return scores
    score = _faiss.fvec_L2sqr_by_idx if metric == "l2" else _faiss.fvec_inner_products_by_idx
    pointers = [faiss.swig_ptr(np.ascontiguousarray(part)) for part in (queries, matrix, rows)]
    score(faiss.swig_ptr(scores), *pointers, queries.shape[1], *rows.shape)
    if metric == "l2":
        np.negative(scores, out=scores)
    return scores


def order(numbers: Int64s, scores: Float32s, k: int) -> tuple[Int64s, Float32s]:
    """Return the k best of each row, best first, equal scores by the lower number.

    Shapes: numbers, scores (B, K), -1 and -inf for none; returns two (B, k), padded likewise.
    """
    width = numbers.shape[1]
    if numbers.size and numbers.max() >= _LOW:
        places = np.lexsort((numbers, -scores), axis=1)[:, :k]
        numbers = np.take_along_axis(numbers, places, 1)
        scores = np.take_along_axis(scores, places, 1)
    else:
        # Score and number in one integer: sorting those is several times faster than an argsort.
        bits = (scores + np.float32(0)).view(np.int32)
        bits = bits ^ ((bits >> 31) & _SIGN)  # as integers they are ordered as the floats
        keys = (~bits).astype(np.int64) << 32 | (numbers & _LOW)
        keys.sort(axis=1)
        keys = keys[:, :k]
        bits = ~(keys >> 32).astype(np.int32)
        scores = (bits ^ ((bits >> 31) & _SIGN)).view(np.float32)
        numbers = np.where(scores == -np.inf, -1, keys & _LOW)
    if width >= k:
        return numbers, scores
    # np.pad does the same in fifty microseconds.
    wide_numbers = np.full((len(numbers), k), -1, np.int64)
    wide_scores = np.full((len(numbers), k), -np.inf, np.float32)
    wide_numbers[:, :width], wide_scores[:, :width] = numbers, scores
    return wide_numbers, wide_scores


class Rows:
    """Rows of a matrix with their numbers, searched exactly."""

    def __init__(
        self,
        numbers: Int64s,
        matrix: Float32s,
        metric: Metric,
        *,
        squares: Float32s | None = None,
        longest: float | None = None,
    ) -> None:
        """Take numbers (n,) and matrix (n, D); squared lengths (n,) and the largest, if known."""
        self.numbers, self.matrix, self.metric = numbers, matrix, metric
        if metric == "l2" and squares is None:
            squares = squared_lengths(matrix)
        if longest is None:
            longest = float(squared_lengths(matrix).max()) if len(matrix) else 0.0
        self._squares, self._longest = squares, longest

    def search(
        self,
        queries: Float32s,
        k: int,
        blocked: Int64s | None = None,
        excluded: list[Int64s] | None = None,
    ) -> tuple[Int64s, Float32s]:
        """Return the k best rows of each query as numbers and scores, padded with -1 and -inf.

        Shapes: queries (B, D); blocked, rows that no query may find; excluded, rows a query.
        """
        if not len(self.numbers):
            scores = np.full((len(queries), k), -np.inf, np.float32)
            return np.full((len(queries), k), -1, np.int64), scores
        found = [
            near_best(line, min(k, len(line)), self.margin(queries[i]))
            for i, line in self._lines(queries, blocked, excluded)
        ]
        return self._finish(queries, k, found)

    def reaching(
        self,
        queries: Float32s,
        best: Float32s,
        blocked: Int64s | None = None,
        excluded: list[Int64s] | None = None,
    ) -> Iterator[Int64s]:
        """Yield for each query the rows that may belong to its k best beside those it has.

        Shapes: best (B, k), scores found elsewhere, best first, -inf for none; others, see
        `search`.
        """
        k = best.shape[1]
        lowest = float(np.finfo(np.float32).min)  # never a row at -inf
        for i, line in self._lines(queries, blocked, excluded):
            margin, floor = self.margin(queries[i]), float(best[i, -1])
            if self.metric == "l2":
                floor += float(queries[i] @ queries[i])  # which the product lacks
            rows = np.flatnonzero(line >= max(floor - margin, lowest))
            yield rows if len(rows) <= k else rows[near_best(line[rows], k, margin)]

    def _lines(
        self, queries: Float32s, blocked: Int64s | None, excluded: list[Int64s] | None
    ) -> Iterator[tuple[int, Float32s]]:
        """Yield each query's place and its scores (n,) as `_product` gives them, -inf where out."""
        step = max(1, _PRODUCT // max(1, len(self.numbers)))
        for start in range(0, len(queries), step):
            for i, line in enumerate(self._product(queries[start : start + step]), start):
                if blocked is not None:
                    line[blocked] = -np.inf
                if excluded is not None and len(excluded[i]):
                    line[excluded[i]] = -np.inf
                yield i, line

    def _finish(self, queries: Float32s, k: int, found: list[Int64s]) -> tuple[Int64s, Float32s]:
        """Return the k best of each query's own rows."""
        width = max((len(rows) for rows in found), default=0)
        if width > _TIED + 2 * k and len(found) > 1:  # many equal scores: no room for all at once
            each = [self._finish(queries[i : i + 1], k, [rows]) for i, rows in enumerate(found)]
            return np.vstack([own[0] for own in each]), np.vstack([own[1] for own in each])
        if len(found) == 1:
            return self.choose(queries, found[0][None], k)
        rows = np.full((len(found), width), -1, np.int64)
        for line, own in zip(rows, found, strict=True):
            line[: len(own)] = own
        return self.choose(queries, rows, k)

    def choose(self, queries: Float32s, rows: Int64s, k: int) -> tuple[Int64s, Float32s]:
        """Return the k best of each query's rows (B, K), -1 for none, as numbers and scores."""
        scores = score_rows(self.matrix, queries, rows, self.metric)
        numbers = np.where(rows < 0, -1, self.numbers[rows])
        return order(numbers, scores, k)

    def _product(self, queries: Float32s) -> Float32s:
        """Return scores (B, n) up to rounding, and for L2 up to the query's own length."""
        product: Float32s = (torch.from_numpy(queries) @ torch.from_numpy(self.matrix).T).numpy()
        if self._squares is not None:
            product *= 2
            product -= self._squares
        return product

    def margin(self, query: Float32s) -> float:
        """Return more than two products of one pair differ by, whatever the order of summing."""
        longest, own = self._longest, float(query @ query)
        length = (longest * own) ** 0.5
        if self.metric == "l2":
            length = 2 * length + longest + own
        return float(4 * _ROUNDING * max(8.0, len(query) ** 0.5) * length)
