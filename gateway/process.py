"""One gateway replica, with or without Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc

from corerec.errors import ConfigError
from corerec.release import Release
from corerec.serving.budget import Budget
from corerec.serving.contracts import RANK, RERANK, RETRIEVE, StageContract
from corerec.serving.endpoints import Endpoints, StaticEndpoints
from corerec.serving.metrics import Metrics
from corerec.serving.process import ServerProcess
from corerec.serving.stage import Stage
from corerec.serving.stage_client import RemoteStage
from corerec.stages import (
    RankEntry,
    RankResult,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
)
from corerec.store import Store
from corerec.store import open_store as open_store_at
from corerec.v1 import catalog_pb2_grpc, recommender_pb2_grpc
from gateway.catalog_servicer import CatalogServicer
from gateway.config import GatewayConfig
from gateway.feed import Feed
from gateway.funnel import Funnel
from gateway.groups import Groups
from gateway.kept import AnswerCache
from gateway.profiles import Profiles
from gateway.servicer import RecommenderServicer
from gateway.view import ReleaseView
from gateway.writes import CatalogueWrites

log = logging.getLogger(__name__)

E = TypeVar("E")
R = TypeVar("R")

SERVICE = "corerec.v1.RecommenderService"
_CATCH_UP_SECONDS = 600.0
_READY_SECONDS = 10.0

Stages = tuple[
    Stage[RetrieveEntry, RetrieveResult],
    Stage[RankEntry, RankResult],
    Stage[RerankEntry, RerankResult],
]
Connect = Callable[[GatewayConfig, Metrics], Awaitable[Stages]]
"""How a gateway reaches its stages."""


def remote_stages(
    config: GatewayConfig, metrics: Metrics, endpoints: Callable[[str], Endpoints]
) -> Stages:
    """Return stages behind gRPC; `endpoints` gives the replicas of retrieval, ranking, rerank."""

    def stage(contract: StageContract[E, R], name: str) -> RemoteStage[E, R]:
        return RemoteStage(
            contract,
            endpoints(name),
            metrics,
            max_in_flight=config.stage_in_flight,
            max_batch=config.stage_batch,
            max_weight=config.stage_batch_weight,
        )

    return stage(RETRIEVE, "retrieval"), stage(RANK, "ranking"), stage(RERANK, "rerank")


async def static_stages(config: GatewayConfig, metrics: Metrics) -> Stages:
    """Return stages at the addresses that the configuration names."""
    addresses = {
        "retrieval": config.stages.retrieval,
        "ranking": config.stages.ranking,
        "rerank": config.stages.rerank,
    }
    for name, known in addresses.items():
        if not known:
            raise ConfigError(
                f"[gateway.stages] {name} must name at least one host:port, got none; "
                f"start one with python -m {name}_svc"
            )
    return remote_stages(config, metrics, lambda name: StaticEndpoints(addresses[name]))


def process(
    config: GatewayConfig,
    release: str,
    connect: Connect = static_stages,
    open_store: Callable[[str], Store] = open_store_at,
) -> ServerProcess:
    """Return the replica, not yet started."""
    funnel: Funnel | None = None
    writes: CatalogueWrites | None = None

    async def build(metrics: Metrics) -> tuple[Callable[[grpc.aio.Server], None], str]:
        nonlocal funnel, writes
        view, store = await asyncio.to_thread(_load, config, release, open_store)
        metrics.release.labels(view.release).set(1)
        feed = Feed(
            view.catalogue,
            metrics,
            every=config.tail_ms / 1000,
            kept=view.kept,
            rules=view.rules,
        )
        profiles = Profiles(store, metrics, feed)
        await profiles.catch_up(Budget(_CATCH_UP_SECONDS))
        profiles.follow()
        writes = CatalogueWrites(store, metrics, most=config.max_catalogue_writes)
        stages = await connect(config, metrics)
        await _wait_for(stages)
        retrieve, rank, rerank = stages
        funnel = Funnel(
            config,
            metrics,
            view=view,
            profiles=profiles,
            retrieve=retrieve,
            rank=rank,
            rerank=rerank,
        )
        kept = AnswerCache(
            profiles,
            seconds=config.response_cache_seconds,
            most=config.response_cache_entries,
        )
        if config.response_cache_seconds:
            metrics.cores.watch(kept)
        groups = Groups(config.groups, config.full_groups, config.full_group, metrics)
        servicer = RecommenderServicer(config, funnel, kept, groups)
        catalog = CatalogServicer(config, view, profiles, writes)

        def add(server: grpc.aio.Server) -> None:
            recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(servicer, server)
            catalog_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, server)

        return add, view.release

    async def probe() -> None:
        if funnel is not None:
            await funnel.profiles.probe()

    async def close() -> None:
        if writes is not None:
            await writes.close()
        if funnel is not None:
            await funnel.close()

    return ServerProcess(
        config, name="gateway", service=SERVICE, build=build, probe=probe, close=close
    )


async def _wait_for(stages: Stages) -> None:
    """Return when the first request will find connections that are up.

    Without a stage the gateway serves what it can.
    """
    reached = await asyncio.gather(*(stage.ready(_READY_SECONDS) for stage in stages))
    if not all(reached):
        names = ("retrieval", "ranking", "rerank")
        missing = [name for name, there in zip(names, reached, strict=True) if not there]
        log.warning("serving without %s for now", ", ".join(missing))


def _load(
    config: GatewayConfig, release: str, open_store: Callable[[str], Store]
) -> tuple[ReleaseView, Store]:
    opened = Release.open(Path(release))
    view = ReleaseView.load(opened, Path(config.rules) if config.rules else None)
    store = open_store(config.store)
    try:
        store.seed(opened)
    except BaseException:
        store.close()
        raise
    return view, store
