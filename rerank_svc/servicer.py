"""RerankService: proto to arrays and back around the rerank core."""

from __future__ import annotations

from typing import Any

import grpc

from corerec.serving.stage_host import StageHost
from corerec.stages import RerankEntry, RerankResult
from corerec.v1 import rerank_pb2, rerank_pb2_grpc


class RerankServicer(rerank_pb2_grpc.RerankServiceServicer):
    """Answers batches from the cores that its host holds."""

    def __init__(self, host: StageHost[RerankEntry, RerankResult]) -> None:
        self._host = host

    async def Rerank(
        self, request: rerank_pb2.RerankRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> rerank_pb2.RerankResponse:
        """Return one result per entry, each with its own status."""
        response: rerank_pb2.RerankResponse = await self._host.answer(
            request, context.time_remaining()
        )
        return response

    async def RerankStream(
        self, request_iterator: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Answer the batches of a stream."""
        await self._host.streams.serve(context)


def add(host: StageHost[RerankEntry, RerankResult], server: grpc.aio.Server) -> None:
    """Add the service to a server."""
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(RerankServicer(host), server)
