"""One request, top to bottom: profile, retrieve, rank, rerank. Whatever is late or down is replaced
by the next best thing and named in the outcome; nothing is dropped silently."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from corerec.errors import CoreRecError
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.serving.stage import Stage
from corerec.serving.status import Internal
from corerec.stages import (
    MAX_HISTORY,
    Candidates,
    RankEntry,
    RankResult,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
    Source,
    UserContext,
)
from corerec.store import UserState
from gateway.config import GatewayConfig
from gateway.outcome import Outcome, Query, Reason, Report
from gateway.profiles import Profiles
from gateway.view import ReleaseView

_REPLY_SECONDS = 0.01  # kept back so that the answer still reaches the caller in time
_REPLY_SHARE = 0.1  # or this much of the budget, when that is less


_NONE = np.empty(0, np.int64)


class Funnel:
    """The stages in order, over one release."""

    def __init__(
        self,
        config: GatewayConfig,
        metrics: Metrics,
        *,
        view: ReleaseView,
        profiles: Profiles,
        retrieve: Stage[RetrieveEntry, RetrieveResult],
        rank: Stage[RankEntry, RankResult],
        rerank: Stage[RerankEntry, RerankResult],
    ) -> None:
        self.view, self.profiles = view, profiles
        self._config, self._metrics = config, metrics
        # One mark per item, all False between uses: ten times cheaper than np.isin on 500.
        self._marks = np.zeros(len(view.catalogue), bool)
        self._measured = {  # looked up once: labels() costs more than observing
            stage: (
                metrics.stage_seconds.labels(stage),
                metrics.candidates.labels(stage, "in"),
                metrics.candidates.labels(stage, "out"),
            )
            for stage in ("profile", "retrieve", "rank", "rerank")
        }
        self._retrieve_stage, self._rank_stage, self._rerank_stage = retrieve, rank, rerank

    async def run(self, query: Query, budget: Budget, *, explain: bool = False) -> Outcome:
        """Return the outcome; with `explain`, every candidate's way is in it."""
        outcome = Outcome()
        budget = budget.share(1.0, min(_REPLY_SECONDS, _REPLY_SHARE * budget.remaining))
        outcome.user = await self._profile(query, budget, outcome)
        outcome.retrieved = await self._retrieve(query, budget, outcome)
        outcome.scored = await self._rank(query, budget, outcome, explain)
        outcome.ranked = outcome.scored.top(self._config.rank_k)
        await self._rerank(query, budget, outcome, explain)
        for missing in outcome.degraded:
            self._metrics.degraded.labels(missing.stage, missing.reason.name).inc()
        return outcome

    async def _profile(self, query: Query, budget: Budget, outcome: Outcome) -> UserContext:
        started = time.monotonic()
        state = UserState(query.user_id, {}, _NONE, _NONE, known=False)
        if query.user_id:
            try:
                share = budget.share(self._config.shares.profile)
                state = await self.profiles.read(query.user_id, share)
            except CoreRecError as error:
                outcome.note("profile", error, "answered without stored history and attributes")
        if query.unknown_recent:
            outcome.note(
                "profile",
                Reason.PARTIAL,
                f"{query.unknown_recent} of recent_item_ids are not in the catalogue; ignored",
            )
        self._report(outcome, "profile", started, 1, len(state.items), {})
        return _context(query, state, self.view.data_end)

    async def _retrieve(self, query: Query, budget: Budget, outcome: Outcome) -> Candidates:
        started, k = time.monotonic(), self._config.retrieve_k
        entry = RetrieveEntry(
            request_id=query.request_id, user=outcome.user, k=k, exclude_seen=query.exclude_seen
        )
        timings: Mapping[str, int] = {}
        try:
            share = budget.share(self._config.shares.retrieve)
            result = await self._retrieve_stage.call(self.view.release, entry, share)
            candidates, timings = result.candidates, result.timings
            self._check_known(candidates)
            if not len(candidates):
                raise Internal("retrieve answered no candidates")
            outcome.coverage = result.coverage
            if result.coverage < 1.0:
                outcome.note(
                    "retrieve", Reason.PARTIAL, f"{result.coverage:.1%} of retrieval answered"
                )
        except CoreRecError as error:
            unwanted = outcome.user.items if query.exclude_seen else outcome.user.items[:0]
            candidates, outcome.coverage = self.view.popular(k, unwanted), 0.0
            outcome.note("retrieve", error, "used the release's popular items")
        self._report(
            outcome, "retrieve", started, len(self.view.catalogue), len(candidates), timings
        )
        return candidates

    async def _rank(
        self, query: Query, budget: Budget, outcome: Outcome, explain: bool
    ) -> Candidates:
        started, sent = time.monotonic(), outcome.retrieved
        assert sent is not None
        k = len(sent) if explain else min(self._config.rank_k, len(sent))
        newest = self._config.rank_history
        user = replace(
            outcome.user, items=outcome.user.items[-newest:], times=outcome.user.times[-newest:]
        )
        timings: Mapping[str, int] = {}
        ranked = sent
        if len(sent):
            entry = RankEntry(request_id=query.request_id, user=user, candidates=sent, k=k)
            try:
                share = budget.share(self._config.shares.rank)
                result = await self._rank_stage.call(self.view.release, entry, share)
                self._check_kept(result.candidates, sent, k)
                ranked, timings = result.candidates, result.timings
            except CoreRecError as error:
                outcome.note("rank", error, "kept the order of retrieval")
        passed_on = min(len(ranked), self._config.rank_k)
        self._report(outcome, "rank", started, len(sent), passed_on, timings)
        return ranked

    async def _rerank(self, query: Query, budget: Budget, outcome: Outcome, explain: bool) -> None:
        started, sent = time.monotonic(), outcome.ranked
        assert sent is not None
        entry = RerankEntry(
            request_id=query.request_id,
            candidates=sent,
            k=query.page_size,
            now=query.now,
            explain=explain,
        )
        timings: Mapping[str, int] = {}
        try:
            share = budget.share(self._config.shares.rerank)
            result = await self._rerank_stage.call(self.view.release, entry, share)
            self._check_final(result, sent, query.page_size)
            outcome.items, outcome.removed = result.items, result.removed
            timings = result.timings
        except CoreRecError as error:
            outcome.items = self.view.in_order(sent, query.page_size)
            outcome.note("rerank", error, "kept the ranked order; hard blocks still applied")
        self._report(outcome, "rerank", started, len(sent), len(outcome.items), timings)

    def _check_known(self, candidates: Candidates) -> None:
        if len(candidates) and int(candidates.numbers.max()) >= len(self.view.catalogue):
            raise Internal(f"item {int(candidates.numbers.max())} is not in the catalogue")

    def _check_kept(self, ranked: Candidates, sent: Candidates, k: int) -> None:
        """Raise when ranking lost, doubled or made up candidates."""
        if len(ranked) != k:
            raise Internal(f"rank answered {len(ranked)} of {k} candidates")
        self._check_known(ranked)
        self._marks[sent.numbers] = True
        kept = bool(self._marks[ranked.numbers].all())
        self._marks[sent.numbers] = False
        if not kept:
            raise Internal("rank answered items that it was not sent")

    def _check_final(self, result: RerankResult, sent: Candidates, page_size: int) -> None:
        known = set(sent.numbers.tolist())
        for item in result.items:
            if item.number not in known and item.source != Source.PINNED:
                raise Internal(f"rerank answered item {item.number}, which it was not sent")
        if len(result.items) > page_size:
            raise Internal(f"rerank answered {len(result.items)} items for {page_size}")
        if not result.items and self.view.in_order(sent, 1):
            raise Internal("rerank answered an empty list")

    def _report(
        self,
        outcome: Outcome,
        stage: str,
        started: float,
        sent: int,
        received: int,
        steps: Mapping[str, int],
    ) -> None:
        seconds = time.monotonic() - started
        outcome.reports.append(
            Report(
                stage=stage,
                input_count=sent,
                output_count=received,
                micros=int(seconds * 1e6),
                steps=steps,
            )
        )
        measured_seconds, measured_in, measured_out = self._measured[stage]
        measured_seconds.observe(seconds)
        measured_in.observe(sent)
        measured_out.observe(received)

    async def close(self) -> None:
        """Let every stage and the store go."""
        for stage in (self._retrieve_stage, self._rank_stage, self._rerank_stage):
            await stage.close()
        await self.profiles.close()


def _context(query: Query, state: UserState, data_end: int) -> UserContext:
    """Return the user with this session's items behind the stored ones."""
    items, times = state.items, state.times
    if len(query.recent):
        moment = query.now or data_end
        items = np.concatenate([items, query.recent])
        times = np.concatenate([times, np.full(len(query.recent), moment, np.int64)])
    return UserContext(
        user_id=query.user_id,
        attributes={**state.attributes, **query.attributes},
        items=items[-MAX_HISTORY:],
        times=times[-MAX_HISTORY:],
        now=query.now,
    )
