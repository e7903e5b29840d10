"""The query encoder's loop, compiled: one user at a time, so that a batch of one costs little.

`HistoryAttention.newest` and `UserTower.join` say what it computes; a user's vector has the same
bits in every batch.
"""

# B users, T events of all, L events looked at, H heads, D width, F hidden width, R rows

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from corerec.engines.compiled import compiled
from corerec.engines.two_tower_user import HistoryAttention, UserTower
from corerec.features import UserFeatures
from corerec.features.context import DAY_MICROS
from corerec.stages import Float32s, Int64s

_LEAST = 1e-12  # F.normalize's


class Weights(NamedTuple):
    """The weights of a user tower, as they lie in its tensors, so they are the newest."""

    norm: tuple[Float32s, Float32s, float]
    """Scale (D,), shift (D,) and epsilon, before the attention."""
    query: tuple[Float32s, Float32s]
    """(D, D), (D,)."""
    recency: Float32s
    """(H, L)."""
    output: tuple[Float32s, Float32s]
    """(D, D), (D,)."""
    middle: tuple[Float32s, Float32s, float]
    """As `norm`, before the feed-forward part."""
    wide: tuple[Float32s, Float32s]
    """(F, D), (F,)."""
    narrow: tuple[Float32s, Float32s]
    """(D, F), (D,)."""
    context: tuple[Float32s, Float32s]
    """(D, 4), (D,); zeros where data has no times."""
    bias: bool
    """Whether the last column is 1 and apart from the length."""


def weights_of(tower: UserTower) -> Weights:
    """Return the weights of a tower on a CPU whose history is read by attention."""
    history = tower.history
    assert isinstance(history, HistoryAttention)
    dim = len(history.query.weight)
    context = (np.zeros((dim, 4), np.float32), np.zeros(dim, np.float32))
    return Weights(
        norm=_norm(history.events),
        query=_linear(history.query),
        recency=_array(history.recency),
        output=_linear(history.output),
        middle=_norm(history.middle),
        wide=_linear(history.wide),
        narrow=_linear(history.narrow),
        context=context if tower.context is None else _linear(tower.context),
        bias=bool(tower.bias),
    )


class Profiles:
    """`UserTower.profile` in NumPy, which costs less than torch for a few users."""

    def __init__(self, tower: UserTower) -> None:
        self._id = _array(tower.id.weight)
        self._categorical = [_array(table.weight) for table in tower.categorical]
        self._dense = None if tower.dense is None else _linear(tower.dense)

    def of(self, users: UserFeatures) -> Float32s:
        """Return (B, D): what is known of users besides their history."""
        found: Float32s = self._id[users.row]
        for column, table in enumerate(self._categorical):
            found += table[users.categorical[:, column]]
        if self._dense is not None:
            weight, bias = self._dense
            found += users.numeric @ weight.T
            found += bias
        return found


def _array(parameter: Any) -> Float32s:
    found: Float32s = parameter.detach().numpy()
    return found


def _linear(layer: nn.Linear) -> tuple[Float32s, Float32s]:
    return _array(layer.weight), _array(layer.bias)


def _norm(layer: nn.LayerNorm) -> tuple[Float32s, Float32s, float]:
    return _array(layer.weight), _array(layer.bias), float(layer.eps)


