"""The whole funnel in one process, without Ray: the same gateway over stages in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from corerec.serving.batching import Batcher
from corerec.serving.config import StageConfig
from corerec.serving.deployment_file import DeploymentFile
from corerec.serving.metrics import Metrics, observe_sources
from corerec.serving.process import ServerProcess, limit_blas
from corerec.serving.stage import LocalStage
from corerec.serving.tail import Tailer, follow
from corerec.stages import StageCore
from gateway.config import GatewayConfig
from gateway.process import Stages, process
from ranking_svc.config import RankingConfig
from ranking_svc.process import load as load_ranking
from rerank_svc.config import RerankConfig
from rerank_svc.process import load as load_rerank
from retrieval_svc.config import RetrievalConfig
from retrieval_svc.process import load as load_retrieval

E = TypeVar("E")
R = TypeVar("R")


def in_process(file: DeploymentFile, release: str, store: str = "") -> ServerProcess:
    """Return a gateway whose stages run beside it, not yet started."""
    # Cores are given to a service's process; here one process is all of them.
    gateway = replace(gateway_config(file, store), cores="auto")
    retrieval = file.config(RetrievalConfig, "retrieval")
    ranking = file.config(RankingConfig, "ranking")
    rerank = file.config(RerankConfig, "rerank")

    async def connect(config: GatewayConfig, metrics: Metrics) -> Stages:
        def load() -> tuple[Any, Any, Any]:
            cores = (
                load_retrieval(retrieval, release),
                load_ranking(ranking, release),
                load_rerank(rerank, release),
            )
            for core in cores:
                core.warm()
            return cores

        limit_blas(1)
        retrieve_core, rank_core, rerank_core = await asyncio.to_thread(load)
        observe = observe_sources(retrieve_core, metrics)
        metrics.cores.watch(rank_core)
        return (
            await _stage("retrieve", retrieve_core, retrieval, gateway, metrics, observe),
            await _stage("rank", rank_core, ranking, gateway, metrics),
            await _stage("rerank", rerank_core, rerank, gateway, metrics),
        )

    return process(gateway, release, connect=connect)


def gateway_config(file: DeploymentFile, store: str = "", port: int | None = None) -> GatewayConfig:
    """Return the gateway's table, with the rules that reranking has and what the caller gave."""
    config = file.config(GatewayConfig, "gateway")
    rules = file.config(RerankConfig, "rerank").rules
    return replace(
        config,
        rules=config.rules or rules,
        store=store or config.store,
        port=config.port if port is None else port,
    )


class _FollowingStage(LocalStage[E, R]):
    """A stage in this process that follows the store's catalogue."""

    def __init__(self, batcher: Batcher[E, R], tailer: Tailer | None) -> None:
        super().__init__(batcher)
        self._tailer = tailer

    async def close(self) -> None:
        """Stop following, then finish what waits."""
        if self._tailer is not None:
            await self._tailer.close()
        await super().close()


async def _stage(
    name: str,
    core: StageCore[E, R],
    config: StageConfig,
    gateway: GatewayConfig,
    metrics: Metrics,
    observe: Callable[[R], None] | None = None,
) -> LocalStage[E, R]:
    batcher = Batcher(
        core,
        stage=name,
        metrics=metrics,
        max_queue=config.max_queue,
        max_batch=config.max_batch,
        max_weight=config.max_batch_weight,
        observe=observe,
    )
    followed = replace(config, store=config.store or gateway.store)
    return _FollowingStage(batcher, await follow(batcher, followed, metrics, stage=name))
