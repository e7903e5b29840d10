"""Runs a stage's core on batches made of whatever entries are waiting.

Nothing waits while the core is idle: there is no timer and no window. Entries that arrive while a
batch is being computed form the next one. An entry whose budget ran out, or whose caller left, is
never computed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from corerec.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.stages import StageCore

log = logging.getLogger(__name__)

E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")


class Answer(NamedTuple, Generic[R]):
    """A core's result and how long its entry waited."""

    result: R
    queue_micros: int


class _Waiting(NamedTuple, Generic[E, R]):
    entry: E
    budget: Budget
    arrived: float
    future: asyncio.Future[Answer[R]]


class Batcher(Generic[E, R]):
    """One core, one thread, one bounded queue.

    Args:
        max_queue: entries that may wait; one more is refused with ResourceExhausted.
        max_batch: entries computed together.
        observe: called, in the event loop, with every result.
    """

    def __init__(
        self,
        core: StageCore[E, R],
        *,
        stage: str,
        metrics: Metrics,
        max_queue: int = 512,
        max_batch: int = 32,
        observe: Callable[[R], None] | None = None,
    ) -> None:
        self.core = core
        self._observe = observe
        self._stage = stage
        self._max_queue, self._max_batch = max_queue, max_batch
        self._queue: deque[_Waiting[E, R]] = deque()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"{stage}-core")
        self._runner: asyncio.Task[None] | None = None
        self._closed = False
        self.in_flight = 0
        """Entries that wait or are being computed."""
        self._queue_seconds = metrics.queue_seconds.labels(stage)
        self._compute_seconds = metrics.compute_seconds.labels(stage)
        self._batch_size = metrics.batch_size.labels(stage)
        self._queue_length = metrics.queue_length.labels(stage)
        self._expired = metrics.expired.labels(stage)

    def submit(self, entry: E, budget: Budget) -> asyncio.Future[Answer[R]]:
        """Queue an entry; the future ends with its answer or a CoreRecError.

        Raises:
            InvalidArgument: the entry breaks a rule of the stage.
            ResourceExhausted: the queue is full.
            DeadlineExceeded: the budget has run out.
        """
        if self._closed:
            raise Unavailable(f"{self._stage} is shutting down; ask another replica")
        self.core.check(entry)
        budget.check(f"{self._stage} was begun")
        if len(self._queue) >= self._max_queue:
            raise ResourceExhausted(
                f"the queue of {self._stage} holds at most {self._max_queue} entries and is full"
            )
        future: asyncio.Future[Answer[R]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(entry, budget, time.monotonic(), future))
        self.in_flight += 1
        future.add_done_callback(self._left)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(), name=f"{self._stage}-batches")
        return future

    async def call(self, entry: E, budget: Budget) -> Answer[R]:
        """Return the entry's answer. Raises what `submit` and the core raise, DeadlineExceeded."""
        try:
            async with asyncio.timeout(budget.remaining):
                return await self.submit(entry, budget)
        except TimeoutError as error:
            if isinstance(error, DeadlineExceeded):
                raise
            raise DeadlineExceeded(
                f"{self._stage} did not answer within its share of the budget"
            ) from None

    def _left(self, _: asyncio.Future[Answer[R]]) -> None:
        self.in_flight -= 1

    async def _run(self) -> None:
        """Compute batches until nothing waits. Restarted by the next submit."""
        loop = asyncio.get_running_loop()
        try:
            while batch := self._take():
                started = time.monotonic()
                results = await self._compute(loop, [w.entry for w in batch])
                self._measure(batch, started)
                for waiting, result in zip(batch, results, strict=True):
                    if isinstance(result, Exception):
                        _fail(waiting.future, result)
                        continue
                    if self._observe is not None:
                        self._observe(result)
                    if not waiting.future.done():
                        queued = int((started - waiting.arrived) * 1e6)
                        waiting.future.set_result(Answer(result, queued))
        finally:
            self._runner = None
            if self._queue and not self._closed:
                self._runner = asyncio.create_task(self._run(), name=f"{self._stage}-batches")

    async def _compute(
        self, loop: asyncio.AbstractEventLoop, entries: list[E]
    ) -> Sequence[R | Exception]:
        """Run the core; when it breaks on a batch, run each entry alone to spare its neighbours."""
        try:
            results = await loop.run_in_executor(self._executor, self.core.run, entries)
            if len(results) != len(entries):
                raise RuntimeError(f"{len(results)} results for {len(entries)} entries")
            return results
        except Exception as error:
            requests = [getattr(entry, "request_id", "") for entry in entries]
            log.exception("%s failed on a batch", self._stage, extra={"request_ids": requests})
            if len(entries) == 1:
                return [error]
        return [result for entry in entries for result in await self._compute(loop, [entry])]

    def _take(self) -> list[_Waiting[E, R]]:
        """Return the next entries that are still wanted and still in time."""
        batch: list[_Waiting[E, R]] = []
        while self._queue and len(batch) < self._max_batch:
            waiting = self._queue.popleft()
            if waiting.future.done():  # its caller left
                self._expired.inc()
            elif waiting.budget.expired:
                self._expired.inc()
                _fail(
                    waiting.future,
                    DeadlineExceeded(f"the budget ran out in the queue of {self._stage}"),
                )
            else:
                batch.append(waiting)
        self._queue_length.set(len(self._queue))
        return batch

    def _measure(self, batch: list[_Waiting[E, R]], started: float) -> None:
        self._compute_seconds.observe(time.monotonic() - started)
        self._batch_size.observe(len(batch))
        for waiting in batch:
            self._queue_seconds.observe(started - waiting.arrived)

    async def on_thread(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, run on the core's thread between two batches.

        The core may be changed there: nothing else uses it meanwhile.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def probe(self) -> None:
        """Return when the core's thread is free to answer; a hung core never does."""
        await self.on_thread(int)

    async def close(self) -> None:
        """Refuse new entries, finish those that wait, and end the thread."""
        self._closed = True
        while self._runner is not None:
            await asyncio.shield(self._runner)
        self._executor.shutdown(wait=True)


def _fail(future: asyncio.Future[Answer[R]], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
