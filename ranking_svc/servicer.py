"""RankingService: proto to arrays and back around the ranking core."""

from __future__ import annotations

from typing import Any

import grpc

from corerec.serving.stage_host import StageHost
from corerec.stages import RankEntry, RankResult
from corerec.v1 import ranking_pb2, ranking_pb2_grpc


class RankingServicer(ranking_pb2_grpc.RankingServiceServicer):
    """Answers batches from the cores that its host holds."""

    def __init__(self, host: StageHost[RankEntry, RankResult]) -> None:
        self._host = host

    async def Rank(
        self, request: ranking_pb2.RankRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ranking_pb2.RankResponse:
        """Return one result per entry, each with its own status."""
        response: ranking_pb2.RankResponse = await self._host.answer(
            request, context.time_remaining()
        )
        return response

    async def RankStream(
        self, request_iterator: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Answer the batches of a stream."""
        await self._host.streams.serve(context)


def add(host: StageHost[RankEntry, RankResult], server: grpc.aio.Server) -> None:
    """Add the service to a server."""
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(RankingServicer(host), server)
