"""Fresh: the newest items first, those of the live catalogue too."""

# N items, n items of a list

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from corerec.live.arrays import Growing
from corerec.retrieval.merge import best_first
from corerec.retrieval.owned import Eligible
from corerec.stages import Float32s, Int64s, SearchEntry
from corerec.store.catalogue import ItemChange

DAY_MICROS = 86_400_000_000
_BLOCK = 1024
_UNKNOWN = -1


class Fresh:
    """Items by when they came to be; the score is in days from where the release's data ends.

    An item whose time is not known is never fresh, nor is one from after the moment of an entry.
    """

    kind = "fresh"

    def __init__(self, born_micros: Int64s, *, end: int, shard: int = 0, shards: int = 1) -> None:
        """Take when each item (N,) of the release came to be, by number; -1 is unknown."""
        self._shard, self._shards, self._end = shard, shards, end
        self._born = Growing(np.ascontiguousarray(born_micros[shard::shards]), _UNKNOWN)
        self._changed = Growing(np.zeros(len(self._born), np.bool_), False)
        self._base = self._ordered(np.arange(len(self._born)))
        self._live: _Order | None = self._ordered(np.empty(0, np.int64))

    def add_events(self, items: Int64s, times: Int64s) -> None:
        """See ItemList; events change nothing."""

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """See ItemList."""
        for change in changes:
            row = change.number // self._shards
            self._born.grow(row + 1)
            self._changed.grow(row + 1)
            self._born.values[row] = _UNKNOWN if change.item is None else change.item.born_micros
            self._changed.values[row] = True
            self._live = None

    def find(self, entry: SearchEntry, k: int, eligible: Eligible) -> tuple[Int64s, Float32s]:
        """See ItemList."""
        if self._live is None:
            self._live = self._ordered(np.flatnonzero(self._changed.values))
        rows = np.concatenate(
            [
                self._walk(self._base, entry.now, k, eligible, changed=False),
                self._walk(self._live, entry.now, k, eligible, changed=True),
            ]
        )
        numbers, scores = rows * self._shards + self._shard, self._scores(self._born.values[rows])
        order = best_first(numbers, scores)[:k]
        return numbers[order], scores[order]

    def _walk(self, own: _Order, now: int, k: int, eligible: Eligible, *, changed: bool) -> Int64s:
        """Return the first k eligible rows of an order, fewer where there are not so many."""
        # What is not born yet at that moment is the head of the order.
        start = int(np.searchsorted(own.keys, -self._scores(np.array(now)))) if now else 0
        found: list[Int64s] = []
        count, block = 0, _BLOCK
        while count < k and start < len(own.rows):
            rows = own.rows[start : start + block]
            rows = rows[self._changed.values[rows] == changed]
            rows = rows[eligible.first(rows * self._shards + self._shard, k - count)]
            found.append(rows)
            count += len(rows)
            start += block
            block *= 2
        return np.concatenate(found)[:k] if found else np.empty(0, np.int64)

    def _ordered(self, rows: Int64s) -> _Order:
        rows = rows[self._born.values[rows] != _UNKNOWN]
        keys = -self._scores(self._born.values[rows])
        order = np.lexsort((rows, keys))
        return _Order(rows[order], keys[order])

    def _scores(self, born: Int64s) -> Float32s:
        return ((born - self._end) / DAY_MICROS).astype(np.float32)


class _Order(NamedTuple):
    """Rows of a shard, newest first."""

    rows: Int64s
    keys: Float32s
    """Minus the scores, ascending."""
