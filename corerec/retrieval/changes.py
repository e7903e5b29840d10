"""ShardChanges: carries changes of the catalogue to every source of a shard."""

# n items

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from corerec.live.content import KIND, ContentSide, EncodedItems
from corerec.retrieval.filters import AttributeTable
from corerec.retrieval.shard_search import ShardSearch
from corerec.stages import Float32s, Int64s
from corerec.store.catalogue import Item, ItemChange

log = logging.getLogger(__name__)


def encode_changes(content: ContentSide, changes: Sequence[ItemChange]) -> EncodedItems:
    """Return the items that the changes leave, each at its newest; those refused are left out."""
    newest = {change.number: change.item for change in changes}
    there = {number: item for number, item in newest.items() if item is not None}
    return content.encode_good(np.array(list(there), np.int64), list(there.values()))


class ShardChanges:
    """What has to know of a change: indexes, lists, attributes, and which items are alive."""

    def __init__(
        self,
        search: ShardSearch,
        *,
        attributes: AttributeTable | None,
        content: ContentSide | None,
    ) -> None:
        self._items, self._vectors, self._lists = search.items, search.vectors, search.lists
        self._popular, self._attributes, self._content = search.popular, attributes, content
        self.position = 0
        """Position of the newest change that was applied."""
        self.refused = 0
        """Items that could not be encoded."""

    def warm(self) -> None:
        """Encode an item of which nothing is known: the first reads the weights from the disk."""
        content = self._content
        if content is not None and content.has_tower:
            content.encode(np.array([content.item_count]), [Item(item_id="-")])

    def apply(
        self,
        changes: Sequence[ItemChange],
        encoded: EncodedItems | None,
        *,
        indexed: bool = False,
    ) -> None:
        """Take changes, those up to `position` not again; `indexed` ones are in the indexes."""
        fresh = [change for change in changes if change.position > self.position]
        if not fresh:
            return
        self._take(fresh, encoded, indexed=indexed)
        self.position = fresh[-1].position

    def _take(
        self, changes: Sequence[ItemChange], encoded: EncodedItems | None, *, indexed: bool
    ) -> None:
        if self._attributes is not None:
            # All of them: a name that one shard knows can be asked of every shard.
            self._attributes.apply(changes)
        newest = {
            c.number: c for c in changes if c.number % self._items.shards == self._items.shard
        }
        own = list(newest.values())
        if not own:
            return
        gone = _numbers([change for change in own if change.item is None])
        there = _numbers([change for change in own if change.item is not None])
        back = there[~self._items.alive(there)]
        self._items.put(gone, alive=False)
        self._items.put(there, alive=True)
        numbers, vectors = self._encode(own, there, encoded)
        for source in self._vectors:
            if source.kind == KIND and len(numbers):
                source.upsert(numbers, vectors, indexed=indexed)
            if not indexed:
                source.remove(gone)
                known = numbers if source.kind == KIND else numbers[:0]
                source.restore(back[~np.isin(back, known)])
        for lists in self._lists:
            lists.apply(own)
        self._popular.forget()

    def _encode(
        self, own: Sequence[ItemChange], there: Int64s, encoded: EncodedItems | None
    ) -> tuple[Int64s, Float32s]:
        """Return numbers and vectors of the items that have a vector by their content."""
        nothing = there[:0], np.empty((0, 0), np.float32)
        if self._content is None or not self._content.has_tower or not len(there):
            return nothing
        if encoded is None:
            encoded = encode_changes(self._content, own)
        for reason in encoded.refused:
            self.refused += 1
            log.warning("no vector of a changed item: %s", reason)
        kept = np.isin(encoded.numbers, there)
        return encoded.numbers[kept], encoded.vectors[kept]


def _numbers(changes: Sequence[ItemChange]) -> Int64s:
    return np.array([change.number for change in changes], np.int64)
