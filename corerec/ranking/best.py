"""The best candidates of a request, equal scores in the order in which retrieval had them.

Compiled, for a CPU. A score and its place become one integer, so that any sort keeps the order of
equal scores and NumPy's fastest can be used.
"""

# B requests, n candidates, k kept

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corerec.engines.compiled import compiled_exactly

_LAST = np.int64(np.iinfo(np.int64).max)
_PLACE = np.int64(0xFFFFFFFF)
_PARTITION = 4
"""A list this many times as long as what is wanted of it is cut before it is sorted."""


def best(
    scores: NDArray[np.float32],
    counts: NDArray[np.int64],
    k: int,
    calibration: tuple[float, float] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return places and scores of the best, best first; place -1 where a score is not finite.

    With a scale and a bias, logits are given and their probabilities are returned. Shapes: scores
    (B, n), of which each request has its own count (B,); results (B, min(k, n)).
    """
    cases, count = scores.shape
    kept = min(k, count)
    keys: NDArray[np.int64] = np.empty((cases, count), np.int64)
    _rank_keys(scores, counts, keys)
    if k * _PARTITION <= count:
        keys.partition(k - 1, axis=1)
        keys = keys[:, :k].copy()
    keys.sort(axis=1)
    places = np.empty((cases, kept), np.int64)
    values = np.empty((cases, kept), np.float32)
    scale, bias = calibration or (0.0, 0.0)
    _read_keys(keys, scores, scale, bias, places, values)
    return places, values


@compiled_exactly
def _rank_keys(scores: Any, counts: Any, keys: Any) -> None:
    """Write keys (B, n) that ascend where scores descend."""
    for b in range(len(scores)):
        own = (scores[b] + np.float32(0)).view(np.int32)  # -0 becomes 0, which it equals
        for i in range(counts[b]):
            if np.isfinite(scores[b, i]):
                bits = np.int64(own[i])
                # As integers, floats below zero ascend the wrong way around.
                rising = bits if bits >= 0 else bits ^ np.int64(0x7FFFFFFF)
                keys[b, i] = ((-1 - rising) << 32) | i
            else:
                keys[b, i] = _LAST
        keys[b, counts[b] :] = _LAST


@compiled_exactly
def _read_keys(keys: Any, scores: Any, scale: float, bias: float, places: Any, values: Any) -> None:
    """Write places and scores of keys, or by a scale other than 0 their probabilities."""
    for b in range(len(places)):
        for i in range(places.shape[1]):
            there = keys[b, i] != _LAST
            places[b, i] = keys[b, i] & _PLACE if there else -1
            score = scores[b, places[b, i]] if there else np.float32(-np.inf)
            values[b, i] = 1 / (1 + math.exp(-(scale * score + bias))) if scale else score
