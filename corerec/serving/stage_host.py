"""The server side of a stage: holds its cores by release and answers batch RPCs with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from corerec.errors import (
    CoreRecError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
)
from corerec.serving.batching import MAX_WEIGHT, Answer, Batcher
from corerec.serving.budget import Budget
from corerec.serving.contracts import MAX_ENTRIES, StageContract
from corerec.serving.metrics import Metrics
from corerec.serving.status import code_of, entry_status
from corerec.serving.stream_server import Outcomes, StreamServer
from corerec.stages import StageCore

E = TypeVar("E")
R = TypeVar("R")
E_contra = TypeVar("E_contra", contravariant=True)
R_co = TypeVar("R_co")


class Runner(Protocol[E_contra, R_co]):
    """What answers entries over one release: a Batcher, or shards behind one."""

    @property
    def in_flight(self) -> int:
        """Entries that wait or are being computed."""
        ...

    def submit(self, entry: E_contra, budget: Budget) -> asyncio.Future[Answer[R_co]]:
        """Queue an entry; see `Batcher.submit`."""
        ...

    async def probe(self) -> None:
        """Return when the threads that compute are free to answer."""
        ...

    async def close(self) -> None:
        """Finish what waits and let everything go."""
        ...


class StageHost(Generic[E, R]):
    """Answers one stage's RPC from the cores that it holds."""

    def __init__(
        self,
        contract: StageContract[E, R],
        metrics: Metrics,
        *,
        max_queue: int,
        max_batch: int,
        max_weight: int = MAX_WEIGHT,
        inline_seconds: float = 0.0,
        observe: Callable[[R], None] | None = None,
    ) -> None:
        self.contract = contract
        self._metrics = metrics
        self._max_queue, self._max_batch, self._max_weight = max_queue, max_batch, max_weight
        self._inline_seconds, self._observe = inline_seconds, observe
        self._batchers: dict[str, Runner[E, R]] = {}
        self.streams = StreamServer(contract, metrics, begin=self.begin, respond=self.respond)

    def add(self, core: StageCore[E, R]) -> Batcher[E, R]:
        """Hold a core, warmed already, under its release."""
        batcher = Batcher(
            core,
            stage=self.contract.stage,
            metrics=self._metrics,
            max_queue=self._max_queue,
            max_batch=self._max_batch,
            max_weight=self._max_weight,
            observe=self._observe,
            inline_seconds=self._inline_seconds,
        )
        self.hold(core.release, batcher)
        return batcher

    def hold(self, release: str, runner: Runner[E, R]) -> None:
        """Answer for a release with something that runs entries as a batcher does."""
        self._batchers[release] = runner
        self._metrics.release.labels(release).set(1)

    @property
    def in_flight(self) -> int:
        """Entries that wait or are being computed."""
        return sum(b.in_flight for b in self._batchers.values())

    @property
    def releases(self) -> list[str]:
        """Ids of the releases held."""
        return list(self._batchers)

    def batcher(self, release: str) -> Runner[E, R]:
        """Return what runs a release's entries. Raises FailedPrecondition when it is not held."""
        try:
            return self._batchers[release]
        except KeyError:
            raise FailedPrecondition(
                f"{self.contract.stage} must hold the pinned release, got {release!r}; "
                f"it holds {self.releases}"
            ) from None

    async def answer(self, request: Any, remaining: float) -> Any:
        """Return the response to a call that has `remaining` seconds left. Raises as `begin`."""
        outcomes = self.begin(request, remaining)
        await _all_done(outcomes)
        response = self.contract.response()
        self.respond(response, outcomes)
        return response

    def begin(self, request: Any, remaining: float | None = None) -> Outcomes:
        """Begin a batch: the outcome of each entry, in order.

        `remaining` are the seconds that its call has left; in a stream only entries have budgets.

        Raises:
            InvalidArgument: no entries, or more than MAX_ENTRIES.
            FailedPrecondition: the release is not held.
        """
        if not 1 <= len(request.entries) <= MAX_ENTRIES:
            raise InvalidArgument(
                f"entries must number in [1, {MAX_ENTRIES}], got {len(request.entries)}"
            )
        batcher = self.batcher(request.release)
        return [self._submit(batcher, entry, remaining) for entry in request.entries]

    def respond(self, response: Any, outcomes: Outcomes) -> None:
        """Fill a response once every outcome is known, each entry with its own status."""
        for outcome in outcomes:
            self._write_result(response.results.add(), outcome)

    def _submit(
        self, batcher: Runner[E, R], message: Any, remaining: float | None
    ) -> asyncio.Future[Answer[R]] | CoreRecError:
        try:
            seconds = message.budget_micros / 1e6
            if seconds <= 0:
                raise DeadlineExceeded(f"budget_micros must be > 0, got {message.budget_micros}")
            budget = Budget(seconds if remaining is None else min(seconds, remaining))
            return batcher.submit(self.contract.entry_from_proto(message), budget)
        except CoreRecError as error:
            return error

    def _write_result(
        self, message: Any, outcome: asyncio.Future[Answer[R]] | CoreRecError
    ) -> None:
        error = outcome.exception() if isinstance(outcome, asyncio.Future) else outcome
        if error is None:
            assert isinstance(outcome, asyncio.Future)
            answer = outcome.result()
            timings = {"queue": answer.queue_micros, **answer.result.timings}  # type: ignore[attr-defined]
            self.contract.write_result(message, answer.result, timings)
            return
        code = code_of(error).name
        self._metrics.entry_errors.labels(self.contract.stage, code).inc()
        message.status.CopyFrom(entry_status(error))

    async def probe(self) -> None:
        """Return when every core's thread answers."""
        for batcher in list(self._batchers.values()):
            await batcher.probe()

    async def close(self) -> None:
        """Finish what waits and let every core go."""
        await asyncio.gather(*(b.close() for b in self._batchers.values()))


async def _all_done(outcomes: Outcomes) -> None:
    """Return when every future is done; cancel them when the caller leaves.

    One after the other, as a batch's futures end together: `gather` would cost as much as the rest
    of a small call.
    """
    waiting = [outcome for outcome in outcomes if isinstance(outcome, asyncio.Future)]
    try:
        for future in waiting:
            try:
                await future
            except Exception:  # each entry has its own status, read afterwards
                continue
    except asyncio.CancelledError:
        for future in waiting:
            future.cancel()
        raise
