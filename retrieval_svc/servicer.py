"""RetrievalService and SearchService: proto to arrays and back around retrieval's cores."""

from __future__ import annotations

from typing import Any

import grpc

from corerec.serving.stage_host import StageHost
from corerec.stages import RetrieveEntry, RetrieveResult, SearchEntry, SearchResult
from corerec.v1 import retrieval_pb2, retrieval_pb2_grpc


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServiceServicer):
    """Answers batches from the cores that its host holds."""

    def __init__(self, host: StageHost[RetrieveEntry, RetrieveResult]) -> None:
        self._host = host

    async def Retrieve(
        self, request: retrieval_pb2.RetrieveRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> retrieval_pb2.RetrieveResponse:
        """Return one result per entry, each with its own status."""
        response: retrieval_pb2.RetrieveResponse = await self._host.answer(
            request, context.time_remaining()
        )
        return response

    async def RetrieveStream(
        self, request_iterator: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Answer the batches of a stream."""
        await self._host.streams.serve(context)


def add(host: StageHost[RetrieveEntry, RetrieveResult], server: grpc.aio.Server) -> None:
    """Add the service to a server."""
    retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(RetrievalServicer(host), server)


class SearchServicer(retrieval_pb2_grpc.SearchServiceServicer):
    """Answers batches from the shards that its host holds."""

    def __init__(self, host: StageHost[SearchEntry, SearchResult]) -> None:
        self._host = host

    async def Search(
        self, request: retrieval_pb2.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> retrieval_pb2.SearchResponse:
        """Return one result per entry, each with its own status."""
        response: retrieval_pb2.SearchResponse = await self._host.answer(
            request, context.time_remaining()
        )
        return response

    async def SearchStream(
        self, request_iterator: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Answer the batches of a stream."""
        await self._host.streams.serve(context)


def add_search(host: StageHost[SearchEntry, SearchResult], server: grpc.aio.Server) -> None:
    """Add a shard's service to a server."""
    retrieval_pb2_grpc.add_SearchServiceServicer_to_server(SearchServicer(host), server)
