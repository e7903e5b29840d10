"""CatalogService: checks a request, changes or reads the live catalogue, packs the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import grpc

from corerec.errors import NotFound
from corerec.serving.budget import Budget
from corerec.serving.wire import catalogue_item_to_proto, change_to_proto
from corerec.store.catalogue import Item
from corerec.v1 import catalog_pb2, catalog_pb2_grpc
from gateway.config import GatewayConfig
from gateway.items import checked_ids, items_to_store, page_of
from gateway.profiles import Profiles
from gateway.view import ReleaseView
from gateway.writes import CatalogueWrites, Delete, Upsert

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
T = TypeVar("T")


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """The live catalogue over the store that the gateway uses."""

    def __init__(
        self, config: GatewayConfig, view: ReleaseView, profiles: Profiles, writes: CatalogueWrites
    ) -> None:
        self._config, self._view = config, view
        self._profiles, self._writes = profiles, writes

    async def UpsertItems(
        self, request: catalog_pb2.UpsertItemsRequest, context: Context
    ) -> catalog_pb2.UpsertItemsResponse:
        """Store items; acknowledged when durable."""
        now = time.time_ns() // 1000 if self._config.clock == "wall" else self._view.data_end
        items = items_to_store(request, self._view.items, now)
        changes = await self._writes.write(Upsert(items), self._budget(context))
        return catalog_pb2.UpsertItemsResponse(
            item_numbers=[change.number for change in changes], position=changes[-1].position
        )

    async def DeleteItems(
        self, request: catalog_pb2.DeleteItemsRequest, context: Context
    ) -> catalog_pb2.DeleteItemsResponse:
        """Remove items; acknowledged when no gateway answers with them any more."""
        budget, feed = self._budget(context), self._profiles.feed
        changes = await self._writes.write(Delete(checked_ids(request.item_ids)), budget)
        feed.forget([change.number for change in changes])
        # Ids that were gone already may have been deleted a moment ago through another gateway.
        await asyncio.sleep(feed.settle)
        position = await self._read(self._profiles.store.position)
        return catalog_pb2.DeleteItemsResponse(deleted_count=len(changes), position=position)

    async def GetItems(
        self, request: catalog_pb2.GetItemsRequest, context: Context
    ) -> catalog_pb2.GetItemsResponse:
        """Return items as they are."""
        ids = checked_ids(request.item_ids)
        return catalog_pb2.GetItemsResponse(items=await self._read(lambda: self._items(ids)))

    async def ListChanges(
        self, request: catalog_pb2.ListChangesRequest, context: Context
    ) -> catalog_pb2.ListChangesResponse:
        """Return changes in the order of their positions."""
        after, most = page_of(request)
        store = self._profiles.store
        changes, position = await self._read(lambda: (store.changes(after, most), store.position()))
        return catalog_pb2.ListChangesResponse(
            changes=[change_to_proto(change) for change in changes], position=position
        )

    def _items(self, ids: tuple[str, ...]) -> list[catalog_pb2.CatalogItem]:
        """Return items in the order of their ids; runs in a thread. Raises NotFound."""
        store = self._profiles.store
        changes = store.read_items(ids)
        untouched = [i for i, change in zip(ids, changes, strict=True) if change is None]
        numbers = dict(zip(untouched, store.item_numbers(untouched), strict=True))
        known = sorted(n for n in numbers.values() if n is not None)
        released = self._view.items.read(known)
        found = []
        for item_id, change in zip(ids, changes, strict=True):
            number = numbers[item_id] if change is None else change.number
            item: Item | None = released.get(number or 0) if change is None else change.item
            if number is None or item is None:
                why = "was deleted" if change is not None else "is not in the catalogue"
                raise NotFound(f"item {item_id!r} {why}")
            found.append(
                catalog_pb2.CatalogItem(
                    item=catalogue_item_to_proto(item),
                    item_number=number,
                    position=0 if change is None else change.position,
                )
            )
        return found

    async def _read(self, read: Callable[[], T]) -> T:
        return await asyncio.to_thread(read)

    def _budget(self, context: Context) -> Budget:
        return Budget.of(
            context.time_remaining(),
            self._config.default_deadline_ms / 1000,
            self._config.max_deadline_ms / 1000,
        )
