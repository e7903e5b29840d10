"""Runs a stage's core on batches made of whatever entries are waiting.

Nothing waits while the core is idle: there is no timer and no window. Entries that arrive while a
batch is being computed form the next one. An entry whose budget ran out, or whose caller left, is
never computed.

A core has a thread, so that the event loop goes on meanwhile. A hop there and back costs a fifth of
what a small batch's RPC does, so a process that has nothing else to do may compute in its loop what
is over soon: what arrives meanwhile waits for the batch anyway.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from corerec.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from corerec.serving.budget import Budget
from corerec.serving.core_thread import CoreThread, outcome
from corerec.serving.metrics import Metrics
from corerec.stages import StageCore

log = logging.getLogger(__name__)

E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")

MAX_WEIGHT = 16_384
"""Most weight in one batch by default: candidates, in ranking."""

_NEWEST = 0.2  # of the running mean of a batch's time


class Answer(NamedTuple, Generic[R]):
    """A core's result and how long its entry waited."""

    result: R
    queue_micros: int


class _Waiting(NamedTuple, Generic[E, R]):
    entry: E
    weight: int
    budget: Budget
    arrived: float
    future: asyncio.Future[Answer[R]]


class _Computed(NamedTuple, Generic[R]):
    results: Sequence[R | Exception]
    started: float
    seconds: float


