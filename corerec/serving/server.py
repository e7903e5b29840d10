"""One gRPC server of one process: health, reflection, limits, start and drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from corerec.errors import Unavailable
from corerec.serving.config import ServerConfig
from corerec.serving.interceptor import ServiceInterceptor
from corerec.serving.metrics import Metrics

log = logging.getLogger(__name__)

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class GrpcServer:
    """Serves one CoreRec service with grpc.health.v1 and reflection beside it.

    Args:
        service: the full name, `corerec.v1.RankingService`.
        add: the stub's `add_…Servicer_to_server`, given the servicer already.
    """

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        *,
        service: str,
        add: Callable[[grpc.aio.Server], None],
    ) -> None:
        self._config, self._service = config, service
        self._server = grpc.aio.server(
            interceptors=[ServiceInterceptor(metrics)],
            options=_options(config),
            maximum_concurrent_rpcs=config.max_concurrent_rpcs,
        )
        self._health = health.aio.HealthServicer()
        add(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (service, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=_MethodsToo())
        self.port = 0
        """The port that the server listens on, known once started."""

    @property
    def address(self) -> str:
        """`host:port` for callers on this machine."""
        return f"{self._config.host}:{self.port}"

    async def start(self) -> None:
        """Listen, and say NOT_SERVING until `ready` is called. Raises Unavailable: port taken."""
        for name in ("", self._service):  # grpc_health starts "" as SERVING
            await self._health.set(name, _NOT_SERVING)
        where = f"{self._config.host}:{self._config.port}"
        try:
            self.port = self._server.add_insecure_port(where)
        except RuntimeError as error:
            raise Unavailable(f"cannot listen on {where}: {error}; is the port taken?") from None
        await self._server.start()

    async def ready(self) -> None:
        """Say SERVING."""
        for name in ("", self._service):
            await self._health.set(name, _SERVING)
        log.info("serving", extra={"grpc_service": self._service, "address": self.address})

    async def drain(self, end_streams: Callable[[], None]) -> None:
        """Say NOT_SERVING, give callers time to notice, then finish what is in flight.

        `end_streams` makes open streams end, which would else last as long as their callers.
        """
        for name in ("", self._service):
            await self._health.set(name, _NOT_SERVING)
        await asyncio.sleep(self._config.drain_notice_seconds)
        end_streams()
        await self._server.stop(self._config.drain_grace_seconds)
        log.info("drained", extra={"grpc_service": self._service})


class _MethodsToo:
    """The default descriptor pool, which also finds the file of a method by its full name.

    ghz asks reflection for `corerec.v1.RecommenderService.Recommend`; Python's pool knows services
    and messages only and would answer NOT_FOUND.
    """

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindFileContainingSymbol(symbol.rpartition(".")[0])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def _options(config: ServerConfig) -> Sequence[tuple[str, Any]]:
    return (
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        # Several gateway replicas of one node share its fixed port; a free port is never shared.
        ("grpc.so_reuseport", int(config.port != 0 and config.share_port)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    )
