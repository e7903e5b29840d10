"""The best candidates of a request, equal scores in the order in which retrieval had them.

Compiled, for a CPU. A score and its place become one integer, so that any sort keeps the order of
equal scores.
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
    places = np.empty((cases, min(k, count)), np.int64)
    values = np.empty(places.shape, np.float32)
    told, (scale, bias) = calibration is not None, calibration or (1.0, 0.0)
    _best(scores, counts, told, scale, bias, np.empty(count, np.int64), places, values)
    return places, values


@compiled_exactly
def _best(
    scores: Any, counts: Any, told: bool, scale: float, bias: float, keys: Any, places: Any,
    values: Any,
) -> None:  # fmt: skip
    """Write places and scores of the best, or where `told` the probabilities of these logits.

    Shapes: keys (n,) scratch; places, values (B, k).
    """
    kept = places.shape[1]
    for b in range(len(scores)):
        _rank_keys(scores[b], counts[b], keys)
        if kept < len(keys):
            _select(keys, kept)
        best = keys[:kept]
        best.sort()
        for i in range(kept):
            there = best[i] != _LAST
            places[b, i] = best[i] & _PLACE if there else -1
            score = scores[b, places[b, i]] if there else np.float32(-np.inf)
            values[b, i] = 1 / (1 + math.exp(-(scale * score + bias))) if told else score


@compiled_exactly
def _rank_keys(scores: Any, count: int, keys: Any) -> None:
    """Write keys (n,) that ascend where scores descend, each another but those of no score."""
    own = (scores + np.float32(0)).view(np.int32)  # -0 becomes 0, which it equals
    for i in range(count):
        if np.isfinite(scores[i]):
            bits = np.int64(own[i])
            # As integers, floats below zero ascend the wrong way around.
            rising = bits if bits >= 0 else bits ^ np.int64(0x7FFFFFFF)
            keys[i] = ((-1 - rising) << 32) | i
        else:
            keys[i] = _LAST
    keys[max(count, 0) :] = _LAST


@compiled_exactly
def _select(keys: Any, kept: int) -> None:
    """Move the least `kept` keys to the front, in any order. Source: Hoare 1961, algorithm 65."""
    low, high = 0, len(keys) - 1
    while low < high:
        pivot = keys[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if kept - 1 <= j:
            high = j
        elif kept - 1 >= i:
            low = i
        else:
            return
