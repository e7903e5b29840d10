"""The compiled inner loops of BPR: one triple after another, so the result is always the same."""

# T triples, U users, N items, K width, M pool of negatives

from __future__ import annotations

import numpy as np

from corerec.engines.compiled import compiled
from corerec.engines.ials_kernel import Int32s
from corerec.stages import Float32s, Int64s

_TRIES = 8
"""Negatives that are tried before a triple is left out."""
_FOLD_STEPS = 2000
"""Fewest steps of a served user's descent."""


@compiled
def _has(columns: Int32s, first: int, last: int, item: int) -> bool:
    """Return whether a row, columns ascending, holds the item."""
    while first < last:
        middle = (first + last) // 2
        if columns[middle] < item:
            first = middle + 1
        elif columns[middle] > item:
            last = middle
        else:
            return True
    return False


@compiled
def _slope(user: Float32s, right: Float32s, wrong: Float32s) -> np.float32:
    """Return the derivative of log sigmoid(x_right - x_wrong); the last number is the bias."""
    score = np.float32(0)
    for j in range(len(user)):
        score += user[j] * (right[j] - wrong[j])
    slope: np.float32 = np.float32(1) / (np.float32(1) + np.exp(score))
    return slope


@compiled
def bpr_steps(
    rows: Int32s,
    positives: Int32s,
    negatives: Int64s,
    offsets: Int64s,
    columns: Int32s,
    users: Float32s,
    items: Float32s,
    rate: np.float32,
    decay: np.float32,
) -> None:
    """Take one step of descent for each triple.

    Shapes: rows, positives, negatives (T,), users (U, K + 1), items (N, K + 1). A negative that
    the user has is replaced by the next of the column.
    """
    count, width = len(rows), users.shape[1] - 1
    for t in range(count):
        row = rows[t]
        first, last = offsets[row], offsets[row + 1]
        tried = 0
        while tried < _TRIES and _has(columns, first, last, negatives[(t + tried) % count]):
            tried += 1
        if tried == _TRIES:
            continue
        user, right = users[row], items[positives[t]]
        wrong = items[negatives[(t + tried) % count]]
        slope = _slope(user, right, wrong)
        for j in range(width):
            u, r, w = user[j], right[j], wrong[j]
            user[j] += rate * (slope * (r - w) - decay * u)
            right[j] += rate * (slope * u - decay * r)
            wrong[j] += rate * (-slope * u - decay * w)
        right[width] += rate * (slope - decay * right[width])
        wrong[width] += rate * (-slope - decay * wrong[width])


@compiled
def bpr_users(
    offsets: Int64s,
    columns: Int32s,
    items: Float32s,
    pool: Int64s,
    users: Float32s,
    rate: np.float32,
    decay: np.float32,
) -> None:
    """Move each user of `users` (B, K + 1) by descent over his row of columns; items stay."""
    width = users.shape[1] - 1
    for row in range(len(users)):
        first, last = offsets[row], offsets[row + 1]
        if first == last:
            continue
        user = users[row]
        steps = max(_FOLD_STEPS, 2 * (last - first))
        for t in range(steps):
            negative = pool[t % len(pool)]
            if _has(columns, first, last, negative):
                continue
            right, wrong = items[columns[first + t % (last - first)]], items[negative]
            slope = _slope(user, right, wrong)
            # Falls to nothing, so that the order of the history leaves little trace.
            own = rate * np.float32(1 - t / steps)
            for j in range(width):
                user[j] += own * (slope * (right[j] - wrong[j]) - decay * user[j])
