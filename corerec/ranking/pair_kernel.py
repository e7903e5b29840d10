"""`pair_features` compiled, for a CPU: what one request needs in one pass over its candidates.

What a user brings (vectors, followers and values of the history) is laid out once, by `seat`;
`fill` then reads one row of two tables for each candidate. The torch form in `features.py` is the
definition.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# B requests, n candidates, F features, L history, D tower, J values and M list columns of an item

from __future__ import annotations

import math
from typing import Any

import numpy as np

from corerec.engines.compiled import compiled
from corerec.features.context import DAY_MICROS
from corerec.ranking.ahead import ask
from corerec.ranking.features import LAG_DECAY, MAX_AGE_DAYS, NEWEST, RECENT, TRANSITION_SCALE
from corerec.ranking.lanes import LANES, TOGETHER, dots

HEAD = 4
"""Words of a packed row before its values: the moment of birth (two), both popularities."""
PART = 512
"""Candidates whose memory is asked for at once."""
SINGLE = 2
"""Columns of one value, before those of lists."""

_ONE, _TINY = np.float32(1), np.float32(1e-12)
_DAY = np.float32(1 / DAY_MICROS)
_MOST_DAYS = np.float32(MAX_AGE_DAYS)
_AGE = np.float32(1 / math.log1p(MAX_AGE_DAYS))
_SCALE = np.float32(TRANSITION_SCALE)
_DECAY = np.float32(LAG_DECAY)


@compiled
def seat_users(
    fresh: Any, histories: Any, blank: Any, items: Any, follows: Any, vectors: Any, seats: Any
) -> None:
    """Lay out what the features need of the histories of some users, each at its seat.

    Shapes: fresh (m,) seats; histories (S, L) rows of the tables, `blank` ones first; `follows`
    starts (N + 2,), followers and weights (nnz,); vectors (12, D) scratch. For `items` see `fill`.
    Written: of `seats`, against (S, D, 16), recent items from the newest, their centre and the
    mean of all; keys (S, E) and chances (S, E, 2), who follows the last item and the recent ones;
    codes (S, C) and shares (S, C, 2), values in the history and in its newest part; sizes (S, 3),
    how many items, keys and codes there are.
    """
    words, tower = items[0], items[3]
    against, keys, chances, codes, shares, sizes = seats
    for own in fresh:
        there = _history_length(histories[own], blank)
        recent = histories[own, len(histories[own]) - there :][::-1]  # newest first
        _lay_vectors(recent, tower, vectors, against[own])
        sizes[own, 0] = there
        sizes[own, 1] = _lay_followers(recent[:RECENT], blank, follows, keys[own], chances[own])
        values = codes.shape[1] // histories.shape[1]
        sizes[own, 2] = _lay_values(recent, words, values, codes[own], shares[own])


@compiled
def _history_length(history, blank):
    there = 0
    while there < len(history) and history[len(history) - 1 - there] != blank:
        there += 1
    return there


@compiled
def _lay_vectors(recent, tower, vectors, against):
    vectors[:] = 0
    decay = _ONE
    for lag in range(len(recent)):
        own = tower[recent[lag]]
        vectors[RECENT + 1] += own
        if lag < RECENT:
            vectors[lag] = own
            vectors[RECENT] += decay * own
            decay *= _DECAY
    for lane in range(RECENT, RECENT + 2):
        square = np.float32(0)
        for d in range(vectors.shape[1]):
            square += vectors[lane, d] * vectors[lane, d]
        vectors[lane] /= max(np.float32(math.sqrt(square)), _TINY)
    for d in range(vectors.shape[1]):
        for lane in range(RECENT + 2):
            against[d, lane] = vectors[lane, d]


@compiled
def _lay_followers(recent, blank, follows, keys, chances):
    starts, followers, weights = follows
    key, decay = 0, _ONE
    for lag in range(len(recent)):
        if recent[lag] < blank:  # who came later has no followers
            for place in range(starts[recent[lag]], starts[recent[lag] + 1]):
                keys[key] = followers[place]
                chances[key, 0] = weights[place] if lag == 0 else np.float32(0)
                chances[key, 1] = decay * weights[place]
                key += 1
        decay *= _DECAY
    return key


@compiled
def _lay_values(recent, words, values, codes, shares):
    code, there = 0, len(recent)
    share, newest = _ONE / max(there, 1), _ONE / max(min(there, NEWEST), 1)
    for lag in range(there):
        for j in range(HEAD, HEAD + values):
            if words[recent[lag], j] > 0:  # a missing value matches nothing
                codes[code] = words[recent[lag], j]
                shares[code, 0] = share
                shares[code, 1] = newest if lag < NEWEST else np.float32(0)
                code += 1
    return code


@compiled
def fill_pairs(
    own: Any,
    counts: Any,
    rows: Any,
    scores: Any,
    known: Any,
    now: Any,
    blank: Any,
    items: Any,
    seats: Any,
    scratch: Any,
    out: Any,
) -> None:
    """Write the features of requests, and zeros in the padding.

    Shapes: own, counts, now (B,), the seat of each; rows, scores, known (B, n); out (F, B, n).
    """
    against, keys, chances, codes, shares, sizes = seats
    for b in range(len(own)):
        s, n = own[b], counts[b]
        follow = keys[s, : sizes[s, 1]], chances[s]
        match = codes[s, : sizes[s, 2]], shares[s]
        _fill(
            rows[b, :n], scores[b, :n], known[b, :n], now[b], blank, items, sizes[s, 0],
            against[s], follow, match, scratch, out[:, b, :n],
        )  # fmt: skip
        out[:, b, n:] = 0


@compiled
def _fill(rows, scores, known, now, blank, items, there, against, follow, match, scratch, out):
    """Write the features of one request: out (F, n).

    Shapes: rows, scores, known (n,). `items` is the packed table as int32, float32 and int64, the
    tower, whether there are times and how many values a list column has; `follow` the keys and
    chances, `match` the codes and shares of `seat`; `scratch` slots (a power of two, twice n),
    sums (codes, 2) of zeros, cosines (n rounded up, 16).
    """
    words, floats, moments, tower, timed, used = items
    slots, sums, cosines = scratch
    at = 6 if timed else 3
    for i in range(len(rows)):
        if i % PART == 0:
            ask(words.ctypes.data, words.shape[1] * 4, rows[i : i + PART], len(words))
        row = np.uint64(rows[i])  # an index without a sign is used as it is
        out[0, i] = scores[i] if known[i] else np.float32(0)
        out[1, i] = known[i]
        out[2, i] = floats[row, 2]
        if timed:
            born = moments[row, 0]
            # Subtracted as integers: microseconds since 1970 do not fit a float32.
            days = min(max(np.float32(now - born) * _DAY, np.float32(0)), _MOST_DAYS)
            out[3, i] = floats[row, 3]
            out[4, i] = math.log1p(days) * _AGE if born >= 0 else np.float32(0)
            out[5, i] = born >= 0
    _similar(tower, rows, there, against, cosines, out[at : at + 4])
    _follow(rows, blank, follow, slots, out[at + 4], out[at + 5])
    _match(rows, words, floats, used, match, sums, out[at + 6 :])


@compiled
def _similar(tower, rows, there, against, cosines, out):
    """Write the cosines with the last item, the most similar recent one, their centre, the mean."""
    count, width = len(rows), tower.shape[1]
    start, step = tower.ctypes.data, width * 4
    target, other = cosines.ctypes.data, against.ctypes.data
    last = count - 1
    for i in range(0, count, TOGETHER):
        if i % PART == 0:
            ask(start, step, rows[i : i + PART], len(tower))
        second, third, fourth = min(i + 1, last), min(i + 2, last), min(i + 3, last)
        dots(
            start + rows[i] * step, start + rows[second] * step, start + rows[third] * step,
            start + rows[fourth] * step, other, width, target + i * LANES * 4,
            LANES * 4,
        )  # fmt: skip
    recent = min(there, RECENT)
    for i in range(count):
        most = cosines[i, 0] if recent else np.float32(0)
        for lag in range(1, recent):
            most = max(most, cosines[i, lag])
        out[0, i], out[1, i] = cosines[i, 0], most
        out[2, i], out[3, i] = cosines[i, RECENT], cosines[i, RECENT + 1]


@compiled
def _follow(rows, blank, follow, slots, last, recent):
    """Write how likely each candidate follows the last item, and the recent ones."""
    keys, chances = follow
    size = 4
    while size < 2 * len(rows):
        size *= 2
    mask = np.uint32(size - 1)
    slots[:size] = 0
    last[:] = 0
    recent[:] = 0
    for i in range(len(rows)):
        if rows[i] < blank:  # nobody is followed by who came later
            at = _slot(rows[i]) & mask
            while slots[at]:
                at = (at + np.uint32(1)) & mask
            slots[at] = i + 1
    for e in range(len(keys)):
        at = _slot(keys[e]) & mask
        while slots[at] and rows[slots[at] - 1] != keys[e]:
            at = (at + np.uint32(1)) & mask
        if slots[at]:
            last[slots[at] - 1] += chances[e, 0]
            recent[slots[at] - 1] += chances[e, 1]
    for i in range(len(rows)):
        if recent[i] > 0:
            last[i] = math.log1p(_SCALE * last[i])
            recent[i] = math.log1p(_SCALE * recent[i])


@compiled
def _slot(key):
    """Spread keys that follow each other over a table."""
    mixed = np.uint32(key) * np.uint32(0x9E3779B1)
    return mixed ^ (mixed >> np.uint32(15))


@compiled
def _match(rows, words, floats, used, match, sums, out):
    """Write the share of the history, and of its newest part, that has each candidate's values."""
    codes, shares = match
    for e in range(len(codes)):
        code = np.uint64(codes[e])
        sums[code, 0] += shares[e, 0]
        sums[code, 1] += shares[e, 1]
    lists = len(out) // 2 - SINGLE
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        for j in range(SINGLE):
            code = np.uint64(words[row, HEAD + j])
            out[2 * j, i], out[2 * j + 1, i] = sums[code, 0], sums[code, 1]
        for m in range(lists):
            first = HEAD + SINGLE + m * used
            whole = newest = np.float32(0)
            for j in range(first, first + used):
                code = np.uint64(words[row, j])
                whole += sums[code, 0]
                newest += sums[code, 1]
            scale = floats[row, HEAD + SINGLE + lists * used + m]
            out[2 * (SINGLE + m), i] = whole * scale
            out[2 * (SINGLE + m) + 1, i] = newest * scale
    for e in range(len(codes)):
        code = np.uint64(codes[e])
        sums[code, 0] = sums[code, 1] = 0
