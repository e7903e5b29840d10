"""A whole batch laid out in one compiled call, and users who are new in another.

What is called here is each step's own; a crossing into compiled code costs a few microseconds, and
several times that when other processes had the caches.
"""

# B requests, n candidates, m users, F features

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from corerec.engines.compiled import compiled
from corerec.ranking.ahead import ask, ask_row
from corerec.ranking.features import RECENT
from corerec.ranking.frozen import array, bundle, thaw
from corerec.ranking.pair_kernel import fill_pairs, seat_users
from corerec.ranking.request_kernel import fault, lay_candidates, lay_histories, lay_moments
from corerec.ranking.side_kernel import compare, seat_sides

_F1, _F2, _F3, _F4 = (array(types.float32, dimensions) for dimensions in (1, 2, 3, 4))
_I1, _I2 = array(types.int32, 1), array(types.int32, 2)
_L1, _L2, _B1 = array(types.int64, 1), array(types.int64, 2), array(types.boolean, 1)
FIXED = bundle(
    bundle(_I2, _F2, _L2, _F2, types.boolean, types.int64),
    _B1,
    bundle(_L1, _I1, _F1),
    bundle(_F2, _F2, bundle(_F2, _F1, _F1, _F1)),
    bundle(_F2, _F1, _F1),
    bundle(_F2, _F1),
    bundle(_L2, _L1, _B1, _L1),
    bundle(_F3, _I2, _F3, _I2, _F3, _L2),
    bundle(_F4, _F2),
    _F2,
)
"""What stays the same between batches: `PackedItems.of`; which later items have a row (M,); starts,
followers and weights; embeddings of users, of their codes, and what `seat_sides` reads; what
`compare` reads; scratch of `seat_users` and `seat_sides`; what `lay_histories`, `seat_users` and
`seat_sides` (but for `pooled`) write; and users' sides (S, Du)."""


@compiled
def lay_batch(
    own: Any, counts: Any, candidates: Any, now: Any, blank: Any, moment: Any, fixed: Any,
    space: Any, side: Any,
) -> None:  # fmt: skip
    """Lay out requests whose users have seats; of one whose candidates break a rule, none.

    Shapes: own, counts, now (B,), of which a count becomes -1 where numbers or scores break a rule;
    `candidates` rows, which hold numbers, scores, sources and known (B, n); `moment` the column of
    `side` (B, Du) where the moment's numbers begin; `fixed` the address of FIXED. `space` is slots
    for `fault`, scratch and result of `fill_pairs`, scratch and result of `compare`.
    """
    rows, scores, sources, known = candidates
    items, later, _, _, model, _, histories, laid, lanes, sides = thaw(fixed, FIXED)
    slots, scratch, pairs, likeness, compared = space
    kept = counts.copy()
    for b in range(len(own)):
        if fault(rows[b, : counts[b]], scores[b, : counts[b]], slots):
            counts[b], kept[b] = -1, 0
        side[b] = sides[own[b]]
    lay_candidates(kept, rows, scores, sources, blank, later, known)
    if items[4]:
        there = np.empty(len(own), np.int64)
        times = np.empty(len(own), np.int64)
        for b in range(len(own)):
            there[b], times[b] = laid[-1][own[b], 0], histories[1][own[b]]
        lay_moments(now, times, there, moment, side)
    fill_pairs(own, kept, rows, scores, known, now, blank, items, laid, scratch, pairs)
    compare(own, kept, rows, blank, pairs, model, lanes, likeness, compared)


@compiled
def lay_users(seats: Any, events: Any, encoded: Any, blank: Any, fixed: Any) -> None:
    """Lay out users, each at a seat.

    Shapes: seats (m,); `events` starts, items and times as of `lay_histories`; `encoded` rows (m,),
    codes (m, Cu) and numbers (m, Fu) of users, codes as rows of the embeddings; `fixed` the address
    of FIXED.
    """
    items, later, follows, model, _, scratch, histories, laid, lanes, side = thaw(fixed, FIXED)
    users, codes, history = model
    vectors, seen = scratch
    starts, events_items, events_times = events
    lay_histories(seats, starts, events_items, events_times, blank, later, histories)
    rows, words, tower, width = histories[0], items[0], items[3], history[0].shape[1]
    for seat in seats:
        newest = rows[seat, -RECENT:]
        for row in newest:
            ask_row(follows[0].ctypes.data + 8 * min(row, blank), 16)
        ask(words.ctypes.data, words.shape[1] * 4, rows[seat], len(words))
        ask(tower.ctypes.data, tower.shape[1] * 4, rows[seat], len(tower))
        ask(history[0].ctypes.data, width * 4, rows[seat], blank)
        for row in newest:
            begin, end = follows[0][min(row, blank)], follows[0][min(row, blank) + 1]
            ask_row(follows[1].ctypes.data + 4 * begin, 4 * (end - begin))
            ask_row(follows[2].ctypes.data + 4 * begin, 4 * (end - begin))
    seat_users(seats, rows, blank, items, follows, vectors, laid)
    seat_sides(seats, rows, blank, history, seen, (side[:, side.shape[1] - width :], *lanes))
    own, chosen, numbers = encoded
    for m in range(len(seats)):
        to, at = side[seats[m]], users.shape[1]
        to[:at] = users[own[m]]
        for column in range(chosen.shape[1]):
            to[at : at + codes.shape[1]] = codes[chosen[m, column]]
            at += codes.shape[1]
        length = math.log1p(laid[-1][seats[m], 0]) / math.log1p(rows.shape[1])
        to[at] = np.float32(length)
        to[at + 1 : at + 1 + numbers.shape[1]] = numbers[m]
