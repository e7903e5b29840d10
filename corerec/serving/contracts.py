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
    result: Callable[..., Any]
    """Builds one result message; an error has only `status=`."""
    entry_to_proto: Callable[[E, int], Any]
    entry_from_proto: Callable[[Any], E]
    result_to_proto: Callable[[R, Mapping[str, int]], Any]
    result_from_proto: Callable[[Any], R]
    weight: Callable[[E], int] = lambda entry: 1
    """How much of an RPC an entry takes."""

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
    result=retrieval_pb2.RetrieveResult,
    entry_to_proto=retrieval.retrieve_entry_to_proto,
    entry_from_proto=retrieval.retrieve_entry_from_proto,
    result_to_proto=retrieval.retrieve_result_to_proto,
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
    result=retrieval_pb2.SearchResult,
    entry_to_proto=search.search_entry_to_proto,
    entry_from_proto=search.search_entry_from_proto,
    result_to_proto=search.search_result_to_proto,
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
    result=ranking_pb2.RankResult,
    entry_to_proto=ranking.rank_entry_to_proto,
    entry_from_proto=ranking.rank_entry_from_proto,
    result_to_proto=ranking.rank_result_to_proto,
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
    result=rerank_pb2.RerankResult,
    entry_to_proto=rerank.rerank_entry_to_proto,
    entry_from_proto=rerank.rerank_entry_from_proto,
    result_to_proto=rerank.rerank_result_to_proto,
    result_from_proto=rerank.rerank_result_from_proto,
)
