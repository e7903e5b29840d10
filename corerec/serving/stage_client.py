"""A stage on other machines or processes: coalesces entries into batch RPCs over its replicas.

A few RPCs at most are under way per replica; entries that arrive meanwhile wait and leave together
with the next one. When the system is idle nothing waits. An entry that a replica failed to answer
is tried once more on another, within a retry budget; nothing else in the cluster retries.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial
from typing import Any, Generic, TypeVar

import grpc

from corerec.errors import InvalidArgument, ResourceExhausted, Unavailable
from corerec.serving.batching import MAX_WEIGHT
from corerec.serving.budget import Budget
from corerec.serving.contracts import StageContract
from corerec.serving.depth import Depth
from corerec.serving.endpoints import Endpoints
from corerec.serving.hedge import Hedge
from corerec.serving.metrics import Metrics
from corerec.serving.replica import Replica
from corerec.serving.replicas import ReplicaSet
from corerec.serving.sending import Attempt, Sent, Waiting, fail
from corerec.serving.stage_metrics import StageMetrics
from corerec.serving.status import Internal, error_of, error_of_call

E = TypeVar("E")
R = TypeVar("R")

_SLACK_SECONDS = 0.005  # an RPC ends a little after its last entry, so that entries end first
_RETRY_SHARE = 0.1  # attempts / requests <= 1.1 in the long run
_RETRY_RESERVE = 20.0  # and this many at once, so that one dead replica can be ridden out


class RemoteStage(Generic[E, R]):
    """A stage behind gRPC. Belongs to the event loop that it is made in.

    Args:
        max_in_flight: most RPCs under way per replica; how many there are, see `Depth`.
        max_batch: entries in one RPC.
        max_weight: weight in one RPC, as the contract weighs; a heavier entry goes alone.
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
        max_weight: int = MAX_WEIGHT,
        max_queue: int = 2048,
        hedge: Hedge | None = None,
    ) -> None:
        self._contract, self._hedge = contract, hedge
        self._max_batch, self._max_weight, self._max_queue = max_batch, max_weight, max_queue
        self._late = f"{contract.stage} did not answer within its share of the budget"
        self._queues: dict[str, deque[Waiting[E, R]]] = {}  # by release: one RPC has one
        self._retry_tokens = _RETRY_RESERVE
        self._pumping = self._closed = False
        self._depth = Depth(max_in_flight)
        self._metrics = StageMetrics(metrics, contract.stage, self._depth)
        self._replicas = ReplicaSet(
            contract, metrics, self._depth, avoid_slow=hedge is not None, changed=self._pump
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
        waiting: Waiting[E, R] = Waiting(entry, self._contract.weight(entry), budget)
        queue.append(waiting)
        self._pump_soon()
        return await waiting.result(self._late)

    def _pump_soon(self) -> None:
        """Pump once everything that is ready to run now has run.

        The requests of one batch come out of a stage together and reach the next in the same turn
        of the loop: sent at once, the first would go alone and the others wait for its return.
        """
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Send what waits to replicas that have room, least busy first, idle ones alike."""
        self._pumping = False
        for release, queue in self._queues.items():
            while queue and (replica := self._replicas.pick()) is not None:
                share = -(-len(queue) // self._replicas.idle)  # rounded up
                if batch := self._take(queue, min(self._max_batch, share)):
                    self._send(Sent(release, batch), replica)

    def _take(self, queue: deque[Waiting[E, R]], most: int) -> list[Waiting[E, R]]:
        batch: list[Waiting[E, R]] = []
        room = self._max_weight
        while queue and len(batch) < most:
            waiting = queue[0]
            if not waiting.future.done() and not waiting.budget.expired:
                if batch and waiting.weight > room:
                    break
                room -= waiting.weight
                batch.append(waiting)
            queue.popleft()
        return batch

    def _send(self, sent: Sent[E, R], replica: Replica) -> None:
        """Send a batch; when it is late and another replica is there, send it there too."""
        if self._hedge is not None:
            self._hedge.earn()
            if self._replicas.several:
                self._look_later(sent, replica)
        self._ask(Attempt(sent, sent.batch, replica, self._abandoned, second=False))

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
            self._ask(Attempt(sent, batch, other, self._abandoned, second=True))
        else:  # nobody to ask, or nothing left to ask with; what hangs still hangs a little later
            self._look_later(sent, first)

    def _ask(self, attempt: Attempt[E, R]) -> None:
        """Send the RPC, now."""
        contract, batch = self._contract, attempt.batch
        self._metrics.sent(attempt)
        try:
            attempt.sending = attempt.replica.send(
                partial(self._write, attempt), partial(self._answered, attempt)
            )
            if self._hedge is not None:
                # Entries that another replica answered end this RPC no more: it ends by itself.
                left = max(waiting.budget.remaining for waiting in batch)
                loop = asyncio.get_running_loop()
                attempt.timer = loop.call_later(left + _SLACK_SECONDS, self._late_rpc, attempt)
        except Exception as error:
            self._end(attempt, "INTERNAL")
            if not attempt.sent.open:
                fail(batch, Internal(f"{contract.stage} could not be asked: {error}"))

    def _write(self, attempt: Attempt[E, R], request: Any) -> None:
        """Fill the message of an RPC."""
        request.release, entries = attempt.sent.release, request.entries
        for waiting in attempt.batch:
            self._contract.write_entry(entries.add(), waiting.entry, waiting.budget.micros)

    def _answered(
        self, attempt: Attempt[E, R], response: Any, error: grpc.aio.AioRpcError | None
    ) -> None:
        """Take the RPC's answer, or what it failed with as a whole."""
        outcome = "OK" if error is None else error.code().name
        try:
            if error is None:
                attempt.replica.succeeded()
                self._measure(attempt)
                self._deliver(attempt.batch, response)
            else:
                self._failed(attempt, error)
        except Exception as wrong:
            outcome = "INTERNAL"
            if attempt.sent.open == 1:
                text = f"{self._contract.stage} answered something invalid: {wrong}"
                fail(attempt.batch, Internal(text))
        finally:
            self._end(attempt, outcome)

    def _late_rpc(self, attempt: Attempt[E, R]) -> None:
        assert attempt.sending is not None
        attempt.sending.cancel()
        self._abandoned(attempt)

    def _abandoned(self, attempt: Attempt[E, R]) -> None:
        """End an RPC that nobody waits for, and was cancelled."""
        if all(waiting.budget.expired for waiting in attempt.batch):  # too slow for all of them
            attempt.replica.timed_out()
        self._end(attempt, "CANCELLED")

    def _end(self, attempt: Attempt[E, R], outcome: str) -> None:
        self._metrics.ended(attempt, outcome, time.monotonic())
        attempt.end()
        self._pump_soon()

    def _measure(self, attempt: Attempt[E, R]) -> None:
        now, batch, sent = time.monotonic(), attempt.batch, attempt.sent
        self._depth.record(sum(now - waiting.arrived for waiting in batch), len(batch))
        if self._hedge is None:
            return
        attempt.replica.pace.record(now - attempt.started)
        if not sent.answered:
            sent.answered = True
            self._hedge.record(now - attempt.started)
            if attempt.second or sent.open > 1:
                self._metrics.hedged("second" if attempt.second else "first")

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

    def _failed(self, attempt: Attempt[E, R], error: grpc.aio.AioRpcError) -> None:
        """Handle an RPC that failed as a whole: retry what may be retried, fail the rest."""
        sent, batch, replica = attempt.sent, attempt.batch, attempt.replica
        code, failure = error.code(), error_of_call(error)
        if self._closed:
            pass
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
        can_retry = self._replicas.any_up and not self._closed
        for waiting in reversed(batch):
            if waiting.retried or not can_retry or self._retry_tokens < 1.0:
                refused.append(waiting)
            elif not waiting.future.done():
                self._retry_tokens -= 1.0
                waiting.retried = True
                self._queues[release].appendleft(waiting)
        return refused

    @property
    def is_up(self) -> bool:
        """Whether a replica can be asked."""
        return self._replicas.any_up

    async def ready(self, seconds: float) -> bool:
        """Return whether every replica known answered on its channel within so many seconds.

        The first entries then find connections that are up.
        """
        return await self._replicas.greeted(seconds)

    async def close(self) -> None:
        """Stop following replicas and close every channel."""
        self._closed = True
        self._replicas.stop()
        self._queues.clear()  # nothing is sent any more
        await self._replicas.close()