class Batcher(Generic[E, R]):
    """One core, one thread, one bounded queue.

    Args:
        max_queue: entries that may wait; one more is refused with ResourceExhausted.
        max_batch: entries computed together.
        max_weight: weight computed together; an entry that is heavier is computed alone. A core
            without `weight(entry) -> int` has entries of weight 1.
        observe: called, in the event loop, with every result.
        inline_seconds: a batch that is likely to take less is computed in the event loop.
    """

    def __init__(
        self,
        core: StageCore[E, R],
        *,
        stage: str,
        metrics: Metrics,
        max_queue: int = 512,
        max_batch: int = 32,
        max_weight: int = MAX_WEIGHT,
        observe: Callable[[R], None] | None = None,
        inline_seconds: float = 0.0,
    ) -> None:
        self.core = core
        self._inline_seconds = inline_seconds
        self._pace: float | None = None  # seconds of a batch by its weight, a running mean
        self._observe, self._stage = observe, stage
        self._max_queue, self._max_batch, self._max_weight = max_queue, max_batch, max_weight
        self._weigh: Callable[[E], int] = getattr(core, "weight", _one)
        self._queue: deque[_Waiting[E, R]] = deque()
        self._computing: list[_Waiting[E, R]] = []
        self._thread = CoreThread(f"{stage}-core")
        self._soon = False
        self._closed: asyncio.Event | None = None
        self._queue_seconds = metrics.queue_seconds.labels(stage)
        self._compute_seconds = metrics.compute_seconds.labels(stage)
        self._batch_size = metrics.batch_size.labels(stage)
        self._batch_weight = metrics.batch_weight.labels(stage)
        self._queue_length = metrics.queue_length.labels(stage)
        self._expired = metrics.expired.labels(stage)

    @property
    def in_flight(self) -> int:
        """Entries that wait or are being computed."""
        return len(self._queue) + len(self._computing)

    def submit(self, entry: E, budget: Budget) -> asyncio.Future[Answer[R]]:
        """Queue an entry; the future ends with its answer or a CoreRecError.

        Raises:
            InvalidArgument: the entry breaks a rule of the stage.
            ResourceExhausted: the queue is full.
            DeadlineExceeded: the budget has run out.
        """
        if self._closed is not None:
            raise Unavailable(f"{self._stage} is shutting down; ask another replica")
        self.core.check(entry)
        budget.check(f"{self._stage} was begun")
        if len(self._queue) >= self._max_queue:
            raise ResourceExhausted(
                f"the queue of {self._stage} holds at most {self._max_queue} entries and is full"
            )
        future: asyncio.Future[Answer[R]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(entry, self._weigh(entry), budget, time.monotonic(), future))
        if not self._computing:
            self._begin_soon()
        return future

    async def call(self, entry: E, budget: Budget) -> Answer[R]:
        """Return the entry's answer. Raises what `submit` and the core raise, DeadlineExceeded."""
        future = self.submit(entry, budget)
        late = f"{self._stage} did not answer within its share of the budget"
        timer = budget.limit(future, late)
        try:
            return await future
        finally:
            timer.cancel()

    def _begin_soon(self) -> None:
        """Begin once everything that is ready to run now has run: it may submit entries too."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self, *, here: bool = True) -> None:
        """Give the core its next batch, unless it has one; on its thread, unless `here`."""
        self._soon = False
        if self._computing:
            return
        if batch := self._take():
            entries = [waiting.entry for waiting in batch]
            if here and self._is_quick(batch):
                self._hand_out(batch, *outcome(lambda: self._compute(entries)))
                if self._queue or self._closed is not None:
                    self._begin_soon()
            else:
                self._computing = batch
                self._thread.start(lambda: self._compute(entries), self._computed)
        elif self._closed is not None:
            self._closed.set()

    def _is_quick(self, batch: list[_Waiting[E, R]]) -> bool:
        """Whether to compute a batch here: never while the thread may be using the core."""
        if not self._inline_seconds or self._pace is None or self._thread.under_way:
            return False
        return self._pace * sum(waiting.weight for waiting in batch) < self._inline_seconds

    def _take(self) -> list[_Waiting[E, R]]:
        """Return the next entries that are still wanted and still in time."""
        batch: list[_Waiting[E, R]] = []
        room = self._max_weight
        while self._queue and len(batch) < self._max_batch:
            waiting = self._queue[0]
            if waiting.future.done():  # its caller left
                self._expired.inc()
            elif waiting.budget.expired:
                self._expired.inc()
                late = f"the budget ran out in the queue of {self._stage}"
                waiting.future.set_exception(DeadlineExceeded(late))
            elif batch and waiting.weight > room:
                break
            else:
                batch.append(waiting)
                room -= waiting.weight
            self._queue.popleft()
        self._queue_length.set(len(self._queue))
        return batch

    def _compute(self, entries: list[E]) -> _Computed[R]:
        """Run the core, on its thread."""
        started = time.monotonic()
        results = self._results(entries)
        return _Computed(results, started, time.monotonic() - started)

    def _results(self, entries: list[E]) -> Sequence[R | Exception]:
        """Run the core; when it breaks on a batch, run each entry alone to spare its neighbours."""
        try:
            results = self.core.run(entries)
            if len(results) != len(entries):
                raise RuntimeError(f"{len(results)} results for {len(entries)} entries")
            return results
        except Exception as error:
            requests = [getattr(entry, "request_id", "") for entry in entries]
            log.exception("%s failed on a batch", self._stage, extra={"request_ids": requests})
            if len(entries) == 1:
                return [error]
        return [result for entry in entries for result in self._results([entry])]

    def _computed(self, computed: _Computed[R] | None, error: Exception | None) -> None:
        """Take a batch from the thread, and let it go on before the results are handed out."""
        batch, self._computing = self._computing, []
        self._begin(here=False)
        self._hand_out(batch, computed, error)

    def _hand_out(
        self, batch: list[_Waiting[E, R]], computed: _Computed[R] | None, error: Exception | None
    ) -> None:
        """Give the entries of a batch their results."""
        if computed is None:
            results: Sequence[R | Exception] = [error or RuntimeError("no results")] * len(batch)
            computed = _Computed(results, time.monotonic(), 0.0)
        self._measure(batch, computed)
        for waiting, result in zip(batch, computed.results, strict=True):
            if isinstance(result, Exception):
                if not waiting.future.done():
                    waiting.future.set_exception(result)
                continue
            if self._observe is not None:
                self._observe(result)
            if not waiting.future.done():
                queued = int((computed.started - waiting.arrived) * 1e6)
                waiting.future.set_result(Answer(result, queued))

    def _measure(self, batch: list[_Waiting[E, R]], computed: _Computed[R]) -> None:
        weight = sum(waiting.weight for waiting in batch)
        pace = computed.seconds / max(1, weight)
        self._pace = pace if self._pace is None else self._pace + _NEWEST * (pace - self._pace)
        self._compute_seconds.observe(computed.seconds)
        self._batch_size.observe(len(batch))
        self._batch_weight.observe(weight)
        for waiting in batch:
            self._queue_seconds.observe(computed.started - waiting.arrived)

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, run on the core's thread between two batches.

        The core may be changed there: nothing else uses it meanwhile.
        """
        return await self._thread.run(work)

    async def probe(self) -> None:
        """Return when the core's thread is free to answer; a hung core never does."""
        await self.on_thread(int)

    async def close(self) -> None:
        """Refuse new entries, finish those that wait, and end the thread."""
        if self._closed is None:
            self._closed = asyncio.Event()
            self._begin()
        await self._closed.wait()
        self._thread.close()


def _one(_: object) -> int:
    return 1
