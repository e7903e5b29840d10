"""RankingService's messages: candidates in, the best of them out."""

from __future__ import annotations

from collections.abc import Mapping

from corerec.serving.wire.common import (
    Timings,
    candidates_from_proto,
    user_from_proto,
    write_candidates,
    write_timings,
    write_user,
)
from corerec.stages import MAX_HISTORY, RankEntry, RankResult
from corerec.v1 import ranking_pb2


def write_rank_entry(
    message: ranking_pb2.RankEntry,
    entry: RankEntry,
    budget_micros: int,
    history: int = MAX_HISTORY,
) -> None:
    """Fill an empty message; of the history, only the newest `history` events."""
    message.request_id, message.budget_micros = entry.request_id, budget_micros
    message.k = entry.k
    write_user(message.user, entry.user, history)
    write_candidates(message.candidates, entry.candidates)


def rank_entry_from_proto(message: ranking_pb2.RankEntry) -> RankEntry:
    """Return the entry. Raises InvalidArgument on bad columns."""
    return RankEntry(
        request_id=message.request_id,
        user=user_from_proto(message.user),
        candidates=candidates_from_proto(message.candidates),
        k=message.k,
    )


def write_rank_result(
    message: ranking_pb2.RankResult, result: RankResult, timings: Mapping[str, int]
) -> None:
    """Fill an empty message, with status OK."""
    write_timings(message.timings, timings)
    write_candidates(message.candidates, result.candidates)


def rank_result_from_proto(message: ranking_pb2.RankResult) -> RankResult:
    """Return the result. Raises InvalidArgument on bad columns."""
    return RankResult(
        candidates=candidates_from_proto(message.candidates),
        timings=Timings(message.timings),
    )
