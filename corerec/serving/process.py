"""One replica of one service, with or without Ray: how it starts and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from threadpoolctl import threadpool_limits

from corerec.affinity import own_threads, pin
from corerec.errors import CoreRecError, Unavailable
from corerec.serving.config import ServerConfig, StageConfig
from corerec.serving.contracts import StageContract
from corerec.serving.logs import configure_logs
from corerec.serving.metrics import Metrics, MetricsServer
from corerec.serving.server import GrpcServer
from corerec.serving.stage_host import StageHost
from corerec.serving.tail import Tailer, follow
from corerec.stages import StageCore

log = logging.getLogger(__name__)

E = TypeVar("E")
R = TypeVar("R")

Observe = Callable[[StageCore[E, R], Metrics], Callable[[R], None] | None]
"""Registers what a core tells of itself, and returns what is called with each of its results."""

_CHECK_SECONDS = 2.0
# A core's thread that comes back to Python waits so long for the event loop to let go of the GIL.
# The default, 5 ms, is more than a stage computes.
_SWITCH_SECONDS = 0.0005
_COLLECT_AFTER = 20_000


class ServerProcess:
    """A gRPC server, its metrics port and a service's own parts."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        name: str,
        service: str,
        build: Callable[[Metrics], Awaitable[tuple[Callable[[grpc.aio.Server], None], str]]],
        probe: Callable[[], Coroutine[Any, Any, None]],
        close: Callable[[], Awaitable[None]],
        end_streams: Callable[[], None] = lambda: None,
    ) -> None:
        """`build` returns how to add the servicer, and the release; `probe` tries its threads."""
        self._config, self._name, self._service = config, name, service
        self._build, self._probe, self._close = build, probe, close
        self._end_streams = end_streams
        self.metrics = Metrics()
        self._server: GrpcServer | None = None
        self._metrics_server: MetricsServer | None = None
        self._release = ""

    async def start(self) -> None:
        """Load and warm first: a port that is open can answer."""
        configure_logs(self._name, self._config.log_level)
        sys.setswitchinterval(_SWITCH_SECONDS)
        add, self._release = await self._build(self.metrics)
        # What is loaded stays: the collector need not walk through it for every few requests.
        gc.collect()
        gc.freeze()
        # What a request leaves behind it lets go by itself; looking for what does not is cheaper
        # done seldom.
        gc.set_threshold(_COLLECT_AFTER)
        self._server = GrpcServer(self._config, self.metrics, service=self._service, add=add)
        await self._server.start()
        self._metrics_server = MetricsServer.start(
            self.metrics, self._config.host, self._config.metrics_port
        )
        if self._config.cores != "auto":
            pin(self._config.cores)
        yield_to_others(self._config.nice)
        await self._server.ready()

    @property
    def address(self) -> str:
        """`host:port` for callers on this machine."""
        assert self._server is not None
        return self._server.address

    def metadata(self, node_ip: str | None = None) -> dict[str, Any]:
        """Return what discovery announces; a server on all addresses announces its node's."""
        assert self._server is not None
        assert self._metrics_server is not None
        everywhere = self._config.host in ("0.0.0.0", "::", "[::]")
        host = node_ip if node_ip and everywhere else self._config.host
        return {
            "address": f"{host}:{self._server.port}",
            "metrics": f"{host}:{self._metrics_server.port}",
            "release": self._release,
            "pid": os.getpid(),
        }

    async def check(self) -> None:
        """Ask this replica's own health over its own port, and its worker threads for a sign."""
        host = self._config.host.replace("0.0.0.0", "127.0.0.1")
        assert self._server is not None
        async with asyncio.timeout(_CHECK_SECONDS):
            async with grpc.aio.insecure_channel(f"{host}:{self._server.port}") as channel:
                request = health_pb2.HealthCheckRequest(service=self._service)
                answer = await health_pb2_grpc.HealthStub(channel).Check(request)
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                raise Unavailable(f"{self._name} is not serving")
            await self._probe()

    async def drain(self) -> None:
        """Stop taking calls, finish those in flight, let everything go."""
        if self._server is not None:
            await self._server.drain(self._end_streams)
        await self._close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.stop)


def stage_process(
    config: StageConfig,
    contract: StageContract[E, R],
    *,
    name: str,
    load: Callable[[], StageCore[E, R]],
    add: Callable[[StageHost[E, R], grpc.aio.Server], None],
    observe: Observe[E, R] = lambda core, metrics: None,
) -> ServerProcess:
    """Return the process of one stage, which serves only once it has the store's catalogue.

    `load` builds the core, `add` the servicer over its host; `observe` returns what measures a
    core's results, if anything.
    """
    host: StageHost[E, R] | None = None
    tailer: Tailer | None = None

    async def build(metrics: Metrics) -> tuple[Callable[[grpc.aio.Server], None], str]:
        nonlocal host, tailer
        limit_blas(config.threads)
        core = await asyncio.to_thread(load)
        host = StageHost(
            contract,
            metrics,
            max_queue=config.max_queue,
            max_batch=config.max_batch,
            max_weight=config.max_batch_weight,
            inline_seconds=config.inline_ms / 1000,
            observe=observe(core, metrics),
        )
        await asyncio.to_thread(core.warm)
        tailer = await follow(host.add(core), config, metrics, stage=contract.stage)
        made = host
        return lambda server: add(made, server), core.release

    async def probe() -> None:
        if host is not None:
            await host.probe()

    async def close() -> None:
        if tailer is not None:
            await tailer.close()
        if host is not None:
            await host.close()

    def end_streams() -> None:
        if host is not None:
            host.streams.end()

    return ServerProcess(
        config,
        name=name,
        service=contract.service,
        build=build,
        probe=probe,
        close=close,
        end_streams=end_streams,
    )


def limit_blas(threads: int) -> None:
    """Give NumPy's BLAS so many threads in this process, from now on.

    By default it takes every core, even for a product of a few thousand numbers, and its threads
    then spin against the other replicas of the machine. torch and faiss are limited by the cores.
    """
    threadpool_limits(limits=threads, user_api="blas")


def yield_to_others(more: int) -> None:
    """Make this process nicer by so much, 19 at most, with all threads it has or will have."""
    if not more:
        return
    for thread in own_threads():
        with contextlib.suppress(ProcessLookupError):
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, nice + more))


async def serve_until_signalled(process: ServerProcess, announce: Callable[[], None]) -> int:
    """Run a process until SIGTERM or SIGINT, then drain it. Returns the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    told = asyncio.create_task(stop.wait())
    start = asyncio.create_task(process.start())
    await asyncio.wait({told, start}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if start.done():
            start.result()
            announce()
            await told
        else:  # told to end while it waits for the store, say
            start.cancel()
    except CoreRecError as error:
        log.error("cannot start: %s", error)
        return 1
    finally:
        told.cancel()
    await process.drain()
    return 0
