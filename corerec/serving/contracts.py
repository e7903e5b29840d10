"""What differs between the stage RPCs, in one table: messages, conversions and names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from corerec.serving.wire import ranking, rerank, retrieval, search
from corerec.stages import (
    RankEntry,
    RankResult,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
    SearchEntry,
    SearchResult,
)
from corerec.v1 import ranking_pb2, rerank_pb2, retrieval_pb2

E = TypeVar("E")
R = TypeVar("R")

MAX_ENTRIES = 256
"""Most entries in one stage RPC."""


@dataclass(frozen=True, kw_only=True)
class StageContract(Generic[E, R]):
    """One stage's RPC."""

    stage: str
    """Name in metrics, reports and errors."""
    service: str
    """Full name of the gRPC service."""
    method: str
    request: Callable[..., Any]
    """Builds the batch message from `release=` and `entries=`."""
    response: Any
    stream_request: Callable[..., Any]
    """Builds a stream's message from `call=` and `batch=`."""
    stream_response: Any
    """Builds a stream's message from `call=` and `batch=` or `status=`."""
    write_entry: Callable[[Any, E, int], None]
    """Fills an empty entry in its place in a batch with the entry and its budget, microseconds."""
    entry_from_proto: Callable[[Any], E]
    write_result: Callable[[Any, R, Mapping[str, int]], None]
    """Fills an empty result in its place with the result and its steps' microseconds."""
    result_from_proto: Callable[[Any], R]
    weight: Callable[[E], int] = lambda entry: 1
    """How much of an RPC an entry takes."""

    def entry_to_proto(self, entry: E, budget_micros: int) -> Any:
        """Return an entry's message alone, not in a batch."""
        message = self.request().entries.add()
        self.write_entry(message, entry, budget_micros)
        return message

    def result_to_proto(self, result: R, timings: Mapping[str, int]) -> Any:
        """Return a result's message alone, not in a batch."""
        message = self.response().results.add()
        self.write_result(message, result, timings)
        return message

    @property
    def stream_method(self) -> str:
        """Name of the RPC that streams batches."""
        return f"{self.method}Stream"

    @property
    def stream_path(self) -> str:
        """Its path on the wire."""
        return f"/{self.service}/{self.stream_method}"


RETRIEVE: StageContract[RetrieveEntry, RetrieveResult] = StageContract(
    stage="retrieve",
    service="corerec.v1.RetrievalService",
    method="Retrieve",
    request=retrieval_pb2.RetrieveRequest,
    response=retrieval_pb2.RetrieveResponse,
    stream_request=retrieval_pb2.RetrieveStreamRequest,
    stream_response=retrieval_pb2.RetrieveStreamResponse,
    write_entry=retrieval.write_retrieve_entry,
    entry_from_proto=retrieval.retrieve_entry_from_proto,
    write_result=retrieval.write_retrieve_result,
    result_from_proto=retrieval.retrieve_result_from_proto,
)
SEARCH: StageContract[SearchEntry, SearchResult] = StageContract(
    stage="search",
    service="corerec.v1.SearchService",
    method="Search",
    request=retrieval_pb2.SearchRequest,
    response=retrieval_pb2.SearchResponse,
    stream_request=retrieval_pb2.SearchStreamRequest,
    stream_response=retrieval_pb2.SearchStreamResponse,
    write_entry=search.write_search_entry,
    entry_from_proto=search.search_entry_from_proto,
    write_result=search.write_search_result,
    result_from_proto=search.search_result_from_proto,
)
RANK: StageContract[RankEntry, RankResult] = StageContract(
    stage="rank",
    service="corerec.v1.RankingService",
    method="Rank",
    request=ranking_pb2.RankRequest,
    response=ranking_pb2.RankResponse,
    stream_request=ranking_pb2.RankStreamRequest,
    stream_response=ranking_pb2.RankStreamResponse,
    write_entry=ranking.write_rank_entry,
    entry_from_proto=ranking.rank_entry_from_proto,
    write_result=ranking.write_rank_result,
    result_from_proto=ranking.rank_result_from_proto,
    weight=lambda entry: len(entry.candidates),
)
RERANK: StageContract[RerankEntry, RerankResult] = StageContract(
    stage="rerank",
    service="corerec.v1.RerankService",
    method="Rerank",
    request=rerank_pb2.RerankRequest,
    response=rerank_pb2.RerankResponse,
    stream_request=rerank_pb2.RerankStreamRequest,
    stream_response=rerank_pb2.RerankStreamResponse,
    write_entry=rerank.write_rerank_entry,
    entry_from_proto=rerank.rerank_entry_from_proto,
    write_result=rerank.write_rerank_result,
    result_from_proto=rerank.rerank_result_from_proto,
)
