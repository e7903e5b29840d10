"""OwnItems: which items a shard has, which of them are alive, and which an entry may have."""

# n items

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corerec.live.arrays import Growing
from corerec.retrieval.fuse_kernel import among, first_eligible
from corerec.stages import Int64s

Mask = NDArray[np.bool_]


class OwnItems:
    """The items whose number is `shard` modulo `shards`, and which of them are alive."""

    def __init__(self, count: int, shard: int = 0, shards: int = 1) -> None:
        """Begin with the items of a release of `count` items, all alive."""
        self.shard, self.shards = shard, shards
        rows = len(range(shard, count, shards))
        self._alive = Growing(np.ones(rows, np.bool_), False)

    def own(self, numbers: Int64s) -> Mask:
        """Say which numbers are of this shard."""
        found: Mask = numbers % self.shards == self.shard
        return found

    def alive(self, numbers: Int64s) -> Mask:
        """Say which numbers of this shard have an item that is alive."""
        rows = numbers // self.shards
        inside = rows < len(self._alive)
        return inside & self._alive.values[np.where(inside, rows, 0)] if len(rows) else inside

    @property
    def mask(self) -> Mask:
        """By row of the shard, which have an item that is alive."""
        return self._alive.values

    @property
    def rows(self) -> int:
        """Numbers of the shard up to the highest that is known, alive or not."""
        return len(self._alive)

    def numbers(self, start: int, stop: int) -> Int64s:
        """Return the numbers of a range of rows, alive or not, ascending."""
        return np.arange(start, min(stop, self.rows)) * self.shards + self.shard

    def put(self, numbers: Int64s, *, alive: bool) -> None:
        """Set which of these numbers of the shard are alive."""
        if len(numbers):
            rows = numbers // self.shards
            self._alive.grow(int(rows.max()) + 1)
            self._alive.values[rows] = alive


@dataclass(frozen=True, kw_only=True)
class Eligible:
    """What an entry may have: alive, meeting its conditions, not excluded."""

    items: OwnItems
    allowed: Mask | None = None
    """By item number; numbers beyond it are not allowed. None allows all."""
    excluded: Int64s

    def first(self, numbers: Int64s, most: int) -> Int64s:
        """Return the places of the first eligible ones, at most so many, of numbers of the shard.

        It looks no further than it must, so that the head of a long list costs little.
        """
        items = self.items
        return first_eligible(numbers, items.mask, items.shards, self.allowed, self.excluded, most)

    def test(self, numbers: Int64s) -> Mask:
        """Say which of these numbers (n,) of the shard are eligible."""
        found = self.items.alive(numbers)
        if self.allowed is not None:
            inside = numbers < len(self.allowed)
            found &= inside
            found[inside] &= self.allowed[numbers[inside]]
        if len(self.excluded):
            found &= ~among(numbers, self.excluded)
        return found
