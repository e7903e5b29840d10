"""RetrievalService's messages: users in, candidates out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from corerec.errors import InvalidArgument
from corerec.serving.wire.common import (
    FLOAT32,
    Timings,
    candidates_from_proto,
    column,
    predicates_from_proto,
    predicates_to_proto,
    timings_to_proto,
    user_from_proto,
    write_candidates,
    write_user,
)
from corerec.stages import MAX_HISTORY, Float32s, RetrieveEntry, RetrieveResult
from corerec.v1 import retrieval_pb2


def retrieve_entry_to_proto(
    entry: RetrieveEntry, budget_micros: int
) -> retrieval_pb2.RetrieveEntry:
    """Return the message."""
    message = retrieval_pb2.RetrieveEntry(
        request_id=entry.request_id,
        budget_micros=budget_micros,
        k=entry.k,
        exclude_seen=entry.exclude_seen,
        where=predicates_to_proto(entry.where),
        explain=entry.explain,
    )
    write_user(message.user, entry.user, MAX_HISTORY)
    return message


def retrieve_entry_from_proto(message: retrieval_pb2.RetrieveEntry) -> RetrieveEntry:
    """Return the entry. Raises InvalidArgument on bad columns."""
    return RetrieveEntry(
        request_id=message.request_id,
        user=user_from_proto(message.user),
        k=message.k,
        exclude_seen=message.exclude_seen,
        where=predicates_from_proto(message.where),
        explain=message.explain,
    )


def retrieve_result_to_proto(
    result: RetrieveResult, timings: Mapping[str, int]
) -> retrieval_pb2.RetrieveResult:
    """Return the message with status OK."""
    message = retrieval_pb2.RetrieveResult(
        coverage=result.coverage,
        timings=timings_to_proto(timings),
        found_by=[
            retrieval_pb2.FoundBy(
                source=source,  # type: ignore[arg-type]  # an int on the wire
                scores=scores.astype(FLOAT32, copy=False).tobytes(),
            )
            for source, scores in result.found_by.items()
        ],
        catalogue_position=result.position,
    )
    write_candidates(message.candidates, result.candidates)
    return message


def retrieve_result_from_proto(message: retrieval_pb2.RetrieveResult) -> RetrieveResult:
    """Return the result. Raises InvalidArgument on bad columns."""
    coverage, position = message.coverage, message.catalogue_position
    if not 0.0 <= coverage <= 1.0:
        raise InvalidArgument(f"coverage must be in [0, 1], got {coverage}")
    if position < 0:
        raise InvalidArgument(f"catalogue_position must be >= 0, got {position}")
    candidates = candidates_from_proto(message.candidates)
    found_by = message.found_by  # only where it was asked for
    return RetrieveResult(
        candidates=candidates,
        coverage=coverage,
        timings=Timings(message.timings),
        found_by=_found_by(found_by, len(candidates)) if found_by else {},
        position=position,
    )


def _found_by(messages: Iterable[retrieval_pb2.FoundBy], count: int) -> dict[int, Float32s]:
    found = {
        int(own.source): column("found_by.scores", own.scores, FLOAT32, count) for own in messages
    }
    if any(np.isinf(scores).any() for scores in found.values()):
        raise InvalidArgument("found_by.scores must be finite or NaN, got infinity")
    return found
