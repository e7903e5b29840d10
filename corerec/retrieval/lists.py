"""ItemList: a source without a model, over the items of one shard. Lists are of time and counts."""

# E events

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from corerec.retrieval.owned import Eligible
from corerec.stages import Float32s, Int64s, SearchEntry
from corerec.store.catalogue import ItemChange


class ItemList(Protocol):
    """What ShardCore asks of a source that has no vectors."""

    @property
    def kind(self) -> str:
        """Its name in quotas and timings."""
        ...

    def find(self, entry: SearchEntry, k: int, eligible: Eligible) -> tuple[Int64s, Float32s]:
        """Return at most k eligible items and their scores, best first, ties by lower number.

        Scores do not depend on how items are sharded.
        """
        ...

    def add_events(self, items: Int64s, times: Int64s) -> None:
        """Learn of events (E,) of items of this shard, times in microseconds since 1970."""
        ...

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Learn of changes of items of this shard."""
        ...
