"""Exact selection of the best scores of one row."""

from __future__ import annotations

import numpy as np

from corerec.stages import Float32s, Int64s

_SAMPLE = 4096


def near_best(scores: Float32s, k: int, margin: float) -> Int64s:
    """Return the rows whose score is at most `margin` below the k-th best, ascending.

    A sample of the scores gives a threshold that a little more than k should pass, so only those
    are looked at; when fewer pass, everything is. Either way the answer is exact. Rows at -inf are
    never among them.

    Shapes: scores (N,), returns (n,) int64. Needs 1 <= k <= N.
    """
    rows = _above_threshold(scores, k, margin)
    values = scores[rows]
    if len(rows) > k:
        least = np.partition(values, len(values) - k)[len(values) - k]
        if least > -np.inf:
            return np.extract(values >= least - margin, rows)
    return np.extract(values > -np.inf, rows)


def _above_threshold(scores: Float32s, k: int, margin: float) -> Int64s:
    """Return rows that surely hold the best k and all within the margin, or every row."""
    stride = len(scores) // _SAMPLE
    if stride > 1:
        sample = scores[::stride]
        # 40% more than k's share, and a few, so that the sample's noise seldom leaves too few.
        wanted = int(len(sample) * k / len(scores) * 1.4) + 8
        if wanted < len(sample):
            place = len(sample) - wanted
            least = np.partition(sample, place)[place]
            # At least k above it: then the k-th best is, and the margin is counted from there.
            rows = np.flatnonzero(scores >= least - margin)
            if np.count_nonzero(scores[rows] >= least) >= k:
                return rows
    return np.arange(len(scores), dtype=np.int64)
