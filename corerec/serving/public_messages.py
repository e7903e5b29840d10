"""The public services' messages as a client gives and gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
from corerec.stages import Predicate
from corerec.v1 import catalog_pb2, common_pb2, recommender_pb2


def request_to_proto(
    user_id: str,
    n: int,
    attributes: Mapping[str, str] | None,
    recent: Sequence[str],
    include_seen: bool,
    at_micros: int,
    where: Sequence[Predicate],
) -> recommender_pb2.RecommendRequest:
    """Return the request of a list."""
    return recommender_pb2.RecommendRequest(
        user_id=user_id,
        page_size=n,
        attributes=attributes,
        recent_item_ids=recent,
        include_seen=include_seen,
        request_time_micros=at_micros,
        where=[
            common_pb2.Predicate(
                attribute=p.attribute,
                any_of=p.any_of,
                none_of=p.none_of,
                at_least=p.at_least,
                at_most=p.at_most,
            )
            for p in where
        ],
    )


def events_request(events: Sequence[Event]) -> recommender_pb2.RecordEventsRequest:
    """Return the request that stores events."""
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


def recommendation_from_proto(message: recommender_pb2.RecommendResponse) -> Recommendation:
    """Return the list."""
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


def explanation_from_proto(message: recommender_pb2.ExplainResponse) -> Explanation:
    """Return the whole funnel."""
    return Explanation(
        recommendation=recommendation_from_proto(message.recommend),
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
                found_by={_source(own.source): own.score for own in t.found_by},
            )
            for t in message.traces
        ),
        history=tuple(
            HistoryItem(item_id=h.item_id, title=h.title, time_micros=h.event_time_micros)
            for h in message.history
        ),
    )


def item_to_proto(item: CatalogItem) -> catalog_pb2.Item:
    """Return the message."""
    return catalog_pb2.Item(
        item_id=item.item_id,
        title=item.title,
        category=item.category,
        creator=item.creator,
        born_micros=item.born_micros,
        attributes=item.attributes,
        lists={name: catalog_pb2.Values(values=own) for name, own in item.lists.items()},
        vectors={
            name: catalog_pb2.Vector(values=np.asarray(own, "<f4").tobytes())
            for name, own in item.vectors.items()
        },
    )


def item_from_proto(message: catalog_pb2.Item) -> CatalogItem:
    """Return the item."""
    return CatalogItem(
        item_id=message.item_id,
        title=message.title,
        category=message.category,
        creator=message.creator,
        born_micros=message.born_micros,
        attributes=dict(message.attributes),
        lists={name: tuple(own.values) for name, own in message.lists.items()},
        vectors={
            name: tuple(np.frombuffer(own.values, "<f4").tolist())
            for name, own in message.vectors.items()
        },
    )


def entries_from_proto(message: catalog_pb2.GetItemsResponse) -> tuple[CatalogEntry, ...]:
    """Return the items in the order asked."""
    return tuple(
        CatalogEntry(item=item_from_proto(own.item), number=own.item_number, position=own.position)
        for own in message.items
    )


def upserted_from_proto(message: catalog_pb2.UpsertItemsResponse) -> Upserted:
    """Return the numbers and the position."""
    return Upserted(numbers=tuple(message.item_numbers), position=message.position)


def changes_from_proto(message: catalog_pb2.ListChangesResponse) -> Changes:
    """Return the changes."""
    return Changes(
        changes=tuple(
            Change(
                position=own.position,
                number=own.item_number,
                item_id=own.item_id,
                item=item_from_proto(own.item) if own.HasField("item") else None,
            )
            for own in message.changes
        ),
        position=message.position,
    )
