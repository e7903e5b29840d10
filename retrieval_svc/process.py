"""One retrieval replica, with or without Ray: searching itself, or in front of shards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc

from corerec.errors import ConfigError
from corerec.release import Release
from corerec.retrieval import RetrievalCore
from corerec.retrieval.front import Front
from corerec.serving.contracts import RETRIEVE, SEARCH
from corerec.serving.endpoints import Endpoints, StaticEndpoints
from corerec.serving.hedge import Hedge
from corerec.serving.metrics import Metrics, observe_sources
from corerec.serving.process import ServerProcess, limit_blas, stage_process
from corerec.serving.stage_client import RemoteStage
from corerec.serving.stage_host import StageHost
from corerec.serving.tail import Tailer, follow
from corerec.stages import RetrieveEntry, RetrieveResult, SearchEntry, SearchResult
from retrieval_svc.config import RetrievalConfig
from retrieval_svc.fanout import Encoding, FanOut
from retrieval_svc.servicer import add

log = logging.getLogger(__name__)

Shards = Sequence[RemoteStage[SearchEntry, SearchResult]]
Connect = Callable[[RetrievalConfig, Metrics], Awaitable[Shards]]
"""How a front reaches its shards."""

_WAIT_SECONDS = 60.0


def load(config: RetrievalConfig, release: str) -> RetrievalCore:
    """Return the core over the release at a path."""
    return RetrievalCore.load(
        Release.open(Path(release)),
        threads=config.threads,
        cache_seconds=config.cache_seconds,
        probe_share=config.probe_share,
    )


def remote_shards(
    config: RetrievalConfig, metrics: Metrics, endpoints: Callable[[int], Endpoints]
) -> Shards:
    """Return the shards behind gRPC; `endpoints` gives the replicas of one."""
    return [
        RemoteStage(
            replace(SEARCH, stage=f"shard-{shard}"),
            endpoints(shard),
            metrics,
            max_in_flight=config.shard_in_flight,
            max_batch=config.max_batch,
            max_weight=config.max_batch_weight,
            hedge=Hedge(config.hedge_extra),
        )
        for shard in range(config.shards)
    ]


async def static_shards(config: RetrievalConfig, metrics: Metrics) -> Shards:
    """Return shards at the addresses that the configuration names."""
    addresses = config.shard_addresses
    if len(addresses) != config.shards or not all(addresses):
        raise ConfigError(
            f"[retrieval] shard_addresses must name the replicas of {config.shards} shards, got "
            f"{[list(own) for own in addresses]}; start one with python -m retrieval_svc --shard 0"
        )
    return remote_shards(config, metrics, lambda shard: StaticEndpoints(addresses[shard]))


def process(
    config: RetrievalConfig, release: str, connect: Connect = static_shards
) -> ServerProcess:
    """Return the replica, not yet started."""
    if config.shards > 1:
        return front_process(config, release, connect)
    return stage_process(
        config,
        RETRIEVE,
        name="retrieval",
        load=lambda: load(config, release),
        add=add,
        observe=observe_sources,
    )


def front_process(config: RetrievalConfig, release: str, connect: Connect) -> ServerProcess:
    """Return a replica that searches in shards, not yet started."""
    host: StageHost[RetrieveEntry, RetrieveResult] | None = None
    tailer: Tailer | None = None

    async def build(metrics: Metrics) -> tuple[Callable[[grpc.aio.Server], None], str]:
        nonlocal host, tailer
        limit_blas(config.threads)
        front = await asyncio.to_thread(_load_front, config, release)
        shards = await connect(config, metrics)
        observe = observe_sources(front, metrics, steps=("encode",))
        fan = FanOut(front, shards, config, metrics, observe=observe)
        host = StageHost(RETRIEVE, metrics, max_queue=config.max_queue, max_batch=config.max_batch)
        host.hold(front.release, fan)
        tailer = await follow(fan.encoding, config, metrics, stage="retrieve")
        await _wait_for(shards)
        return partial(add, host), front.release

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
        name="retrieval",
        service=RETRIEVE.service,
        build=build,
        probe=probe,
        close=close,
        end_streams=end_streams,
    )


def _load_front(config: RetrievalConfig, release: str) -> Front:
    front = Front.load(
        Release.open(Path(release)), threads=config.threads, cache_seconds=config.cache_seconds
    )
    Encoding(front).warm()
    return front


async def _wait_for(shards: Shards) -> None:
    """Return when every shard has a replica; a shard that stays away costs coverage, not all."""
    reached = await asyncio.gather(*(shard.ready(_WAIT_SECONDS) for shard in shards))
    if missing := [i for i, there in enumerate(reached) if not there]:
        log.warning("serving without shards %s", missing)
