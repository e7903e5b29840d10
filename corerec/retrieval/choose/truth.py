"""The exact answer that all trials are compared with, computed once."""

# Q queries, N items, D width, K places

from __future__ import annotations

import numpy as np
import torch

from corerec.retrieval.stores import Metric
from corerec.retrieval.stores.arrays import unit
from corerec.stages import Float32s, Int64s

CHUNK = 1 << 15
"""Items that are compared at a time, so that a memory-map of any size does."""
_QUERIES = 128
"""Queries that are compared with them at a time: 16 MiB of scores."""


def exact_best(vectors: Float32s, queries: Float32s, k: int, metric: Metric) -> Int64s:
    """Return the numbers of the exact best k of each query, (Q, min(k, N)), best first."""
    found = np.empty((len(queries), min(k, len(vectors))), np.int64)
    for start in range(0, len(queries), _QUERIES):
        some = _writable(queries[start : start + _QUERIES])
        found[start : start + _QUERIES] = _best(vectors, torch.from_numpy(some), k, metric)
    return found


def _best(vectors: Float32s, queries: torch.Tensor, k: int, metric: Metric) -> Int64s:
    """Return what `exact_best` does, of a few queries."""
    scores = torch.empty((len(queries), 0))
    numbers = torch.empty((len(queries), 0), dtype=torch.int64)
    for start in range(0, len(vectors), CHUNK):
        part = _writable(vectors[start : start + CHUNK])
        if metric == "cosine":
            part = unit(part)
        own = torch.from_numpy(part)
        product = queries @ own.T  # (Q, n)
        if metric == "l2":
            product = 2 * product - own.square().sum(1)  # the query's own length changes no order
        # Few of a later chunk reach what a query has already: only those are looked at again.
        if scores.shape[1] < k:
            values, rows = product.topk(min(k, len(part)), dim=1)
        else:
            values, rows = _above(product, scores[:, -1])
        scores = torch.cat([scores, values], dim=1)
        numbers = torch.cat([numbers, rows + start], dim=1)
        scores, order = scores.topk(min(k, scores.shape[1]), dim=1)
        numbers = numbers.gather(1, order)
    return numbers.numpy()


def _writable(rows: Float32s) -> Float32s:
    """Return rows as torch wants them: in order, and a copy where a file is mapped to be read."""
    return np.require(rows, np.float32, ["C", "W"])


def _above(scores: torch.Tensor, least: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores (Q, n) above a query's least (Q,) and their columns, padded with -inf."""
    rows, columns = torch.nonzero(scores > least[:, None], as_tuple=True)  # by row
    counts = torch.bincount(rows, minlength=len(scores))
    places = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    values = torch.full((len(scores), int(counts.max()) if len(counts) else 0), -torch.inf)
    found = torch.zeros(values.shape, dtype=torch.int64)
    values[rows, places], found[rows, places] = scores[rows, columns], columns
    return values, found


def recalls(found: Int64s, truth: Int64s) -> Float32s:
    """Return the share of each query's exact best that was found, (Q,).

    Shapes: found (Q, K) padded with -1, truth (Q, K).
    """
    out = np.empty(len(truth), np.float32)
    for row, (own, right) in enumerate(zip(found, truth, strict=True)):
        out[row] = np.isin(right, own, kind="sort").mean()
    return out