@compiled
def encode(
    rows: Int64s,
    ends: Int64s,
    start: int,
    table: Float32s,
    own: Float32s,
    moments: Int64s,
    weights: Weights,
) -> NDArray[np.float32]:
    """Return vectors (B, D) to score by.

    Shapes: rows (T,) of all histories, oldest first, -1 for an unknown item; ends (B,) where each
    history ends in them; start, the row that ends a short history; table (R, 3D), keys, values and
    bases; own (B, D), what is known of users besides; moments (B,) microseconds since 1970, or
    none where they do not count.
    """
    heads, length = weights.recency.shape
    users, dim = own.shape
    found = np.empty((users, dim), np.float32)
    tokens = np.empty(length, np.int64)
    x, y = np.empty(dim, np.float32), np.empty(dim, np.float32)
    scores = np.empty(length, np.float32)
    inner = np.empty(len(weights.wide[1]), np.float32)
    moment = np.empty(4, np.float32)
    begin = 0
    for user in range(users):
        count = _newest(rows, begin, ends[user], start, tokens)
        begin = ends[user]
        last = table[tokens[0], 2 * dim :]
        _normalise(last, weights.norm, x)
        _times(weights.query, x, y)
        for head in range(heads):
            first, behind = head * dim // heads, (head + 1) * dim // heads
            _attend(table, tokens[:count], y, weights.recency[head], first, behind, scores, x)
        _times(weights.output, x, y)
        for i in range(dim):
            found[user, i] = last[i] + y[i]
        _normalise(found[user], weights.middle, x)
        _times(weights.wide, x, inner)
        for i in range(len(inner)):
            value = np.float64(inner[i])
            inner[i] = 0.5 * value * (1.0 + math.erf(value * 0.7071067811865476))
        _times(weights.narrow, inner, y)
        for i in range(dim):
            found[user, i] += y[i] + own[user, i]
        if len(moments):
            _moment(moments[user], moment)
            _times(weights.context, moment, x)
            for i in range(dim):
                found[user, i] += x[i]
        _to_length(found[user], weights.bias)
    return found


@compiled
def _newest(rows: Int64s, begin: int, end: int, start: int, tokens: NDArray[np.int64]) -> int:
    """Fill the newest known rows of a history in, newest first; return how many are there."""
    count = 0
    place = end - 1
    while place >= begin and count < len(tokens):
        if rows[place] >= 0:
            tokens[count] = rows[place]
            count += 1
        place -= 1
    if count < len(tokens):
        tokens[count] = start
        count += 1
    return count


@compiled
def _normalise(
    x: Float32s, norm: tuple[Float32s, Float32s, float], out: NDArray[np.float32]
) -> None:
    mean, square = 0.0, 0.0
    for i in range(len(x)):
        mean += x[i]
    mean /= len(x)
    for i in range(len(x)):
        square += (x[i] - mean) ** 2
    scale = 1.0 / math.sqrt(square / len(x) + norm[2])
    for i in range(len(x)):
        out[i] = (x[i] - mean) * scale * norm[0][i] + norm[1][i]


@compiled
def _times(layer: tuple[Float32s, Float32s], x: Float32s, out: NDArray[np.float32]) -> None:
    """Put W x + b into out."""
    weight, bias = layer
    for row in range(len(bias)):
        total = np.float32(0.0)
        for i in range(len(x)):
            total += weight[row, i] * x[i]
        out[row] = total + bias[row]


@compiled
def _attend(
    table: Float32s,
    tokens: Int64s,
    query: Float32s,
    recency: Float32s,
    first: int,
    last: int,
    scores: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Put what one head, columns [first, last), sees of the tokens' keys and values into out."""
    dim, scale = len(query), 1.0 / math.sqrt(last - first)
    most = np.float32(-3e38)
    for place in range(len(tokens)):
        total = np.float32(0.0)
        for i in range(first, last):
            total += table[tokens[place], i] * query[i]
        scores[place] = total * scale + recency[place]
        most = max(most, scores[place])
    whole = 0.0
    for place in range(len(tokens)):
        scores[place] = math.exp(scores[place] - most)
        whole += scores[place]
    for i in range(first, last):
        out[i] = 0.0
    for place in range(len(tokens)):
        share = np.float32(scores[place] / whole)
        for i in range(first, last):
            out[i] += share * table[tokens[place], dim + i]


@compiled
def _moment(now: int, out: NDArray[np.float32]) -> None:
    """Put what `context_features` says of a moment into out (4,)."""
    hour = now % DAY_MICROS / DAY_MICROS * (2 * math.pi)
    day = now // DAY_MICROS % 7 / 7 * (2 * math.pi)
    out[0], out[1] = math.sin(hour), math.cos(hour)
    out[2], out[3] = math.sin(day), math.cos(day)


@compiled
def _to_length(x: NDArray[np.float32], bias: bool) -> None:
    """Make a vector one of length 1, or all but its last column, which is 1 then."""
    size = len(x) - 1 if bias else len(x)
    square = 0.0
    for i in range(size):
        square += x[i] * x[i]
    scale = 1.0 / max(math.sqrt(square), _LEAST)
    for i in range(size):
        x[i] *= scale
    if bias:
        x[size] = 1.0
