"""The same stages as Ray Serve's own guides compose them: one deployment a stage, an ingress that
calls them through DeploymentHandles, Serve's gRPC proxy in front.

It loads the same cores from the same release with the same options, reads the same store and
answers the same message as CoreRec's gateway. It batches as Serve can (`serve.batch`, without a
waiting window, so that one caller pays nothing for it) and computes off the event loop.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle

from corerec.errors import CoreRecError
from corerec.release import Release
from corerec.serving.wire import item_to_proto, timings_to_proto
from corerec.stages import (
    MAX_HISTORY,
    RankEntry,
    RankResult,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
    StageCore,
    UserContext,
)
from corerec.store import SqliteStore, UserState
from corerec.v1 import recommender_pb2
from gateway.config import GatewayConfig
from gateway.outcome import Query
from gateway.requests import query_of
from gateway.view import ReleaseView
from ranking_svc.config import RankingConfig
from ranking_svc.process import load as load_ranking
from rerank_svc.config import RerankConfig
from rerank_svc.process import load as load_rerank
from retrieval_svc.config import RetrievalConfig
from retrieval_svc.process import load as load_retrieval

ONGOING = 100
"""`max_ongoing_requests`. Serve's default, 5, would keep its batches at 5 and 27 of 32 callers in
the proxy: a fifth of the throughput. Its guide asks for more than the largest batch."""
MAX_BATCH = 32


class Stage:
    """A warm core and one thread to run it in, so that the replica's loop stays free."""

    def __init__(self, core: StageCore[Any, Any]) -> None:
        core.warm()
        self._core = core
        self._thread = ThreadPoolExecutor(1)

    async def run(self, entries: Sequence[Any]) -> list[Any]:
        """Return a batch's results, or raise the first entry's error."""
        loop = asyncio.get_running_loop()
        results = await loop.run_in_executor(self._thread, self._core.run, entries)
        for result in results:
            if isinstance(result, CoreRecError):
                raise result
        return list(results)


@serve.deployment(max_ongoing_requests=ONGOING)
class Retrieval:
    """Query encoding and vector search."""

    def __init__(self, release: str, config: RetrievalConfig) -> None:
        self._stage = Stage(load_retrieval(config, release))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0)
    async def retrieve(self, entries: list[RetrieveEntry]) -> list[RetrieveResult]:
        """Return one result per entry."""
        return await self._stage.run(entries)


@serve.deployment(max_ongoing_requests=ONGOING)
class Ranking:
    """The ranking model."""

    def __init__(self, release: str, config: RankingConfig) -> None:
        self._stage = Stage(load_ranking(config, release))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0)
    async def rank(self, entries: list[RankEntry]) -> list[RankResult]:
        """Return one result per entry."""
        return await self._stage.run(entries)


@serve.deployment(max_ongoing_requests=ONGOING)
class Rerank:
    """Rules over the ranked list."""

    def __init__(self, release: str, config: RerankConfig) -> None:
        self._stage = Stage(load_rerank(config, release))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0)
    async def rerank(self, entries: list[RerankEntry]) -> list[RerankResult]:
        """Return one result per entry."""
        return await self._stage.run(entries)


@serve.deployment(max_ongoing_requests=ONGOING)
class Recommender:
    """The ingress: one request, top to bottom."""

    def __init__(
        self,
        release: str,
        config: GatewayConfig,
        retrieval: DeploymentHandle[Any],
        ranking: DeploymentHandle[Any],
        rerank: DeploymentHandle[Any],
    ) -> None:
        self._config = config
        self._view = ReleaseView.load(Release.open(Path(release)))
        self._store = SqliteStore(Path(config.store))
        self._retrieval, self._ranking, self._rerank = retrieval, ranking, rerank

    async def Recommend(
        self, request: recommender_pb2.RecommendRequest
    ) -> recommender_pb2.RecommendResponse:
        """Return the best list; Serve's proxy finds this method by the RPC's name."""
        started, reports = time.monotonic(), Reports()
        request_id = uuid.uuid4().hex
        query = query_of(request, self._config, self._view.catalogue, request_id)

        # One row of SQLite is read faster than another thread is woken for it.
        user = user_of(query, self._store.read_users([query.user_id])[0], self._view.data_end)
        reports.add("profile", 1, len(user.items), {})

        retrieved: RetrieveResult = await self._retrieval.retrieve.remote(
            RetrieveEntry(
                request_id=request_id,
                user=user,
                k=self._config.retrieve_k,
                exclude_seen=query.exclude_seen,
            )
        )
        candidates = retrieved.candidates
        reports.add("retrieve", len(self._view.catalogue), len(candidates), retrieved.timings)

        newest = self._config.rank_history
        ranked: RankResult = await self._ranking.rank.remote(
            RankEntry(
                request_id=request_id,
                user=replace(user, items=user.items[-newest:], times=user.times[-newest:]),
                candidates=candidates,
                k=min(self._config.rank_k, len(candidates)),
            )
        )
        reports.add("rank", len(candidates), len(ranked.candidates), ranked.timings)

        final: RerankResult = await self._rerank.rerank.remote(
            RerankEntry(
                request_id=request_id,
                candidates=ranked.candidates,
                k=query.page_size,
                now=query.now,
            )
        )
        reports.add("rerank", len(ranked.candidates), len(final.items), final.timings)

        return recommender_pb2.RecommendResponse(
            items=[item_to_proto(item) for item in final.items],
            request_id=request_id,
            release=self._view.release,
            stages=reports.made,
            coverage=retrieved.coverage,
            latency_micros=int((time.monotonic() - started) * 1e6),
        )


def user_of(query: Query, state: UserState, data_end: int) -> UserContext:
    """Return the user with this session's items behind the stored ones."""
    items, times = state.items, state.times
    if len(query.recent):
        items = np.concatenate([items, query.recent])
        moment = np.full(len(query.recent), query.now or data_end, np.int64)
        times = np.concatenate([times, moment])
    return UserContext(
        user_id=query.user_id,
        attributes={**state.attributes, **query.attributes},
        items=items[-MAX_HISTORY:],
        times=times[-MAX_HISTORY:],
        now=query.now,
    )


class Reports:
    """What each stage did, timed from the end of the one before."""

    def __init__(self) -> None:
        self.made: list[recommender_pb2.StageReport] = []
        self._last = time.monotonic()

    def add(self, stage: str, sent: int, received: int, steps: Mapping[str, int]) -> None:
        """Record that a stage has answered."""
        now = time.monotonic()
        report = recommender_pb2.StageReport(
            stage=stage,
            input_count=sent,
            output_count=received,
            latency_micros=int((now - self._last) * 1e6),
            steps=timings_to_proto(steps),
        )
        self.made.append(report)
        self._last = now


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The same configuration that CoreRec's services read."""

    gateway: GatewayConfig
    retrieval: RetrievalConfig
    ranking: RankingConfig
    rerank: RerankConfig


def build(release: str, tables: Tables) -> serve.Application:
    """Return the application."""

    def stage(deployment: Any, config: Any) -> serve.Application:
        made: serve.Application = deployment.options(num_replicas=config.replicas).bind(
            release, config
        )
        return made

    ingress: Any = Recommender
    application: serve.Application = ingress.options(num_replicas=tables.gateway.replicas).bind(
        release,
        tables.gateway,
        stage(Retrieval, tables.retrieval),
        stage(Ranking, tables.ranking),
        stage(Rerank, tables.rerank),
    )
    return application
