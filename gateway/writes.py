"""Writes to the catalogue: bounded, durable when they return, many callers in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corerec.errors import CoreRecError
from corerec.serving.batching import Batcher
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.store import Store
from corerec.store.catalogue import Item, ItemChange

Changes = list[ItemChange]


@dataclass(frozen=True, slots=True)
class Upsert:
    """Items to add or replace, each id once."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """Ids of items to remove."""

    ids: tuple[str, ...]


Write = Upsert | Delete


class _Writes:
    """Writes as a core that the batcher can run, in the order in which they came."""

    release = ""

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, entry: Write) -> None:
        pass

    def warm(self) -> None:
        pass

    def run(self, entries: Sequence[Write]) -> Sequence[Changes | CoreRecError]:
        results: list[Changes | CoreRecError] = []
        for group in _groups(entries):
            results += self._together(group)
        return results

    def _together(self, group: Sequence[Write]) -> list[Changes | CoreRecError]:
        """Write a group in one transaction; when that fails, each alone, to spare neighbours."""
        if len(group) == 1:
            return [self._alone(group[0])]
        upserts = [write.items for write in group if isinstance(write, Upsert)]
        try:
            changes = self._store.upsert_items([item for items in upserts for item in items])
        except CoreRecError:
            return [self._alone(write) for write in group]
        found: list[Changes | CoreRecError] = []
        for items in upserts:
            found.append(changes[: len(items)])
            changes = changes[len(items) :]
        return found

    def _alone(self, write: Write) -> Changes | CoreRecError:
        try:
            if isinstance(write, Upsert):
                return self._store.upsert_items(write.items)
            return self._store.delete_items(write.ids)
        except CoreRecError as error:
            return error


def _groups(entries: Sequence[Write]) -> list[list[Write]]:
    """Split writes into runs of upserts of different ids; a delete is a run of its own."""
    groups: list[list[Write]] = []
    taken: set[str] = set()
    for write in entries:
        ids = {item.item_id for item in write.items} if isinstance(write, Upsert) else set()
        if groups and ids and taken and not ids & taken:
            groups[-1].append(write)
            taken |= ids
        else:
            groups.append([write])
            taken = set(ids)
    return groups


class CatalogueWrites:
    """The way to change the catalogue.

    Args:
        most: writes that may wait; one more gets ResourceExhausted.
    """

    def __init__(self, store: Store, metrics: Metrics, *, most: int) -> None:
        self._batcher: Batcher[Write, Changes] = Batcher(
            _Writes(store), stage="catalogue", metrics=metrics, max_queue=most, max_batch=64
        )

    async def write(self, write: Write, budget: Budget) -> Changes:
        """Return the changes, durable by now. Raises Unavailable, ResourceExhausted and others."""
        return (await self._batcher.call(write, budget)).result

    async def close(self) -> None:
        """Finish what waits."""
        await self._batcher.close()
