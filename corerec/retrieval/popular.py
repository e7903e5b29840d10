"""The popular list: what is asked for most lately, for users of whom nothing is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corerec.errors import ReleaseError
from corerec.retrieval.merge import best_first
from corerec.stages import Float32s, Int64s

MAX_POPULAR = 1000
HALF_LIFE_DAYS = 14.0
_DAY_MICROS = 86_400_000_000


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

    def of_shard(self, shard: int, shards: int) -> PopularList:
        """Return the items whose number is `shard` modulo `shards`, ties by lower number."""
        order = best_first(self.numbers, self.scores)
        order = order[self.numbers[order] % shards == shard]
        return PopularList(self.numbers[order], self.scores[order])

    def best(self, k: int, excluded: Int64s) -> tuple[Int64s, Float32s]:
        """Return the first k that are not excluded, and their scores."""
        rows = np.flatnonzero(~np.isin(self.numbers, excluded))[:k]
        return self.numbers[rows], self.scores[rows]

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
