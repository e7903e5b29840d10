"""RerankService's messages: a ranked list in, the final one out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import overload

from corerec.errors import InvalidArgument
from corerec.serving.wire.common import (
    Timings,
    candidates_from_proto,
    write_candidates,
    write_timings,
)
from corerec.stages import Move, RankedItem, RemovedItem, RerankEntry, RerankResult
from corerec.v1 import rerank_pb2


def write_rerank_entry(
    message: rerank_pb2.RerankEntry, entry: RerankEntry, budget_micros: int
) -> None:
    """Fill an empty message."""
    message.request_id, message.budget_micros = entry.request_id, budget_micros
    message.k, message.request_time_micros = entry.k, entry.now
    message.explain = entry.explain
    write_candidates(message.candidates, entry.candidates)


def rerank_entry_from_proto(message: rerank_pb2.RerankEntry) -> RerankEntry:
    """Return the entry. Raises InvalidArgument on bad columns."""
    if message.request_time_micros < 0:
        raise InvalidArgument(
            f"request_time_micros must be >= 0, got {message.request_time_micros}"
        )
    return RerankEntry(
        request_id=message.request_id,
        candidates=candidates_from_proto(message.candidates),
        k=message.k,
        now=message.request_time_micros,
        explain=message.explain,
    )


def write_rerank_result(
    message: rerank_pb2.RerankResult, result: RerankResult, timings: Mapping[str, int]
) -> None:
    """Fill an empty message, with status OK."""
    for item in result.items:
        _write_item(message.items.add(), item)
    for own in result.removed:
        message.removed.add(item_number=own.number, rule=own.rule, note=own.note)
    write_timings(message.timings, timings)


class Items(Sequence[RankedItem]):
    """A final list, read when asked for: who passes it on needs the messages."""

    __slots__ = ("messages",)

    def __init__(self, messages: list[rerank_pb2.RankedItem]) -> None:
        self.messages = messages

    @overload
    def __getitem__(self, place: int) -> RankedItem: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[RankedItem]: ...
    def __getitem__(self, place: int | slice) -> RankedItem | Sequence[RankedItem]:
        if isinstance(place, slice):
            return Items(self.messages[place])
        return item_from_proto(self.messages[place])

    def __iter__(self) -> Iterator[RankedItem]:
        return map(item_from_proto, self.messages)

    def __len__(self) -> int:
        return len(self.messages)


def rerank_result_from_proto(message: rerank_pb2.RerankResult) -> RerankResult:
    """Return the result. Raises InvalidArgument for an item given twice or a bad score."""
    items = list(message.items)
    if len({item.item_number for item in items}) != len(items):
        raise InvalidArgument("items must differ, got one twice")
    if not all(map(math.isfinite, [item.score for item in items])):
        raise InvalidArgument("scores must be finite, got NaN or infinity")
    removed = [RemovedItem(number=r.item_number, rule=r.rule, note=r.note) for r in message.removed]
    return RerankResult(items=Items(items), removed=removed, timings=Timings(message.timings))


def items_to_proto(items: Sequence[RankedItem]) -> list[rerank_pb2.RankedItem]:
    """Return one message per item; those that came are passed on."""
    if type(items) is Items:
        return items.messages
    return [item_to_proto(item) for item in items]


def item_to_proto(item: RankedItem) -> rerank_pb2.RankedItem:
    """Return the message."""
    message = rerank_pb2.RankedItem()
    _write_item(message, item)
    return message


def _write_item(message: rerank_pb2.RankedItem, item: RankedItem) -> None:
    """Fill an empty message in its place; field by field is half the time of one given whole."""
    number, item_id, title, category, creator, score, rank_score, source, position, moves = item
    message.item_number, message.item_id, message.title = number, item_id, title
    message.category, message.creator = category, creator
    message.score, message.rank_score = score, rank_score
    message.source, message.rank_position = source, position  # type: ignore[assignment]  # an int
    for rule, change, note in moves:
        message.moves.add(rule=rule, score_change=change, note=note)


def item_from_proto(message: rerank_pb2.RankedItem) -> RankedItem:
    """Return the item."""
    return RankedItem(
        number=message.item_number,
        item_id=message.item_id,
        title=message.title,
        category=message.category,
        creator=message.creator,
        score=message.score,
        rank_score=message.rank_score,
        source=message.source,
        rank_position=message.rank_position,
        moves=tuple(
            Move(rule=m.rule, score_change=m.score_change, note=m.note) for m in message.moves
        ),
    )
