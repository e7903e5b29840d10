"""The exact answer that all trials are compared with, computed once."""

# Q queries, N items, D width, K places

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from corerec.retrieval.stores import Metric
from corerec.retrieval.stores.arrays import unit
from corerec.stages import Float32s, Int64s

_faiss: Any = faiss
CHUNK = 1 << 18
"""Items that are compared at a time, so that a memory-map of any size does."""


def exact_best(vectors: Float32s, queries: Float32s, k: int, metric: Metric) -> Int64s:
    """Return the numbers of the exact best k of each query, (Q, min(k, N)), best first."""
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    sign = -1 if metric == "l2" else 1
    queries = np.ascontiguousarray(queries)
    scores = np.empty((len(queries), 0), np.float32)
    numbers = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), CHUNK):
        part = np.ascontiguousarray(vectors[start : start + CHUNK], np.float32)
        if metric == "cosine":
            part = unit(part)
        values, rows = _faiss.knn(queries, part, min(k, len(part)), metric=kind)
        scores = np.concatenate([scores, sign * values], axis=1)
        numbers = np.concatenate([numbers, rows + start], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, best, 1)
        numbers = np.take_along_axis(numbers, best, 1)
    return numbers


def recalls(found: Int64s, truth: Int64s) -> Float32s:
    """Return the share of each query's exact best that was found, (Q,).

    Shapes: found (Q, K) padded with -1, truth (Q, K).
    """
    out = np.empty(len(truth), np.float32)
    for row, (own, right) in enumerate(zip(found, truth, strict=True)):
        out[row] = np.isin(right, own, kind="sort").mean()
    return out
