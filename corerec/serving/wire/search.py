"""SearchService's messages: queries in, every source's list out."""

from __future__ import annotations

from collections.abc import Mapping

from corerec.errors import InvalidArgument
from corerec.serving.wire.common import (
    FLOAT32,
    INT64,
    check_finite,
    check_numbers,
    column,
    predicates_from_proto,
    predicates_to_proto,
    timings_from_proto,
    write_timings,
)
from corerec.stages import (
    MAX_HISTORY,
    MAX_K,
    Float32s,
    Int64s,
    SearchEntry,
    SearchResult,
    SourceList,
)
from corerec.v1 import retrieval_pb2


def write_search_entry(
    message: retrieval_pb2.SearchEntry, entry: SearchEntry, budget_micros: int
) -> None:
    """Fill an empty message."""
    message.request_id, message.budget_micros = entry.request_id, budget_micros
    message.k, message.request_time_micros = entry.k, entry.now
    for kind, vector in entry.queries.items():
        message.queries.add(kind=kind, vector=vector.astype(FLOAT32, copy=False).tobytes())
    message.excluded_item_numbers = entry.excluded.astype(INT64, copy=False).tobytes()
    message.history_item_numbers = entry.history.astype(INT64, copy=False).tobytes()
    if entry.where:
        message.where.extend(predicates_to_proto(entry.where))


def search_entry_from_proto(message: retrieval_pb2.SearchEntry) -> SearchEntry:
    """Return the entry.

    Raises:
        InvalidArgument: a column does not fit, a query is not finite or there twice, a condition or
            a moment breaks a rule.
    """
    if message.request_time_micros < 0:
        raise InvalidArgument(
            f"request_time_micros must be >= 0, got {message.request_time_micros}"
        )
    queries = {q.kind: _query(q) for q in message.queries}
    if len(queries) != len(message.queries):
        raise InvalidArgument(
            f"queries must differ in kind, got {[q.kind for q in message.queries]}"
        )
    return SearchEntry(
        request_id=message.request_id,
        queries=queries,
        k=message.k,
        excluded=_numbers("excluded_item_numbers", message.excluded_item_numbers),
        history=_numbers("history_item_numbers", message.history_item_numbers),
        where=predicates_from_proto(message.where),
        now=message.request_time_micros,
    )


def _query(message: retrieval_pb2.Query) -> Float32s:
    width, rest = divmod(len(message.vector), FLOAT32.itemsize)
    if rest:
        raise InvalidArgument(
            f"query of {message.kind!r} must be float32, got {len(message.vector)} bytes"
        )
    vector: Float32s = column("vector", message.vector, FLOAT32, width)
    check_finite(f"query of {message.kind!r}", vector)
    return vector


def _numbers(name: str, raw: bytes) -> Int64s:
    count, rest = divmod(len(raw), INT64.itemsize)
    if rest or count > MAX_HISTORY:
        raise InvalidArgument(
            f"{name} must be int64, at most {MAX_HISTORY} of them, got {len(raw)} bytes"
        )
    return column(name, raw, INT64, count)


def write_search_result(
    message: retrieval_pb2.SearchResult, result: SearchResult, timings: Mapping[str, int]
) -> None:
    """Fill an empty message, with status OK."""
    for own in result.lists:
        message.lists.add(
            kind=own.kind,
            item_count=len(own.numbers),
            item_numbers=own.numbers.astype(INT64, copy=False).tobytes(),
            scores=own.scores.astype(FLOAT32, copy=False).tobytes(),
            totals=own.totals.astype(FLOAT32, copy=False).tobytes(),
        )
    write_timings(message.timings, timings)
    message.catalogue_position = result.position


def search_result_from_proto(message: retrieval_pb2.SearchResult) -> SearchResult:
    """Return the result. Raises InvalidArgument on bad columns."""
    if message.catalogue_position < 0:
        raise InvalidArgument(f"catalogue_position must be >= 0, got {message.catalogue_position}")
    lists = tuple(_list(own) for own in message.lists)
    if len({own.kind for own in lists}) != len(lists):
        raise InvalidArgument(f"lists must differ in kind, got {[own.kind for own in lists]}")
    return SearchResult(
        lists=lists,
        timings=timings_from_proto(message.timings),
        position=message.catalogue_position,
    )


def _list(message: retrieval_pb2.SourceList) -> SourceList:
    count = message.item_count
    if not 0 <= count <= MAX_K:
        raise InvalidArgument(f"item_count must be in [0, {MAX_K}], got {count}")
    numbers: Int64s = column("item_numbers", message.item_numbers, INT64, count)
    scores: Float32s = column("scores", message.scores, FLOAT32, count)
    totals: Float32s = column("totals", message.totals, FLOAT32, count)
    if count:
        check_numbers(numbers, f"item_numbers of {message.kind!r}")
        check_finite("scores and totals", scores, totals)
    return SourceList(kind=message.kind, numbers=numbers, scores=scores, totals=totals)
