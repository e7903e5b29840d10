"""RecommenderService: checks a request, runs the funnel, packs the answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import grpc

from corerec.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from corerec.serving.budget import Budget
from corerec.serving.interceptor import REQUEST_ID
from corerec.v1 import recommender_pb2, recommender_pb2_grpc
from gateway.config import GatewayConfig
from gateway.explain import Explainer
from gateway.funnel import Funnel
from gateway.groups import Groups
from gateway.kept import AnswerCache
from gateway.outcome import Outcome, Query
from gateway.requests import events_of, explained_numbers, query_of

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class _Admission:
    """Counts the Recommend and Explain calls being answered, and refuses one too many."""

    __slots__ = ("_most", "in_flight")

    def __init__(self, most: int) -> None:
        self._most, self.in_flight = most, 0

    def __enter__(self) -> None:
        if self.in_flight >= self._most:
            raise ResourceExhausted(f"the gateway answers at most {self._most} requests at once")
        self.in_flight += 1

    def __exit__(self, *_: object) -> None:
        self.in_flight -= 1


class RecommenderServicer(recommender_pb2_grpc.RecommenderServiceServicer):
    """The public service over one funnel."""

    def __init__(
        self, config: GatewayConfig, funnel: Funnel, kept: AnswerCache, groups: Groups
    ) -> None:
        self._config, self._funnel, self._kept, self._groups = config, funnel, kept, groups
        self._admission = _Admission(config.max_requests)

    async def Recommend(
        self, request: recommender_pb2.RecommendRequest, context: Context
    ) -> recommender_pb2.RecommendResponse:
        """Return the best list that can be had within the deadline."""
        with self._admission:
            budget, started = self._budget(context), time.monotonic()
            key = self._kept.key(request)
            if key is None:
                return await self._answer(request, budget)
            answer = await self._kept.answer(key, budget, lambda: self._answer(request, budget))
            return answer if answer.request_id else _told(answer, started)

    async def Explain(
        self, request: recommender_pb2.ExplainRequest, context: Context
    ) -> recommender_pb2.ExplainResponse:
        """Return the whole funnel of one request."""
        with self._admission:
            await self._learn(request.item_ids, context)
            wanted = explained_numbers(request.item_ids, self._funnel.view.catalogue)
            query = self._query(request.recommend)
            outcome = await self._funnel.run(query, self._budget(context), explain=True)
            explainer = Explainer(
                self._funnel.view, outcome, exclude_seen=not request.recommend.include_seen
            )
            return recommender_pb2.ExplainResponse(
                recommend=self._response(outcome),
                traces=explainer.traces(wanted or explainer.entered()),
                history=explainer.history(),
            )

    async def RecordEvents(
        self, request: recommender_pb2.RecordEventsRequest, context: Context
    ) -> recommender_pb2.RecordEventsResponse:
        """Store events; acknowledged when durable."""
        await self._learn([event.item_id for event in request.events], context)
        events = events_of(request, self._funnel.view.catalogue)
        stored = await self._funnel.profiles.append(events, self._budget(context))
        return recommender_pb2.RecordEventsResponse(stored_count=stored)

    async def _answer(
        self, request: recommender_pb2.RecommendRequest, budget: Budget
    ) -> recommender_pb2.RecommendResponse:
        query, started = self._query(request), time.monotonic()
        group = self._groups.start() or await self._groups.wait(budget)
        answered = False
        try:
            response = self._response(await self._funnel.run(query, budget, started=started))
            answered = True
        finally:
            group.leave(answered=answered)
        return response

    def _query(self, request: recommender_pb2.RecommendRequest) -> Query:
        return query_of(request, self._config, self._funnel.view.catalogue, REQUEST_ID.get())

    async def _learn(self, ids: Sequence[str], context: Context) -> None:
        """Look for ids that are not known yet: items may have come a moment ago."""
        catalogue = self._funnel.view.catalogue
        if any(catalogue.number_of(item_id) is None for item_id in ids):
            with suppress(Unavailable, DeadlineExceeded):
                await self._funnel.profiles.look(self._budget(context).share(0.5))

    def _budget(self, context: Context) -> Budget:
        return Budget.of(
            context.time_remaining(),
            self._config.default_deadline_ms / 1000,
            self._config.max_deadline_ms / 1000,
        )

    def _response(self, outcome: Outcome) -> recommender_pb2.RecommendResponse:
        answer = outcome.answer
        answer.items.extend(outcome.items)
        answer.request_id, answer.release = REQUEST_ID.get(), self._funnel.view.release
        answer.coverage = outcome.coverage
        for missing in outcome.degraded:
            reason = int(missing.reason)
            answer.degraded.add(stage=missing.stage, reason=reason, note=missing.note)
        answer.latency_micros = int((time.monotonic() - outcome.started) * 1e6)
        return answer


def _told(
    kept: recommender_pb2.RecommendResponse, started: float
) -> recommender_pb2.RecommendResponse:
    """Return a kept answer as that of this request, which no stage has seen."""
    micros = int((time.monotonic() - started) * 1e6)
    kept.request_id, kept.latency_micros = REQUEST_ID.get(), micros
    kept.stages.add(stage="cache", output_count=len(kept.items), latency_micros=micros)
    return kept
