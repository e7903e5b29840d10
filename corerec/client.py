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
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from corerec.serving.status import error_of_call
from corerec.v1 import common_pb2, recommender_pb2, recommender_pb2_grpc

_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One recommended item."""

    item_id: str
    title: str
    category: str
    creator: str
    score: float
    """Score after all rules."""
    rank_score: float
    """Probability of interaction that ranking gave."""
    source: str
    """What brought it into the funnel: two_tower, bert4rec, matrix_factorization, popular or
    pinned."""
    rank_position: int
    """Place in the ranked list, from 1; 0 for a pinned item that was not in it."""
    moves: tuple[str, ...]
    """What moved it, in words, in the order in which the rules ran."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage did; times in milliseconds."""

    name: str
    input_count: int
    output_count: int
    milliseconds: float
    steps: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """One thing that was missing from an answer."""

    stage: str
    reason: str
    """timeout, unavailable, overloaded, error, release_mismatch or partial."""
    note: str


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A list and how it came about."""

    items: tuple[Item, ...]
    request_id: str
    release: str
    stages: tuple[Stage, ...]
    coverage: float
    """Share of retrieval that answered: of the sources' places and of the catalogue, [0, 1]."""
    degraded: tuple[Degradation, ...]
    """Everything that was missing; empty when nothing was."""
    milliseconds: float
    """Wall time inside the gateway."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One item's way through the funnel. Positions count from 1; 0 means not there."""

    item_id: str
    title: str
    source: str
    retrieve_position: int
    retrieve_score: float
    rank_position: int
    rank_score: float
    final_position: int
    final_score: float
    moves: tuple[str, ...]
    removed_by: str
    """Where it left the funnel; empty when it is in the list."""
    note: str


@dataclass(frozen=True, kw_only=True)
class HistoryItem:
    """One past event of the user."""

    item_id: str
    title: str
    time_micros: int


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The whole funnel of one request."""

    recommendation: Recommendation
    traces: tuple[Trace, ...]
    history: tuple[HistoryItem, ...]
    """The user's newest items, newest first."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One interaction to record."""

    user_id: str
    item_id: str
    time_micros: int = 0
    """Microseconds since 1970-01-01 UTC; 0 means now."""
    event_type: str = ""
    event_id: str = ""
    """Makes a retry safe: an event with an id is stored once."""


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

    def recommend(
        self,
        user_id: str = "",
        n: int = 10,
        *,
        attributes: Mapping[str, str] | None = None,
        recent: Sequence[str] = (),
        include_seen: bool = False,
        at_micros: int = 0,
        timeout: float | None = None,
    ) -> Recommendation:
        """Return the best `n` items for a user. `recent` holds this session's item ids."""
        request = _request(user_id, n, attributes, recent, include_seen, at_micros)
        return _recommendation(self._call(self._stub.Recommend, request, timeout))

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
        timeout: float | None = None,
    ) -> Explanation:
        """Return the whole funnel of one recommendation, for `items` or for all that entered it."""
        inner = _request(user_id, n, attributes, recent, include_seen, at_micros)
        request = recommender_pb2.ExplainRequest(recommend=inner, item_ids=items)
        return _explanation(self._call(self._stub.Explain, request, timeout))

    def record(self, events: Sequence[Event], *, timeout: float | None = None) -> int:
        """Store events; returns how many were new. They are durable when this returns."""
        response = self._call(self._stub.RecordEvents, _events(events), timeout)
        return int(response.stored_count)

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

    async def recommend(
        self,
        user_id: str = "",
        n: int = 10,
        *,
        attributes: Mapping[str, str] | None = None,
        recent: Sequence[str] = (),
        include_seen: bool = False,
        at_micros: int = 0,
        timeout: float | None = None,
    ) -> Recommendation:
        """Return the best `n` items for a user. `recent` holds this session's item ids."""
        request = _request(user_id, n, attributes, recent, include_seen, at_micros)
        return _recommendation(await self._call(self._stub.Recommend, request, timeout))

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
        timeout: float | None = None,
    ) -> Explanation:
        """Return the whole funnel of one recommendation, for `items` or for all that entered it."""
        inner = _request(user_id, n, attributes, recent, include_seen, at_micros)
        request = recommender_pb2.ExplainRequest(recommend=inner, item_ids=items)
        return _explanation(await self._call(self._stub.Explain, request, timeout))

    async def record(self, events: Sequence[Event], *, timeout: float | None = None) -> int:
        """Store events; returns how many were new. They are durable when this returns."""
        response = await self._call(self._stub.RecordEvents, _events(events), timeout)
        return int(response.stored_count)

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


