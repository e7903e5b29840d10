"""RankingService's messages: candidates in, the best of them out."""

from __future__ import annotations

from collections.abc import Mapping

from corerec.serving.wire.common import (
    Timings,
    candidates_from_proto,
    timings_to_proto,
    user_from_proto,
    write_candidates,
    write_user,
)
from corerec.stages import MAX_HISTORY, RankEntry, RankResult
from corerec.v1 import ranking_pb2


def rank_entry_to_proto(
    entry: RankEntry, budget_micros: int, history: int = MAX_HISTORY
) -> ranking_pb2.RankEntry:
    """Return the message; of the history, only the newest `history` events."""
    message = ranking_pb2.RankEntry(
        request_id=entry.request_id, budget_micros=budget_micros, k=entry.k
    )
    write_user(message.user, entry.user, history)
    write_candidates(message.candidates, entry.candidates)
    return message


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
    message = ranking_pb2.RankResult(timings=timings_to_proto(timings))
    write_candidates(message.candidates, result.candidates)
    return message


def rank_result_from_proto(message: ranking_pb2.RankResult) -> RankResult:
    """Return the result. Raises InvalidArgument on bad columns."""
    return RankResult(
        candidates=candidates_from_proto(message.candidates),
        timings=Timings(message.timings),
    )
