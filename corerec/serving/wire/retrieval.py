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
    user_from_proto,
    write_candidates,
    write_timings,
    write_user,
)
from corerec.stages import MAX_HISTORY, Float32s, RetrieveEntry, RetrieveResult
from corerec.v1 import retrieval_pb2


def write_retrieve_entry(
    message: retrieval_pb2.RetrieveEntry, entry: RetrieveEntry, budget_micros: int
) -> None:
    """Fill an empty message."""
    message.request_id, message.budget_micros = entry.request_id, budget_micros
    message.k, message.exclude_seen = entry.k, entry.exclude_seen
    message.explain = entry.explain
    if entry.where:
        message.where.extend(predicates_to_proto(entry.where))
    write_user(message.user, entry.user, MAX_HISTORY)


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


def write_retrieve_result(
    message: retrieval_pb2.RetrieveResult, result: RetrieveResult, timings: Mapping[str, int]
) -> None:
    """Fill an empty message, with status OK."""
    message.coverage, message.catalogue_position = result.coverage, result.position
    write_timings(message.timings, timings)
    for source, scores in result.found_by.items():
        message.found_by.add(
            source=source,
            scores=scores.astype(FLOAT32, copy=False).tobytes(),
        )
    write_candidates(message.candidates, result.candidates)


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
