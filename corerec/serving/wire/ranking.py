"""RankingService's messages: candidates in, the best of them out."""

from __future__ import annotations

from collections.abc import Mapping

from corerec.serving.wire.common import (
    candidates_from_proto,
    candidates_to_proto,
    timings_from_proto,
    timings_to_proto,
    user_from_proto,
    user_to_proto,
)
from corerec.stages import MAX_HISTORY, RankEntry, RankResult
from corerec.v1 import ranking_pb2


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
