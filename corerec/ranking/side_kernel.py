"""`RankingModel.user_side` and `pair_side` compiled, for a CPU; the model's are the definition.

What depends on the user alone is laid out once, by `seat_sides`; `compare` is the rest.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# S seats, B requests, n candidates, F features, E item width, A attended history, V = A / 16 lanes

from __future__ import annotations

import math
from typing import Any

import numpy as np

from corerec.engines.compiled import compiled
from corerec.ranking.ahead import ask
from corerec.ranking.lanes import LANES, TOGETHER, attend, dots
from corerec.ranking.model import CLAMP
from corerec.ranking.pair_kernel import PART

ABSENT = -1e9
"""Added to the likeness with a place of the history where nothing is, as the model does."""
NO_LANE = -1e30
"""Added where there is no place of the history."""

_CLAMP = np.float32(CLAMP)
_ABSENT, _NO_LANE = np.float32(ABSENT), np.float32(NO_LANE)
_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def seat_sides(fresh: Any, histories: Any, blank: Any, model: Any, seen: Any, out: Any) -> None:
    """Lay out what the model embeds of the histories of some users, each at its seat.

    Shapes: fresh (m,) seats; histories (S, L) rows of the tables, `blank` ones first. `model` is
    the history's embeddings (N + 1, E) and weights (L,), the attended places' weights and biases
    (A,); `seen` (E,) scratch. `out` is pooled (S, E); lanes (S, V, E, 16), the embedding of the
    item so many places back, in the last lane their weighted sum; biases (S, V * 16).
    """
    embeddings, weights, lag_weights, lag_biases = model
    pooled, lanes, biases = out
    for seat in fresh:
        history = histories[seat]
        _pool(history, blank, embeddings, weights, pooled[seat])
        own, bias = lanes[seat], biases[seat]
        own[:] = 0
        bias[:] = _NO_LANE
        seen[:] = 0
        places = min(len(lag_weights), len(history))
        for lag in range(places):
            row = history[len(history) - 1 - lag]
            bias[lag] = _ABSENT
            if row < blank:  # who came later has no embedding
                bias[lag] = lag_biases[len(lag_biases) - 1 - lag]
                weight = lag_weights[len(lag_weights) - 1 - lag]
                for e in range(len(seen)):
                    own[lag // LANES, e, lag % LANES] = embeddings[row, e]
                    seen[e] += weight * embeddings[row, e]
        for e in range(len(seen)):
            own[len(own) - 1, e, LANES - 1] = seen[e]


@compiled
def _pool(history, blank, embeddings, weights, out):
    """Write the mean of the history's embeddings, by the softmax of the weights of their places."""
    out[:] = 0
    most = np.float32(-np.inf)
    for place in range(len(history)):
        if history[place] < blank:
            most = max(most, weights[place])
    total = _ZERO
    for place in range(len(history)):
        if history[place] < blank:
            weight = np.float32(math.exp(weights[place] - most))
            total += weight
            for e in range(len(out)):
                out[e] += weight * embeddings[history[place], e]
    if total > 0:
        out /= total


@compiled
def compare(
    own: Any, counts: Any, rows: Any, blank: Any, pairs: Any, model: Any, seats: Any,
    likeness: Any, out: Any,
) -> None:  # fmt: skip
    """Write `pair_side` of requests, and zeros in the padding.

    Shapes: own, counts (B,), the seat of each; rows (B, n); pairs (F, B, n). `model` is the items'
    embeddings (N + 1, E) and scale and offset of the features (F,); `seats` lanes and biases of
    `seat_sides`; likeness (n rounded up, V * 16) scratch; out (F + 3, B, n).
    """
    embeddings, scales, offsets = model
    lanes, biases = seats
    features = len(pairs)
    for b in range(len(own)):
        seat, count = own[b], counts[b]
        for f in range(features):
            scale, offset = scales[f], offsets[f]
            for i in range(count):
                scaled = pairs[f, b, i] * scale - offset
                out[f, b, i] = min(max(scaled, -_CLAMP), _CLAMP)
        _liken(embeddings, rows[b, :count], blank, lanes[seat], likeness)
        bias, start, step = biases[seat].ctypes.data, likeness.ctypes.data, likeness.shape[1] * 4
        for i in range(count):
            out[features, b, i] = likeness[i, likeness.shape[1] - 1]
            out[features + 1, b, i] = attend(start + i * step, bias, len(lanes[seat]))
            out[features + 2, b, i] = likeness[i, 0]
        out[:, b, count:] = 0


@compiled
def _liken(embeddings, rows, blank, lanes, out):
    """Write the products of candidates' embeddings with the lanes: out (n rounded up, V * 16)."""
    count, width = len(rows), embeddings.shape[1]
    start, step = embeddings.ctypes.data, width * 4
    target, other = out.ctypes.data, lanes.ctypes.data
    last = count - 1
    for i in range(0, count, TOGETHER):
        if i % PART == 0:
            ask(start, step, rows[i : i + PART], blank)
        first, second = min(rows[i], blank), min(rows[min(i + 1, last)], blank)
        third, fourth = min(rows[min(i + 2, last)], blank), min(rows[min(i + 3, last)], blank)
        for v in range(len(lanes)):
            dots(
                start + first * step, start + second * step, start + third * step,
                start + fourth * step, other + v * width * LANES * 4, width,
                target + (i * len(lanes) + v) * LANES * 4, len(lanes) * LANES * 4,
            )  # fmt: skip
