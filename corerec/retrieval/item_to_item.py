"""ItemToItem: what followed the user's last items, by the release's table of transitions."""

# H items of a history, n items of a list

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corerec.ranking.transitions import TransitionTable
from corerec.retrieval.merge import best_first
from corerec.retrieval.owned import Eligible
from corerec.stages import Float32s, Int64s, SearchEntry
from corerec.store.catalogue import ItemChange

LAST = 10
"""So many of the user's newest items are looked at."""
DECAY = 0.8
"""An item one event further back counts this much less."""


class ItemToItem:
    """Items by how likely they follow each of the newest items, summed with decay."""

    kind = "item_to_item"

    def __init__(self, table: TransitionTable, *, shard: int = 0, shards: int = 1) -> None:
        """Keep the followers that are of a shard."""
        own = table.followers % shards == shard
        before = np.concatenate([[0], np.cumsum(own)])
        self._starts: NDArray[np.int64] = before[table.starts]
        self._followers = table.followers[own].astype(np.int64)
        self._weights = table.weights[own].astype(np.float64)

    def add_events(self, items: Int64s, times: Int64s) -> None:
        """See ItemList; the table is the release's."""

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """See ItemList; nothing is known yet of what follows a new item."""

    def find(self, entry: SearchEntry, k: int, eligible: Eligible) -> tuple[Int64s, Float32s]:
        """See ItemList."""
        known = (entry.history >= 0) & (entry.history < len(self._starts) - 1)
        last = entry.history[known][: -LAST - 1 : -1].tolist()  # newest first
        if not last:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        parts = [slice(self._starts[item], self._starts[item + 1]) for item in last]
        followers = np.concatenate([self._followers[part] for part in parts])
        weights = np.concatenate(
            [self._weights[part] * DECAY**back for back, part in enumerate(parts)]
        )
        numbers, places = np.unique(followers, return_inverse=True)
        scores = np.bincount(places, weights, minlength=len(numbers)).astype(np.float32)
        kept = eligible.test(numbers)
        numbers, scores = numbers[kept], scores[kept]
        order = best_first(numbers, scores)[:k]
        return numbers[order], scores[order]
