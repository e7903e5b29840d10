"""Checks public requests and turns them into queries and events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from corerec.errors import InvalidArgument, NotFound
from corerec.live.catalogue import LiveCatalogue
from corerec.serving.wire import predicates_from_proto
from corerec.store import Event
from corerec.v1 import recommender_pb2
from gateway.config import GatewayConfig
from gateway.outcome import NO_ITEMS, Query

MAX_PAGE_SIZE = 100
DEFAULT_PAGE_SIZE = 10
MAX_TEXT_BYTES = 256
MAX_ATTRIBUTES = 64
MAX_RECENT = 100
MAX_EXPLAINED = 100
MAX_EVENTS = 1000
MAX_EVENT_TEXT_BYTES = 64
MAX_MICROS = 253_402_300_800_000_000
"""The year 10000, microseconds since 1970."""


def query_of(
    request: recommender_pb2.RecommendRequest,
    config: GatewayConfig,
    catalogue: LiveCatalogue,
    request_id: str,
) -> Query:
    """Return the checked query. Raises InvalidArgument."""
    if not 0 <= request.page_size <= MAX_PAGE_SIZE:
        raise InvalidArgument(
            f"page_size must be in [1, {MAX_PAGE_SIZE}] or 0 for {DEFAULT_PAGE_SIZE}, "
            f"got {request.page_size}"
        )
    user_id, now, attributes = (
        request.user_id,
        request.request_time_micros,
        dict(request.attributes),
    )
    _check_text("user_id", user_id, 0, MAX_TEXT_BYTES)
    if attributes:
        _check_attributes(attributes)
    _check_micros("request_time_micros", now)
    # Most requests have neither: what would find that out is not begun.
    where = predicates_from_proto(request.where) if request.where else ()
    ids = request.recent_item_ids
    recent = _recent(ids, catalogue) if ids else []
    if not now and config.clock == "wall":
        now = time.time_ns() // 1000
    return Query(
        request_id=request_id,
        user_id=user_id,
        page_size=request.page_size or DEFAULT_PAGE_SIZE,
        attributes=attributes,
        recent=np.array(recent, np.int64) if recent else NO_ITEMS,
        unknown_recent=len(ids) - len(recent),
        exclude_seen=not request.include_seen,
        where=where,
        now=now,
    )


def _check_attributes(attributes: Mapping[str, str]) -> None:
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidArgument(
            f"attributes must number at most {MAX_ATTRIBUTES}, got {len(attributes)}"
        )
    for name, value in attributes.items():
        _check_text("attributes name", name, 1, MAX_TEXT_BYTES)
        _check_text(f"attributes[{name!r}]", value, 0, MAX_TEXT_BYTES)


def _recent(ids: Sequence[str], catalogue: LiveCatalogue) -> list[int]:
    if len(ids) > MAX_RECENT:
        raise InvalidArgument(f"recent_item_ids must number at most {MAX_RECENT}, got {len(ids)}")
    for item_id in ids:
        _check_text("recent_item_ids", item_id, 1, MAX_TEXT_BYTES)
    numbers = (catalogue.number_of(item_id) for item_id in ids)
    return [number for number in numbers if number is not None]


def explained_numbers(ids: Sequence[str], catalogue: LiveCatalogue) -> list[int]:
    """Return the item numbers to explain.

    Raises:
        InvalidArgument: too many ids, or one that is empty or too long.
        NotFound: an item that the catalogue does not have, or has no more.
    """
    if len(ids) > MAX_EXPLAINED:
        raise InvalidArgument(f"item_ids must number at most {MAX_EXPLAINED}, got {len(ids)}")
    for item_id in ids:
        _check_text("item_ids", item_id, 1, MAX_TEXT_BYTES)
    numbers = [_number(item_id, catalogue) for item_id in ids]
    for item_id, number in zip(ids, numbers, strict=True):
        if not catalogue.is_alive(number):
            raise NotFound(f"item {item_id!r} was deleted")
    return numbers


def events_of(
    request: recommender_pb2.RecordEventsRequest, catalogue: LiveCatalogue
) -> list[Event]:
    """Return the checked events. Raises InvalidArgument, NotFound for an unknown item."""
    if not 1 <= len(request.events) <= MAX_EVENTS:
        raise InvalidArgument(f"events must number in [1, {MAX_EVENTS}], got {len(request.events)}")
    now = time.time_ns() // 1000
    return [_event(event, f"events[{i}]", now, catalogue) for i, event in enumerate(request.events)]


def _event(event: recommender_pb2.Event, name: str, now: int, catalogue: LiveCatalogue) -> Event:
    _check_text(f"{name}.user_id", event.user_id, 1, MAX_TEXT_BYTES)
    _check_text(f"{name}.item_id", event.item_id, 1, MAX_TEXT_BYTES)
    _check_text(f"{name}.event_type", event.event_type, 0, MAX_EVENT_TEXT_BYTES)
    _check_text(f"{name}.event_id", event.event_id, 0, MAX_EVENT_TEXT_BYTES)
    _check_micros(f"{name}.event_time_micros", event.event_time_micros)
    return Event(
        user_id=event.user_id,
        item_id=event.item_id,
        item_number=_number(event.item_id, catalogue),
        time_micros=event.event_time_micros or now,
        event_type=event.event_type or "interaction",
        event_id=event.event_id,
    )


def _number(item_id: str, catalogue: LiveCatalogue) -> int:
    number = catalogue.number_of(item_id)
    if number is None:
        raise NotFound(f"item {item_id!r} is not in the catalogue")
    return number


def _check_text(name: str, text: str, least: int, most: int) -> None:
    size = len(text.encode())
    if not least <= size <= most:
        raise InvalidArgument(f"{name} must have [{least}, {most}] bytes of UTF-8, got {size}")


def _check_micros(name: str, micros: int) -> None:
    if not 0 <= micros < MAX_MICROS:
        raise InvalidArgument(f"{name} must be in [0, {MAX_MICROS}), got {micros}")
