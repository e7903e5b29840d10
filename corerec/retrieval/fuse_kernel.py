"""The compiled loops over lists of candidates: membership, eligibility, and the draws of `fuse`.

What each must give is said, and tested, by plain forms: `np.isin`, `Eligible.test`, `plain_fuse`.
"""

# n, m items, S sources, k places, P popular items, T slots of a table

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corerec.engines.compiled import compiled, compiled_exactly
from corerec.stages import Bytes8, Float32s, Int64s

_EMPTY = np.int64(-(2**63))
"""A slot that holds nothing; the number of no item."""
_ANY = np.empty(0, np.bool_)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def among(numbers: Int64s, others: Int64s) -> NDArray[np.bool_]:
    """Say which numbers (n,) are among others (m,), in any order."""
    if not len(others):
        return np.zeros(len(numbers), np.bool_)
    return _among(_own(numbers), _own(others))


def first_outside(numbers: Int64s, others: Int64s, most: int) -> Int64s:
    """Return the first places, at most so many, of numbers (n,) that are not among others (m,)."""
    found = np.empty(min(most, len(numbers)), np.int64)
    return found[: _first_outside(_own(numbers), _own(others), found)]


def first_eligible(
    numbers: Int64s,
    alive: NDArray[np.bool_],
    shards: int,
    allowed: NDArray[np.bool_] | None,
    others: Int64s,
    most: int,
) -> Int64s:
    """Return the first places, at most so many, of numbers (n,) that `Eligible.test` passes.

    Shapes: alive by row of the shard, allowed by number, None for all; others (m,), excluded.
    """
    given = _ANY if allowed is None else allowed
    any_ = allowed is None
    return _first_eligible(_own(numbers), alive, shards, given, any_, _own(others), most)


def draw(
    lists: Int64s, order: Int64s, marks: Bytes8, popular: Int64s, places: int
) -> tuple[Int64s, Bytes8, Int64s]:
    """Return what `fuse` returns: numbers (n,), their sources (n,), and the places of the draws.

    Shapes: lists (S, k) padded with -1, order (S * k,), marks (S + 1,), popular (P,).
    """
    k = lists.shape[1]
    numbers, sources, at = np.empty(k, np.int64), np.empty(k, np.uint8), np.empty(k, np.int64)
    count = _draw(_own(lists), order, marks, _own(popular), places, numbers, sources, at)
    return numbers[:count], sources[:count], at[:count]


def drawn_scores(at: Int64s, first: int, scores: Float32s) -> Float32s:
    """Return the scores (n,) of draws at places (n,), NaN of those from other lists.

    Shapes: scores (m,) of the list that begins at place `first`.
    """
    found = np.empty(len(at), np.float32)
    _drawn_scores(at, first, np.ascontiguousarray(scores), found)
    return found


def _own(column: Int64s) -> Int64s:
    """Return the column as every loop takes it: one kind of array, so that each compiles once.

    What came over a wire is read-only, which would be another kind.
    """
    flags = column.flags
    return column if flags.writeable and flags.c_contiguous else column.copy()


@compiled
def _slots(count: int) -> NDArray[np.int64]:
    """Return a table (T,) for so many numbers: a power of two, mostly free, so few collide."""
    size = 64
    while size < 4 * count:
        size *= 2
    return np.full(size, _EMPTY, np.int64)


@compiled
def _place(table: NDArray[np.int64], number: np.int64) -> np.int64:
    """Return the slot of a number, or the free one where it belongs."""
    last = len(table) - 1
    slot = np.int64((np.uint64(number) * _SPREAD) >> np.uint64(40)) & last
    while table[slot] != _EMPTY and table[slot] != number:
        slot = (slot + 1) & last
    return slot


@compiled
def _among(numbers: Int64s, others: Int64s) -> NDArray[np.bool_]:
    found = np.zeros(len(numbers), np.bool_)
    table = _slots(len(others))
    for other in others:
        table[_place(table, other)] = other
    for row in range(len(numbers)):
        found[row] = table[_place(table, numbers[row])] != _EMPTY
    return found


@compiled
def _first_outside(numbers: Int64s, others: Int64s, found: NDArray[np.int64]) -> int:
    table = _slots(len(others))
    for other in others:
        table[_place(table, other)] = other
    count = 0
    for row in range(len(numbers)):
        if count == len(found):
            break
        if table[_place(table, numbers[row])] == _EMPTY:
            found[count] = row
            count += 1
    return count


@compiled
def _first_eligible(
    numbers: Int64s,
    alive: NDArray[np.bool_],
    shards: int,
    allowed: NDArray[np.bool_],
    any_: bool,
    others: Int64s,
    most: int,
) -> NDArray[np.int64]:
    table = _slots(len(others))
    for other in others:
        table[_place(table, other)] = other
    found = np.empty(min(most, len(numbers)), np.int64)
    count = 0
    for place in range(len(numbers)):
        if count == len(found):
            break
        number = numbers[place]
        row = number // shards
        if row >= len(alive) or not alive[row]:
            continue
        if not any_ and (number >= len(allowed) or not allowed[number]):
            continue
        if table[_place(table, number)] == _EMPTY:
            found[count] = place
            count += 1
    return found[:count]


@compiled
def _draw(
    lists: Int64s,
    order: Int64s,
    marks: Bytes8,
    popular: Int64s,
    places: int,
    numbers: NDArray[np.int64],
    sources: NDArray[np.uint8],
    at: NDArray[np.int64],
) -> int:
    k, flat = lists.shape[1], lists.reshape(-1)
    table = _slots(k)
    count, turn = 0, 0
    while turn < len(order) and count < k - places:
        count = _take(flat, order[turn], numbers, at, count, table)
        turn += 1
    extra = np.empty(places, np.int64)
    extras = 0
    for place in range(len(popular)):
        if extras == places:
            break
        slot = _place(table, popular[place])
        if table[slot] == _EMPTY:
            table[slot] = popular[place]
            extra[extras] = place
            extras += 1
    # What the popular list cannot fill goes back to the sources.
    while turn < len(order) and count < k - extras:
        count = _take(flat, order[turn], numbers, at, count, table)
        turn += 1
    for place in extra[:extras]:
        numbers[count], at[count] = popular[place], lists.size + place
        count += 1
    for place in range(count):
        sources[place] = marks[min(at[place] // k, len(lists))]
    return count


@compiled_exactly
def _drawn_scores(at: Int64s, first: int, scores: Float32s, found: NDArray[np.float32]) -> None:
    for row in range(len(at)):
        place = at[row] - first
        found[row] = scores[place] if 0 <= place < len(scores) else np.nan


@compiled
def _take(
    flat: Int64s,
    place: np.int64,
    numbers: NDArray[np.int64],
    at: NDArray[np.int64],
    count: int,
    table: NDArray[np.int64],
) -> int:
    """Take the item at a place, unless there is none or it is there already; return the count."""
    number = flat[place]
    if number < 0:
        return count
    slot = _place(table, number)
    if table[slot] != _EMPTY:
        return count
    table[slot] = number
    numbers[count], at[count] = number, place
    return count + 1
