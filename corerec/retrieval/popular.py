"""The popular list: what is asked for most lately, for users of whom nothing is known."""

# E events, P items of the list

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corerec.errors import ReleaseError
from corerec.retrieval.fuse_kernel import first_outside
from corerec.retrieval.merge import best_first
from corerec.retrieval.owned import Eligible
from corerec.stages import Float32s, Int64s, Predicate

MAX_POPULAR = 1000
HALF_LIFE_DAYS = 14.0
_DAY_MICROS = 86_400_000_000
_KEPT = 256


@dataclass(frozen=True)
class PopularList:
    """Items by popularity, best first."""

    numbers: Int64s  # (P,)
    scores: Float32s  # (P,)

    @classmethod
    def count(cls, items: Int64s, times: Int64s | None, item_count: int) -> PopularList:
        """Return the items with the most interactions, each weighing half after 14 days.

        Without times every interaction weighs the same. Items nobody touched are left out.

        Shapes: items, times (E,), times in microseconds, measured back from the last of them.
        """
        weights = None
        if times is not None and len(times):
            weights = np.exp2((times - times.max()) / (HALF_LIFE_DAYS * _DAY_MICROS))
        scores = np.bincount(items, weights=weights, minlength=item_count)
        order = np.argsort(-scores, kind="stable")[:MAX_POPULAR]
        order = order[scores[order] > 0]
        return cls(order.astype(np.int64), scores[order].astype(np.float32))

    def save(self, path: Path) -> None:
        """Write item_number and score, best first, as Parquet."""
        pl.DataFrame({"item_number": self.numbers, "score": self.scores}).write_parquet(path)

    @classmethod
    def load(cls, path: Path, item_count: int) -> PopularList:
        """Return the list in a file. Raises ReleaseError when it does not fit the catalogue."""
        table = pl.read_parquet(path)
        if table.columns != ["item_number", "score"]:
            raise ReleaseError(f"{path}: must have item_number and score, got {table.columns}")
        numbers = table["item_number"].cast(pl.Int64).to_numpy()
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= item_count):
            raise ReleaseError(f"{path}: item numbers must be in [0, {item_count})")
        return cls(numbers.copy(), table["score"].cast(pl.Float32).to_numpy().copy())


class Popular:
    """The popular list of a shard; what meets some conditions is kept until the catalogue changes.

    One list serves every k, since a shorter one is its head.
    """

    def __init__(self, items: PopularList, shard: int = 0, shards: int = 1) -> None:
        """Take the items whose number is `shard` modulo `shards`."""
        order = best_first(items.numbers, items.scores)
        order = order[items.numbers[order] % shards == shard]
        self._numbers, self._scores = items.numbers[order], items.scores[order]
        self._kept: OrderedDict[tuple[Predicate, ...], tuple[Int64s, Float32s]] = OrderedDict()
        self.hits = 0
        """Entries whose list was there."""
        self.misses = 0
        """Entries whose list was made."""

    def find(
        self, where: tuple[Predicate, ...], k: int, eligible: Eligible
    ) -> tuple[Int64s, Float32s]:
        """Return the first k eligible items and their scores; `where` made `eligible.allowed`."""
        kept = self._kept.get(where)
        if kept is None:
            self.misses += 1
            everyone = Eligible(
                items=eligible.items, allowed=eligible.allowed, excluded=np.empty(0, np.int64)
            )
            there = everyone.test(self._numbers)
            kept = self._kept[where] = self._numbers[there], self._scores[there]
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self.hits += 1
        numbers, scores = kept
        if len(eligible.excluded):
            rows = first_outside(numbers, eligible.excluded, k)
            return numbers[rows], scores[rows]
        return numbers[:k], scores[:k]

    def forget(self) -> None:
        """Make the lists anew: items came, went or changed."""
        self._kept.clear()
