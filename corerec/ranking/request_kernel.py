"""What requests bring, checked and laid out as the matrices of a batch, compiled."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# B requests, n candidates, P candidates of all requests, L history

from __future__ import annotations

import math
from typing import Any

import numpy as np

from corerec.engines.compiled import compiled, compiled_exactly
from corerec.features.context import DAY_MICROS, HOUR_MICROS
from corerec.ranking.features import MAX_GAP_HOURS
from corerec.stages import Source

_POPULAR = int(Source.POPULAR)
_GAP = 1 / math.log1p(MAX_GAP_HOURS)


@compiled_exactly
def fault(numbers: Any, scores: Any, slots: Any) -> bool:
    """Return whether a number is negative or there twice, or a score not finite.

    Shapes: numbers, scores (n,); slots, a power of two above n, scratch.
    """
    mask = np.uint64(len(slots) - 1)
    slots[:] = 0
    for i in range(len(numbers)):
        if numbers[i] < 0 or not np.isfinite(scores[i]):
            return True
        at = (np.uint64(numbers[i]) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) & mask
        while slots[at]:
            if numbers[slots[at] - 1] == numbers[i]:
                return True
            at = (at + np.uint64(1)) & mask
        slots[at] = i + 1
    return False


@compiled
def lay_candidates(
    counts: Any, rows: Any, scores: Any, sources: Any, trained: Any, later: Any, known: Any
) -> None:
    """Turn item numbers into rows of the tables, in place; the blank row pads.

    Shapes: counts (B,) candidates of each request; rows (B, n), which hold numbers >= 0; scores,
    sources (B, n); later (M,) whether number `trained` + i has a row; written are rows, the
    padding of scores, and known (B, n).
    """
    for b in range(len(counts)):
        count = counts[b]
        most = np.int64(0)
        for i in range(count):
            most = max(most, rows[b, i])
            known[b, i] = sources[b, i] != _POPULAR
        if most >= trained:
            for i in range(count):
                rows[b, i] = _row(rows[b, i], trained, later)
        rows[b, count:] = trained
        scores[b, count:] = 0
        known[b, count:] = False


@compiled
def _row(number, trained, later):
    """Return the row of a number >= 0: the blank one where it has none."""
    if number < trained:
        return number
    place = number - trained
    if place < len(later) and later[place]:
        return number + 1
    return trained


@compiled
def lay_histories(
    seats: Any, starts: Any, items: Any, times: Any, trained: Any, later: Any, out: Any
) -> None:
    """Write the newest items of users that have a row, at their seats, blank ones first.

    Shapes: seats (m,); starts (m + 1,), where each user's events begin; items, times (E,), oldest
    first. `out` are the histories (S, L), the time of the newest item (S,), -1 where there is none,
    whether an item had no row (S,), and how many events were read (S,).
    """
    histories, newest, lost, read = out
    for m in range(len(seats)):
        seat, history, at = seats[m], histories[seats[m]], starts[m + 1]
        left = len(history)
        newest[seat], lost[seat] = -1, False
        while at > starts[m] and left > 0:
            at -= 1
            row = trained if items[at] < 0 else _row(items[at], trained, later)
            if row == trained:
                lost[seat] = True
                continue
            if left == len(history):
                newest[seat] = times[at]
            left -= 1
            history[left] = row
        history[:left] = trained
        read[seat] = starts[m + 1] - at


@compiled
def lay_moments(now: Any, newest: Any, there: Any, first: Any, out: Any) -> None:
    """Write what `user_dense` says of the moment into out (B, Fd), from column `first` on.

    Shapes: now (B,), newest (B,) time of the newest item, there (B,) items of the history.
    """
    for b in range(len(now)):
        hour = (now[b] % DAY_MICROS) / DAY_MICROS * (2 * math.pi)
        day = (now[b] // DAY_MICROS % 7) / 7 * (2 * math.pi)
        out[b, first], out[b, first + 1] = math.sin(hour), math.cos(hour)
        out[b, first + 2], out[b, first + 3] = math.sin(day), math.cos(day)
        known = there[b] > 0 and newest[b] >= 0
        hours = min(max((now[b] - newest[b]) / HOUR_MICROS, 0.0), MAX_GAP_HOURS)
        out[b, first + 4] = math.log1p(hours) * _GAP if known else 0.0
        out[b, first + 5] = 1.0 if known else 0.0
