"""Python clients of a CoreRec cluster: `Client` for ordinary code, `AsyncClient` for asyncio.

    with Client("localhost:50051") as client:
        answer = client.recommend("user-7", n=10)
        for item in answer.items:
            print(item.title, item.score)

Every call has a deadline. Errors are those of `corerec.errors`: InvalidArgument, NotFound,
ResourceExhausted, Unavailable, DeadlineExceeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc

from corerec.answers import (
    CatalogEntry,
    CatalogItem,
    Change,
    Changes,
    Degradation,
    Event,
    Explanation,
    HistoryItem,
    Item,
    Recommendation,
    Stage,
    Trace,
    Upserted,
)
from corerec.serving import public_messages as messages
from corerec.serving.status import error_of_call
from corerec.stages import Predicate
from corerec.v1 import catalog_pb2, catalog_pb2_grpc, recommender_pb2, recommender_pb2_grpc

__all__ = [
    "AsyncClient",
    "CatalogEntry",
    "CatalogItem",
    "Change",
    "Changes",
    "Client",
    "Degradation",
    "Event",
    "Explanation",
    "HistoryItem",
    "Item",
    "Predicate",
    "Recommendation",
    "Stage",
    "Trace",
    "Upserted",
]

_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class Client:
    """A blocking client. Safe to share between threads; use one for the life of the process.

    Args:
        address: `host:port` of a gateway.
        timeout: deadline of each call, seconds.
    """

    def __init__(self, address: str = "localhost:50051", *, timeout: float = 1.0) -> None:
        self._timeout = timeout
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub = recommender_pb2_grpc.RecommenderServiceStub(self._channel)
        self._catalog = catalog_pb2_grpc.CatalogServiceStub(self._channel)

    def recommend(
        self,
        user_id: str = "",
        n: int = 10,
        *,
        attributes: Mapping[str, str] | None = None,
        recent: Sequence[str] = (),
        include_seen: bool = False,
        at_micros: int = 0,
        where: Sequence[Predicate] = (),
        timeout: float | None = None,
    ) -> Recommendation:
        """Return the best `n` items for a user that meet every condition of `where`.

        `recent` holds this session's item ids.
        """
        request = messages.request_to_proto(
            user_id, n, attributes, recent, include_seen, at_micros, where
        )
        return messages.recommendation_from_proto(
            self._call(self._stub.Recommend, request, timeout)
        )

    def explain(
        self,
        user_id: str = "",
        items: Sequence[str] = (),
        n: int = 10,
        *,
        attributes: Mapping[str, str] | None = None,
        recent: Sequence[str] = (),
        include_seen: bool = False,
        at_micros: int = 0,
        where: Sequence[Predicate] = (),
        timeout: float | None = None,
    ) -> Explanation:
        """Return the whole funnel of one recommendation, for `items` or for all that entered it."""
        inner = messages.request_to_proto(
            user_id, n, attributes, recent, include_seen, at_micros, where
        )
        request = recommender_pb2.ExplainRequest(recommend=inner, item_ids=items)
        return messages.explanation_from_proto(self._call(self._stub.Explain, request, timeout))

    def record(self, events: Sequence[Event], *, timeout: float | None = None) -> int:
        """Store events; returns how many were new. They are durable when this returns."""
        response = self._call(self._stub.RecordEvents, messages.events_request(events), timeout)
        return int(response.stored_count)

    def upsert_items(
        self, items: Sequence[CatalogItem], *, timeout: float | None = None
    ) -> Upserted:
        """Add items or replace them whole. They are durable when this returns, found soon after."""
        request = catalog_pb2.UpsertItemsRequest(items=[messages.item_to_proto(i) for i in items])
        response = self._call(self._catalog.UpsertItems, request, timeout)
        return messages.upserted_from_proto(response)

    def delete_items(self, ids: Sequence[str], *, timeout: float | None = None) -> int:
        """Remove items; returns how many there were. No answer has them once this returns."""
        request = catalog_pb2.DeleteItemsRequest(item_ids=ids)
        response = self._call(self._catalog.DeleteItems, request, timeout)
        return int(response.deleted_count)

    def get_items(
        self, ids: Sequence[str], *, timeout: float | None = None
    ) -> tuple[CatalogEntry, ...]:
        """Return items in the order asked. Raises NotFound for one that is not there."""
        request = catalog_pb2.GetItemsRequest(item_ids=ids)
        return messages.entries_from_proto(self._call(self._catalog.GetItems, request, timeout))

    def changes(self, after: int = 0, n: int = 100, *, timeout: float | None = None) -> Changes:
        """Return up to `n` changes of the catalogue after a position."""
        request = catalog_pb2.ListChangesRequest(after_position=after, page_size=n)
        response = self._call(self._catalog.ListChanges, request, timeout)
        return messages.changes_from_proto(response)

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=timeout or self._timeout)
        except grpc.RpcError as error:
            raise error_of_call(error) from None

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """The same client for asyncio; belongs to the event loop that it is made in.

    Args:
        address: `host:port` of a gateway.
        timeout: deadline of each call, seconds.
    """

    def __init__(self, address: str = "localhost:50051", *, timeout: float = 1.0) -> None:
        self._timeout = timeout
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = recommender_pb2_grpc.RecommenderServiceStub(self._channel)
        self._catalog = catalog_pb2_grpc.CatalogServiceStub(self._channel)

    async def recommend(
        self,
        user_id: str = "",
        n: int = 10,
        *,
        attributes: Mapping[str, str] | None = None,
        recent: Sequence[str] = (),
        include_seen: bool = False,
        at_micros: int = 0,
        where: Sequence[Predicate] = (),
        timeout: float | None = None,
    ) -> Recommendation:
        """Return the best `n` items for a user that meet every condition of `where`.

        `recent` holds this session's item ids.
        """
        request = messages.request_to_proto(
            user_id, n, attributes, recent, include_seen, at_micros, where
        )
        return messages.recommendation_from_proto(
            await self._call(self._stub.Recommend, request, timeout)
        )

    async def explain(
        self,
        user_id: str = "",
        items: Sequence[str] = (),
        n: int = 10,
        *,
        attributes: Mapping[str, str] | None = None,
        recent: Sequence[str] = (),
        include_seen: bool = False,
        at_micros: int = 0,
        where: Sequence[Predicate] = (),
        timeout: float | None = None,
    ) -> Explanation:
        """Return the whole funnel of one recommendation, for `items` or for all that entered it."""
        inner = messages.request_to_proto(
            user_id, n, attributes, recent, include_seen, at_micros, where
        )
        request = recommender_pb2.ExplainRequest(recommend=inner, item_ids=items)
        return messages.explanation_from_proto(
            await self._call(self._stub.Explain, request, timeout)
        )

    async def record(self, events: Sequence[Event], *, timeout: float | None = None) -> int:
        """Store events; returns how many were new. They are durable when this returns."""
        response = await self._call(
            self._stub.RecordEvents, messages.events_request(events), timeout
        )
        return int(response.stored_count)

    async def upsert_items(
        self, items: Sequence[CatalogItem], *, timeout: float | None = None
    ) -> Upserted:
        """Add items or replace them whole. They are durable when this returns, found soon after."""
        request = catalog_pb2.UpsertItemsRequest(items=[messages.item_to_proto(i) for i in items])
        response = await self._call(self._catalog.UpsertItems, request, timeout)
        return messages.upserted_from_proto(response)

    async def delete_items(self, ids: Sequence[str], *, timeout: float | None = None) -> int:
        """Remove items; returns how many there were. No answer has them once this returns."""
        request = catalog_pb2.DeleteItemsRequest(item_ids=ids)
        response = await self._call(self._catalog.DeleteItems, request, timeout)
        return int(response.deleted_count)

    async def get_items(
        self, ids: Sequence[str], *, timeout: float | None = None
    ) -> tuple[CatalogEntry, ...]:
        """Return items in the order asked. Raises NotFound for one that is not there."""
        request = catalog_pb2.GetItemsRequest(item_ids=ids)
        return messages.entries_from_proto(
            await self._call(self._catalog.GetItems, request, timeout)
        )

    async def changes(
        self, after: int = 0, n: int = 100, *, timeout: float | None = None
    ) -> Changes:
        """Return up to `n` changes of the catalogue after a position."""
        request = catalog_pb2.ListChangesRequest(after_position=after, page_size=n)
        response = await self._call(self._catalog.ListChanges, request, timeout)
        return messages.changes_from_proto(response)

    async def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return await method(request, timeout=timeout or self._timeout)
        except grpc.RpcError as error:
            raise error_of_call(error) from None

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