def _request(
    user_id: str,
    n: int,
    attributes: Mapping[str, str] | None,
    recent: Sequence[str],
    include_seen: bool,
    at_micros: int,
) -> recommender_pb2.RecommendRequest:
    return recommender_pb2.RecommendRequest(
        user_id=user_id,
        page_size=n,
        attributes=attributes,
        recent_item_ids=recent,
        include_seen=include_seen,
        request_time_micros=at_micros,
    )


def _events(events: Sequence[Event]) -> recommender_pb2.RecordEventsRequest:
    return recommender_pb2.RecordEventsRequest(
        events=[
            recommender_pb2.Event(
                user_id=e.user_id,
                item_id=e.item_id,
                event_time_micros=e.time_micros,
                event_type=e.event_type,
                event_id=e.event_id,
            )
            for e in events
        ]
    )


def _source(value: int) -> str:
    name = str(common_pb2.CandidateSource.Name(value))
    return name.removeprefix("CANDIDATE_SOURCE_").lower().replace("unspecified", "")


def _moves(messages: Any) -> tuple[str, ...]:
    return tuple(f"{m.rule}: {m.note}" if m.note else m.rule for m in messages)


def _recommendation(message: recommender_pb2.RecommendResponse) -> Recommendation:
    return Recommendation(
        items=tuple(
            Item(
                item_id=i.item_id,
                title=i.title,
                category=i.category,
                creator=i.creator,
                score=i.score,
                rank_score=i.rank_score,
                source=_source(i.source),
                rank_position=i.rank_position,
                moves=_moves(i.moves),
            )
            for i in message.items
        ),
        request_id=message.request_id,
        release=message.release,
        stages=tuple(
            Stage(
                name=s.stage,
                input_count=s.input_count,
                output_count=s.output_count,
                milliseconds=s.latency_micros / 1000,
                steps={t.name: t.latency_micros / 1000 for t in s.steps},
            )
            for s in message.stages
        ),
        coverage=message.coverage,
        degraded=tuple(
            Degradation(stage=d.stage, reason=_reason(d.reason), note=d.note)
            for d in message.degraded
        ),
        milliseconds=message.latency_micros / 1000,
    )


def _reason(value: int) -> str:
    name = str(recommender_pb2.DegradationReason.Name(value))
    return name.removeprefix("DEGRADATION_REASON_").lower()


def _explanation(message: recommender_pb2.ExplainResponse) -> Explanation:
    return Explanation(
        recommendation=_recommendation(message.recommend),
        traces=tuple(
            Trace(
                item_id=t.item_id,
                title=t.title,
                source=_source(t.source),
                retrieve_position=t.retrieve_position,
                retrieve_score=t.retrieve_score,
                rank_position=t.rank_position,
                rank_score=t.rank_score,
                final_position=t.final_position,
                final_score=t.final_score,
                moves=_moves(t.moves),
                removed_by=t.removed_by,
                note=t.note,
            )
            for t in message.traces
        ),
        history=tuple(
            HistoryItem(item_id=h.item_id, title=h.title, time_micros=h.event_time_micros)
            for h in message.history
        ),
    )
