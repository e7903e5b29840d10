"""Turns stage entries and results into protos and back, checking every column on the way in.

The same functions serve both ends of a wire: a servicer reads what a stage client wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corerec.errors import InvalidArgument
from corerec.stages import (
    MAX_CANDIDATES,
    MAX_HISTORY,
    Candidates,
    Int64s,
    Move,
    RankedItem,
    RankEntry,
    RankResult,
    RemovedItem,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
    UserContext,
)
from corerec.v1 import common_pb2, ranking_pb2, rerank_pb2, retrieval_pb2

_INT64 = np.dtype("<i8")
_FLOAT32 = np.dtype("<f4")
_UINT8 = np.dtype("u1")


def _column(name: str, raw: bytes, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """Return a read-only (count,) view of `raw`."""
    wanted = count * dtype.itemsize
    if len(raw) != wanted:
        raise InvalidArgument(
            f"{name} must hold {count} x {dtype.itemsize} = {wanted} bytes, got {len(raw)}"
        )
    return np.frombuffer(raw, dtype)


def user_to_proto(user: UserContext, newest: int = MAX_HISTORY) -> common_pb2.UserContext:
    """Return the message; of the history, only the `newest` events."""
    items, times = user.items[-newest:], user.times[-newest:]
    return common_pb2.UserContext(
        user_id=user.user_id,
        attributes=user.attributes,
        history_count=len(items),
        history_item_numbers=items.tobytes(),
        history_event_times_micros=times.tobytes(),
        request_time_micros=user.now,
    )


def user_from_proto(message: common_pb2.UserContext) -> UserContext:
    """Return the user. Raises InvalidArgument on columns that do not fit their count."""
    count = message.history_count
    if not 0 <= count <= MAX_HISTORY:
        raise InvalidArgument(f"history_count must be in [0, {MAX_HISTORY}], got {count}")
    if message.request_time_micros < 0:
        raise InvalidArgument(
            f"request_time_micros must be >= 0, got {message.request_time_micros}"
        )
    return UserContext(
        user_id=message.user_id,
        attributes=dict(message.attributes),
        items=_column("history_item_numbers", message.history_item_numbers, _INT64, count),
        times=_column(
            "history_event_times_micros", message.history_event_times_micros, _INT64, count
        ),
        now=message.request_time_micros,
    )


def candidates_to_proto(candidates: Candidates) -> common_pb2.Candidates:
    """Return the message."""
    return common_pb2.Candidates(
        item_count=len(candidates),
        item_numbers=candidates.numbers.astype(_INT64, copy=False).tobytes(),
        scores=candidates.scores.astype(_FLOAT32, copy=False).tobytes(),
        sources=candidates.sources.astype(_UINT8, copy=False).tobytes(),
    )


def candidates_from_proto(message: common_pb2.Candidates) -> Candidates:
    """Return the columns, each a read-only view.

    Raises:
        InvalidArgument: a length does not fit, a number is negative or there twice, a score is not
            finite.
    """
    count = message.item_count
    if not 0 <= count <= MAX_CANDIDATES:
        raise InvalidArgument(f"item_count must be in [0, {MAX_CANDIDATES}], got {count}")
    numbers: Int64s = _column("item_numbers", message.item_numbers, _INT64, count)
    scores = _column("scores", message.scores, _FLOAT32, count)
    sources = _column("sources", message.sources, _UINT8, count)
    if count:
        if int(numbers.min()) < 0:
            raise InvalidArgument(f"item_numbers must be >= 0, got {int(numbers.min())}")
        ordered = np.sort(numbers)
        if (twice := ordered[1:][ordered[1:] == ordered[:-1]]).size:
            raise InvalidArgument(f"item_numbers must differ, got {int(twice[0])} twice")
        if not np.isfinite(scores).all():
            raise InvalidArgument("scores must be finite, got NaN or infinity")
    return Candidates(numbers=numbers, scores=scores, sources=sources)


def timings_to_proto(timings: Mapping[str, int]) -> list[common_pb2.StepTiming]:
    """Return one message per step."""
    return [common_pb2.StepTiming(name=n, latency_micros=t) for n, t in timings.items()]


def timings_from_proto(messages: Iterable[common_pb2.StepTiming]) -> dict[str, int]:
    """Return microseconds by step name."""
    return {m.name: m.latency_micros for m in messages}


def retrieve_entry_to_proto(
    entry: RetrieveEntry, budget_micros: int
) -> retrieval_pb2.RetrieveEntry:
    """Return the message."""
    return retrieval_pb2.RetrieveEntry(
        request_id=entry.request_id,
        budget_micros=budget_micros,
        user=user_to_proto(entry.user),
        k=entry.k,
        exclude_seen=entry.exclude_seen,
    )


def retrieve_entry_from_proto(message: retrieval_pb2.RetrieveEntry) -> RetrieveEntry:
    """Return the entry. Raises InvalidArgument on bad columns."""
    return RetrieveEntry(
        request_id=message.request_id,
        user=user_from_proto(message.user),
        k=message.k,
        exclude_seen=message.exclude_seen,
    )


def retrieve_result_to_proto(
    result: RetrieveResult, timings: Mapping[str, int]
) -> retrieval_pb2.RetrieveResult:
    """Return the message with status OK."""
    return retrieval_pb2.RetrieveResult(
        candidates=candidates_to_proto(result.candidates),
        coverage=result.coverage,
        timings=timings_to_proto(timings),
    )


def retrieve_result_from_proto(message: retrieval_pb2.RetrieveResult) -> RetrieveResult:
    """Return the result. Raises InvalidArgument on bad columns."""
    if not 0.0 <= message.coverage <= 1.0:
        raise InvalidArgument(f"coverage must be in [0, 1], got {message.coverage}")
    return RetrieveResult(
        candidates=candidates_from_proto(message.candidates),
        coverage=message.coverage,
        timings=timings_from_proto(message.timings),
    )


def rank_entry_to_proto(
    entry: RankEntry, budget_micros: int, history: int = MAX_HISTORY
) -> ranking_pb2.RankEntry:
    """Return the message; of the history, only the newest `history` events."""
    return ranking_pb2.RankEntry(
        request_id=entry.request_id,
        budget_micros=budget_micros,
        user=user_to_proto(entry.user, history),
        candidates=candidates_to_proto(entry.candidates),
        k=entry.k,
    )


def rank_entry_from_proto(message: ranking_pb2.RankEntry) -> RankEntry:
    """Return the entry. Raises InvalidArgument on bad columns."""
    return RankEntry(
        request_id=message.request_id,
        user=user_from_proto(message.user),
        candidates=candidates_from_proto(message.candidates),
        k=message.k,
    )


def rank_result_to_proto(result: RankResult, timings: Mapping[str, int]) -> ranking_pb2.RankResult:
    """Return the message with status OK."""
    return ranking_pb2.RankResult(
        candidates=candidates_to_proto(result.candidates), timings=timings_to_proto(timings)
    )


def rank_result_from_proto(message: ranking_pb2.RankResult) -> RankResult:
    """Return the result. Raises InvalidArgument on bad columns."""
    return RankResult(
        candidates=candidates_from_proto(message.candidates),
        timings=timings_from_proto(message.timings),
    )


def rerank_entry_to_proto(entry: RerankEntry, budget_micros: int) -> rerank_pb2.RerankEntry:
    """Return the message."""
    return rerank_pb2.RerankEntry(
        request_id=entry.request_id,
        budget_micros=budget_micros,
        candidates=candidates_to_proto(entry.candidates),
        k=entry.k,
        request_time_micros=entry.now,
        explain=entry.explain,
    )


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


def rerank_result_to_proto(
    result: RerankResult, timings: Mapping[str, int]
) -> rerank_pb2.RerankResult:
    """Return the message with status OK."""
    return rerank_pb2.RerankResult(
        items=[item_to_proto(item) for item in result.items],
        removed=[
            rerank_pb2.RemovedItem(item_number=r.number, rule=r.rule, note=r.note)
            for r in result.removed
        ],
        timings=timings_to_proto(timings),
    )


def rerank_result_from_proto(message: rerank_pb2.RerankResult) -> RerankResult:
    """Return the result. Raises InvalidArgument for an item given twice or a bad score."""
    items = [item_from_proto(item) for item in message.items]
    if len({item.number for item in items}) != len(items):
        raise InvalidArgument("items must differ, got one twice")
    if not all(np.isfinite(item.score) for item in items):
        raise InvalidArgument("scores must be finite, got NaN or infinity")
    return RerankResult(
        items=items,
        removed=[
            RemovedItem(number=r.item_number, rule=r.rule, note=r.note) for r in message.removed
        ],
        timings=timings_from_proto(message.timings),
    )


def moves_to_proto(moves: Iterable[Move]) -> list[rerank_pb2.ItemMove]:
    """Return one message per move."""
    return [
        rerank_pb2.ItemMove(rule=m.rule, score_change=m.score_change, note=m.note) for m in moves
    ]


def item_to_proto(item: RankedItem) -> rerank_pb2.RankedItem:
    """Return the message."""
    return rerank_pb2.RankedItem(
        item_number=item.number,
        item_id=item.item_id,
        title=item.title,
        category=item.category,
        creator=item.creator,
        score=item.score,
        rank_score=item.rank_score,
        source=item.source,  # type: ignore[arg-type]  # an int on the wire
        rank_position=item.rank_position,
        moves=moves_to_proto(item.moves),
    )


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
