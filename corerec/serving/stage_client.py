"""A stage on other machines or processes: coalesces entries into batch RPCs over its replicas.

At most `max_in_flight` RPCs are under way per replica; entries that arrive meanwhile wait and leave
together with the next one. When the system is idle nothing waits. An entry that a replica failed to
answer is tried once more on another, within a retry budget; nothing else in the cluster retries.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Generic, TypeVar

import grpc

from corerec.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from corerec.serving.budget import Budget
from corerec.serving.contracts import StageContract
from corerec.serving.endpoints import Endpoints
from corerec.serving.hedge import Hedge
from corerec.serving.metrics import Metrics
from corerec.serving.replica import Replica
from corerec.serving.replicas import ReplicaSet
from corerec.serving.sending import Sent, Waiting, cancel_when_all_left, fail
from corerec.serving.status import Internal, error_of, error_of_call

E = TypeVar("E")
R = TypeVar("R")

_SLACK_SECONDS = 0.005  # an RPC ends a little after its last entry, so that entries end first
_RETRY_SHARE = 0.1  # attempts / requests <= 1.1 in the long run
_RETRY_RESERVE = 20.0  # and this many at once, so that one dead replica can be ridden out


class RemoteStage(Generic[E, R]):
    """A stage behind gRPC. Belongs to the event loop that it is made in.

    Args:
        max_in_flight: RPCs under way per replica.
        max_batch: entries in one RPC.
        max_queue: entries that may wait; one more gets ResourceExhausted.
        hedge: when to ask a second replica; None never does.
    """

    def __init__(
        self,
        contract: StageContract[E, R],
        endpoints: Endpoints,
        metrics: Metrics,
        *,
        max_in_flight: int = 1,
        max_batch: int = 32,
        max_queue: int = 2048,
        hedge: Hedge | None = None,
    ) -> None:
        self._hedge = hedge
        self._contract, self._metrics = contract, metrics
        self._max_batch, self._max_queue = max_batch, max_queue
        self._queues: dict[str, deque[Waiting[E, R]]] = {}  # by release: one RPC has one
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry_tokens = _RETRY_RESERVE
        self._pumping = False
        self._replicas = ReplicaSet(
            contract, metrics, max_in_flight, avoid_slow=hedge is not None, changed=self._pump
        )
        self._replicas.follow(endpoints)

    async def call(self, release: str, entry: E, budget: Budget) -> R:
        """Return the entry's result, or raise the status that it ended with."""
        budget.check(f"{self._contract.stage} was begun")
        if not self._replicas.any_up:
            raise Unavailable(f"no replica of {self._contract.stage} can be reached")
        queue = self._queues.setdefault(release, deque())
        if len(queue) >= self._max_queue:
            raise ResourceExhausted(
                f"at most {self._max_queue} entries may wait for {self._contract.stage}"
            )
        self._retry_tokens = min(_RETRY_RESERVE, self._retry_tokens + _RETRY_SHARE)
        waiting: Waiting[E, R] = Waiting(entry, budget)
        queue.append(waiting)
        self._pump_soon()
        try:
            async with asyncio.timeout(budget.remaining):
                return await waiting.future
        except TimeoutError as error:
            if isinstance(error, DeadlineExceeded):  # the stage's own
                raise
            raise DeadlineExceeded(
                f"{self._contract.stage} did not answer within its share of the budget"
            ) from None

    def _pump_soon(self) -> None:
        """Pump once everything that is ready to run now has run.

        The requests of one batch come out of a stage together and reach the next in the same turn
        of the loop: sent at once, the first would go alone and the others wait for its return.
        """
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Send what waits to replicas that have room, least busy first."""
        self._pumping = False
        for release, queue in self._queues.items():
            while queue and (replica := self._replicas.pick()) is not None:
                if batch := self._take(queue):
                    replica.in_flight += 1
                    replica.sent += 1
                    self._spawn(self._send(release, batch, replica))

    def _take(self, queue: deque[Waiting[E, R]]) -> list[Waiting[E, R]]:
        batch: list[Waiting[E, R]] = []
        while queue and len(batch) < self._max_batch:
            waiting = queue.popleft()
            if not waiting.future.done() and not waiting.budget.expired:
                batch.append(waiting)
        return batch

    async def _send(self, release: str, batch: list[Waiting[E, R]], replica: Replica) -> None:
        """Send a batch; when it is late and another replica is there, send it there too."""
        sent = Sent(release, batch)
        if self._hedge is not None:
            self._hedge.earn()
            if self._replicas.several:
                self._look_later(sent, replica)
        try:
            await self._attempt(sent, batch, replica)
        finally:
            if sent.timer is not None:
                sent.timer.cancel()

    def _look_later(self, sent: Sent[E, R], first: Replica) -> None:
        assert self._hedge is not None
        if (after := self._hedge.after) is not None:
            loop = asyncio.get_running_loop()
            sent.timer = loop.call_later(after, self._send_again, sent, first)

    def _send_again(self, sent: Sent[E, R], first: Replica) -> None:
        batch = [waiting for waiting in sent.batch if not waiting.future.done()]
        if not batch:
            return
        other = self._replicas.other_than(first)
        assert self._hedge is not None
        if other is not None and self._hedge.spend():
            other.in_flight += 1
            other.sent += 1
            sent.open += 1
            self._spawn(self._attempt(sent, batch, other, second=True))
        else:  # nobody to ask, or nothing left to ask with; what hangs still hangs a little later
            self._look_later(sent, first)

    async def _attempt(
        self,
        sent: Sent[E, R],
        batch: list[Waiting[E, R]],
        replica: Replica,
        *,
        second: bool = False,
    ) -> None:
        contract, started = self._contract, time.monotonic()
        request = contract.request(
            release=sent.release,
            entries=[contract.entry_to_proto(w.entry, w.budget.micros) for w in batch],
        )
        timeout = max(w.budget.remaining for w in batch) + _SLACK_SECONDS
        call = replica.call(request, timeout=timeout)
        left = cancel_when_all_left(batch, call)
        try:
            response = await call
            replica.succeeded()
            self._attempted("OK")
            self._measure(sent, replica, time.monotonic() - started, second)
            self._deliver(batch, response)
        except grpc.aio.AioRpcError as error:
            self._attempted(error.code().name)
            self._failed(sent, batch, replica, error)
        except asyncio.CancelledError:
            self._attempted("CANCELLED")
            if not left:  # this task itself was cancelled
                raise
            if all(w.budget.expired for w in batch):  # nobody left: the replica was too slow
                replica.timed_out()
        except Exception as error:
            self._attempted("INTERNAL")
            if sent.open == 1:
                fail(batch, Internal(f"{contract.stage} answered something invalid: {error}"))
        finally:
            sent.open -= 1
            replica.in_flight -= 1
            self._pump_soon()

    def _measure(self, sent: Sent[E, R], replica: Replica, seconds: float, second: bool) -> None:
        if self._hedge is None:
            return
        replica.pace.record(seconds)
        if not sent.answered:
            sent.answered = True
            self._hedge.record(seconds)
            if second or sent.open > 1:
                winner = "second" if second else "first"
                self._metrics.hedges.labels(self._contract.stage, winner).inc()

    def _attempted(self, outcome: str) -> None:
        self._metrics.stage_attempts.labels(self._contract.stage, outcome).inc()

    def _deliver(self, batch: list[Waiting[E, R]], response: Any) -> None:
        """Give each entry its result; anything that does not fit is the stage's fault, not ours."""
        if len(response.results) != len(batch):
            raise Internal(f"{len(response.results)} results for {len(batch)} entries")
        for waiting, message in zip(batch, response.results, strict=True):
            if waiting.future.done():
                continue
            if message.status.code:
                error = error_of(message.status.code, message.status.message)
                waiting.future.set_exception(error)
                continue
            try:
                waiting.future.set_result(self._contract.result_from_proto(message))
            except (InvalidArgument, ValueError) as error:
                waiting.future.set_exception(
                    Internal(f"{self._contract.stage} answered something invalid: {error}")
                )

    def _failed(
        self,
        sent: Sent[E, R],
        batch: list[Waiting[E, R]],
        replica: Replica,
        error: grpc.aio.AioRpcError,
    ) -> None:
        """Handle an RPC that failed as a whole: retry what may be retried, fail the rest."""
        code, failure = error.code(), error_of_call(error)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            replica.timed_out()
        elif code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            # CANCELLED is a server's that ends: calls cancelled here never come to this place.
            replica.failed(error.details() or "unavailable")
            self._replicas.count()
            if sent.open == 1:
                batch = self._requeue(sent.release, batch)
            if not self._replicas.any_up:
                for queue in self._queues.values():  # waiting out the budget would help nobody
                    fail(queue, failure)
                    queue.clear()
        if sent.open == 1:  # else another replica may still answer
            fail(batch, failure)

    def _requeue(self, release: str, batch: list[Waiting[E, R]]) -> list[Waiting[E, R]]:
        """Put entries back that may be tried once more; return the others."""
        refused: list[Waiting[E, R]] = []
        can_retry = self._replicas.any_up
        for waiting in reversed(batch):
            if waiting.retried or not can_retry or self._retry_tokens < 1.0:
                refused.append(waiting)
            elif not waiting.future.done():
                self._retry_tokens -= 1.0
                waiting.retried = True
                self._queues[release].appendleft(waiting)
        return refused

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def is_up(self) -> bool:
        """Whether a replica can be asked."""
        return self._replicas.any_up

    async def close(self) -> None:
        """Stop following replicas and close every channel."""
        self._replicas.stop()
        self._queues.clear()  # nothing is sent any more
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._replicas.close()
