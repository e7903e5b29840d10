"""RecommenderService: checks a request, runs the funnel, packs the answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import grpc

from corerec.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from corerec.serving.budget import Budget
from corerec.serving.interceptor import REQUEST_ID
from corerec.serving.wire import item_to_proto, timings_to_proto
from corerec.v1 import recommender_pb2, recommender_pb2_grpc
from gateway.config import GatewayConfig
from gateway.explain import Explainer
from gateway.funnel import Funnel
from gateway.outcome import Outcome
from gateway.requests import events_of, explained_numbers, query_of

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class RecommenderServicer(recommender_pb2_grpc.RecommenderServiceServicer):
    """The public service over one funnel."""

    def __init__(self, config: GatewayConfig, funnel: Funnel) -> None:
        self._config, self._funnel = config, funnel
        self.in_flight = 0
        """Recommend and Explain calls being answered."""

    async def Recommend(
        self, request: recommender_pb2.RecommendRequest, context: Context
    ) -> recommender_pb2.RecommendResponse:
        """Return the best list that can be had within the deadline."""
        with self._admitted():
            outcome = await self._run(request, context, explain=False)
            return self._response(outcome)

    async def Explain(
        self, request: recommender_pb2.ExplainRequest, context: Context
    ) -> recommender_pb2.ExplainResponse:
        """Return the whole funnel of one request."""
        with self._admitted():
            await self._learn(request.item_ids, context)
            wanted = explained_numbers(request.item_ids, self._funnel.view.catalogue)
            outcome = await self._run(request.recommend, context, explain=True)
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

    async def _run(
        self, request: recommender_pb2.RecommendRequest, context: Context, *, explain: bool
    ) -> Outcome:
        catalogue = self._funnel.view.catalogue
        query = query_of(request, self._config, catalogue, REQUEST_ID.get())
        return await self._funnel.run(query, self._budget(context), explain=explain)

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

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self.in_flight >= self._config.max_requests:
            raise ResourceExhausted(
                f"the gateway answers at most {self._config.max_requests} requests at once"
            )
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def _response(self, outcome: Outcome) -> recommender_pb2.RecommendResponse:
        return recommender_pb2.RecommendResponse(
            items=[item_to_proto(item) for item in outcome.items],
            request_id=REQUEST_ID.get(),
            release=self._funnel.view.release,
            stages=[
                recommender_pb2.StageReport(
                    stage=r.stage,
                    input_count=r.input_count,
                    output_count=r.output_count,
                    latency_micros=r.micros,
                    steps=timings_to_proto(r.steps),
                )
                for r in outcome.reports
            ],
            coverage=outcome.coverage,
            degraded=[
                recommender_pb2.Degradation(
                    stage=d.stage,
                    reason=int(d.reason),  # type: ignore[arg-type]  # an int on the wire
                    note=d.note,
                )
                for d in outcome.degraded
            ],
            latency_micros=int((time.monotonic() - outcome.started) * 1e6),
        )
