"""Trending: what is asked for most lately, by counts that halve in a set time."""

# N items, E events, n items of a list

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corerec.live.arrays import Growing
from corerec.retrieval.merge import best_first
from corerec.retrieval.owned import Eligible
from corerec.stages import Float32s, Int64s, SearchEntry
from corerec.store.catalogue import ItemChange

HOUR_MICROS = 3_600_000_000
_HEAD = 4096
"""Items whose order is kept between refreshes."""
_HIGHEST = 500.0
"""Halvings by which counts may stand above those at the origin before all are scaled down."""


class Trending:
    """Items by decayed counts; the score is log2 of the count as of where the release's data ends.

    An event counts 2^(t / half-life), t measured from there, so the order is right at any moment
    and nothing has to be made smaller as time goes on. New events change the order within a second.
    """

    kind = "trending"

    def __init__(
        self,
        items: Int64s,
        times: Int64s,
        *,
        end: int,
        half_life_hours: float,
        shard: int = 0,
        shards: int = 1,
        refresh_seconds: float = 1.0,
    ) -> None:
        """Count events (E,) of any items; `end`, microseconds since 1970, is the origin."""
        self._end, self._half_life = end, half_life_hours * HOUR_MICROS
        self._shard, self._shards, self._wait = shard, shards, refresh_seconds
        self._counts: Growing[np.float64] = Growing(np.zeros(0, np.float64))
        self._scale = 0.0  # counts are held times 2^-scale
        self._fresh, self._refreshed = False, -np.inf
        self._head: tuple[Int64s, Float32s] = (np.empty(0, np.int64), np.empty(0, np.float32))
        self._whole = True
        self.add_events(items, times)

    def add_events(self, items: Int64s, times: Int64s) -> None:
        """See ItemList; events of other shards are left out."""
        own = (items >= 0) & (items % self._shards == self._shard)
        rows, halvings = items[own] // self._shards, (times[own] - self._end) / self._half_life
        if not len(rows):
            return
        self._counts.grow(int(rows.max()) + 1)
        if (highest := float(halvings.max())) - self._scale > _HIGHEST:
            # A power of two: scaling loses nothing but what is too small to matter.
            step = float(np.ceil(highest - self._scale))
            self._counts.values *= np.exp2(-step)
            self._scale += step
        np.add.at(self._counts.values, rows, np.exp2(np.maximum(halvings - self._scale, -1000)))
        self._fresh = False

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """See ItemList; what an item is changes nothing."""

    def find(self, entry: SearchEntry, k: int, eligible: Eligible) -> tuple[Int64s, Float32s]:
        """See ItemList."""
        self._refresh()
        numbers, scores = self._head
        rows = eligible.first(numbers, k)
        if len(rows) < k and not self._whole:
            every = self._counted()
            kept = every[eligible.test(every)]
            own = self._scores(kept)
            order = best_first(kept, own)[:k]
            return kept[order], own[order]
        return numbers[rows], scores[rows]

    def _counted(self) -> Int64s:
        return np.flatnonzero(self._counts.values) * self._shards + self._shard

    def _scores(self, numbers: Int64s) -> Float32s:
        logs: NDArray[np.float64] = np.log2(self._counts.values[numbers // self._shards])
        return (logs + self._scale).astype(np.float32)

    def _refresh(self) -> None:
        """Order the head anew when events came, at most so often as was set."""
        now = time.monotonic()
        if self._fresh or now - self._refreshed < self._wait:
            return
        numbers = self._counted()
        scores = self._scores(numbers)
        self._whole = len(numbers) <= _HEAD
        if not self._whole:
            least = np.partition(scores, len(scores) - _HEAD)[len(scores) - _HEAD]
            numbers, scores = numbers[scores >= least], scores[scores >= least]
        order = best_first(numbers, scores)
        self._head = numbers[order], scores[order]
        self._fresh, self._refreshed = True, now
