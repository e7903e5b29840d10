"""One request, top to bottom: profile, retrieve, rank, rerank. Whatever is late or down is replaced
by the next best thing and named in the outcome; nothing is dropped silently."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from corerec.errors import CoreRecError, InvalidArgument
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.serving.stage import Stage
from corerec.serving.status import Internal
from corerec.serving.wire import items_to_proto, timings_to_proto
from corerec.stages import (
    MAX_HISTORY,
    Candidates,
    RankEntry,
    RankResult,
    RerankEntry,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
    UserContext,
)
from corerec.store import UserState
from corerec.v1 import common_pb2
from gateway.checks import Checks
from gateway.config import GatewayConfig
from gateway.outcome import NO_ITEMS, Outcome, Query, Reason
from gateway.profiles import Profiles
from gateway.view import ReleaseView

_REPLY_SECONDS = 0.01  # kept back so that the answer still reaches the caller in time
_REPLY_SHARE = 0.1  # or this much of the budget, when that is less
_NOBODY = UserState("", {}, NO_ITEMS, NO_ITEMS, known=False)


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
        self._checks = Checks(view, profiles)
        self._measured = {  # looked up once: labels() costs more than observing
            stage: (
                metrics.stage_seconds.labels(stage),
                metrics.candidates.labels(stage, "in"),
                metrics.candidates.labels(stage, "out"),
            )
            for stage in ("profile", "retrieve", "rank", "rerank")
        }
        self._retrieve_stage, self._rank_stage, self._rerank_stage = retrieve, rank, rerank

    async def run(
        self,
        query: Query,
        budget: Budget,
        *,
        explain: bool = False,
        started: float | None = None,
    ) -> Outcome:
        """Return the outcome; with `explain`, every candidate's way is in it.

        `started` is when the request came, on the monotonic clock; None: now.
        """
        outcome = Outcome() if started is None else Outcome(started=started)
        budget = budget.share(1.0, min(_REPLY_SECONDS, _REPLY_SHARE * budget.remaining))
        outcome.user = await self._profile(query, budget, outcome)
        outcome.retrieved = await self._retrieve(query, budget, outcome, explain)
        outcome.scored = await self._rank(query, budget, outcome, explain)
        outcome.ranked = outcome.scored.top(self._config.rank_k)
        await self._rerank(query, budget, outcome, explain)
        await self._leave_out(query, budget, outcome)
        for missing in outcome.degraded:
            self._metrics.degraded.labels(missing.stage, missing.reason.name).inc()
        return outcome

    async def _profile(self, query: Query, budget: Budget, outcome: Outcome) -> UserContext:
        started = time.monotonic()
        state = _NOBODY
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

    async def _retrieve(
        self, query: Query, budget: Budget, outcome: Outcome, explain: bool
    ) -> Candidates:
        started, k = time.monotonic(), self._config.retrieve_k
        entry = RetrieveEntry(
            request_id=query.request_id,
            user=outcome.user,
            k=k,
            exclude_seen=query.exclude_seen,
            where=query.where,
            explain=explain,
        )
        timings: Mapping[str, int] = {}
        try:
            share = budget.share(self._config.shares.retrieve)
            result = await self._retrieve_stage.call(self.view.release, entry, share)
            candidates, timings = result.candidates, result.timings
            if not len(candidates) and not query.where:
                raise Internal("retrieve answered no candidates")
            outcome.coverage, outcome.found_by = result.coverage, result.found_by
            if not self._checks.all_alive(candidates):
                await self._checks.learn(candidates, share)
                candidates = self._alive(candidates, outcome)
            if result.coverage < 1.0:
                outcome.note(
                    "retrieve", Reason.PARTIAL, f"{result.coverage:.1%} of retrieval answered"
                )
        except CoreRecError as error:
            if query.where and isinstance(error, InvalidArgument):
                raise  # an attribute that there is not, say: the caller's to know
            unwanted = outcome.user.items if query.exclude_seen else outcome.user.items[:0]
            candidates, outcome.coverage = self.view.popular(k, unwanted, query.where), 0.0
            outcome.found_by = {}
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
        user = self._newest(outcome.user)
        timings: Mapping[str, int] = {}
        ranked = sent
        if len(sent):
            entry = RankEntry(request_id=query.request_id, user=user, candidates=sent, k=k)
            try:
                share = budget.share(self._config.shares.rank)
                result = await self._rank_stage.call(self.view.release, entry, share)
                self._checks.kept(result.candidates, sent, k)
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
            items = items_to_proto(result.items)
            self._checks.final(items, sent, query.page_size)
            self.view.name(items)
            outcome.items, outcome.removed = items, result.removed
            timings = result.timings
        except CoreRecError as error:
            outcome.items = self.view.in_order(sent, query.page_size)
            outcome.note("rerank", error, "kept the ranked order; hard blocks still applied")
        self._report(outcome, "rerank", started, len(sent), len(outcome.items), timings)

    def _newest(self, user: UserContext) -> UserContext:
        """Return the user with as much history as ranking looks at."""
        most = self._config.rank_history
        if len(user.items) <= most:
            return user
        return UserContext(
            user_id=user.user_id,
            attributes=user.attributes,
            items=user.items[-most:],
            times=user.times[-most:],
            now=user.now,
        )

    def _alive(self, candidates: Candidates, outcome: Outcome) -> Candidates:
        """Return the candidates that were not deleted, and keep their sources' scores in step."""
        alive = ~self.view.catalogue.deleted[candidates.numbers]
        if alive.all():
            return candidates
        outcome.found_by = {source: own[alive] for source, own in outcome.found_by.items()}
        return Candidates(
            numbers=candidates.numbers[alive],
            scores=candidates.scores[alive],
            sources=candidates.sources[alive],
        )

    async def _leave_out(self, query: Query, budget: Budget, outcome: Outcome) -> None:
        """Take deleted items, and pinned ones that no condition let in, out of the final list.

        Nothing that was acknowledged as deleted may follow from here on: when the last look at the
        store is old, this looks again.
        """
        feed = self.profiles.feed
        if feed.is_stale:
            try:
                await self.profiles.catch_up(budget.share(self._config.shares.profile))
            except CoreRecError as error:
                told = (
                    d.stage == "profile" and d.reason != Reason.PARTIAL for d in outcome.degraded
                )
                if not any(told):
                    instead = "answered from a catalogue that may miss the newest changes"
                    outcome.note("profile", error, instead)
        deleted = self.view.catalogue.deleted
        outcome.items = [
            item
            for item in outcome.items
            if not ((number := item.item_number) < len(deleted) and deleted[number])
            and (
                not query.where
                or item.source != common_pb2.CANDIDATE_SOURCE_PINNED
                or self.view.meets(number, query.where)
            )
        ]

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
        outcome.answer.stages.add(
            stage=stage,
            input_count=sent,
            output_count=received,
            latency_micros=int(seconds * 1e6),
            steps=timings_to_proto(steps),
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
