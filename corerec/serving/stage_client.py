"""A stage on other machines or processes: coalesces entries into batch RPCs over its replicas.

At most `max_in_flight` RPCs are under way per replica; entries that arrive meanwhile wait and leave
together with the next one. When the system is idle nothing waits. An entry that a replica failed to
answer is tried once more on another, within a retry budget; nothing else in the cluster retries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import grpc

from corerec.errors import (
    CoreRecError,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from corerec.serving.budget import Budget
from corerec.serving.contracts import StageContract
from corerec.serving.endpoints import Addresses, Endpoints
from corerec.serving.metrics import Metrics
from corerec.serving.replica import Replica
from corerec.serving.status import Internal, error_of, error_of_call

E = TypeVar("E")
R = TypeVar("R")

_SLACK_SECONDS = 0.005  # an RPC ends a little after its last entry, so that entries end first
_RETRY_SHARE = 0.1  # attempts / requests <= 1.1 in the long run
_RETRY_RESERVE = 20.0  # and this many at once, so that one dead replica can be ridden out


class _Waiting(Generic[E, R]):
    __slots__ = ("budget", "entry", "future", "retried")

    def __init__(self, entry: E, budget: Budget) -> None:
        self.entry, self.budget, self.retried = entry, budget, False
        self.future: asyncio.Future[R] = asyncio.get_running_loop().create_future()


class RemoteStage(Generic[E, R]):
    """A stage behind gRPC. Belongs to the event loop that it is made in.

    Args:
        max_in_flight: RPCs under way per replica.
        max_batch: entries in one RPC.
        max_queue: entries that may wait; one more gets ResourceExhausted.
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
    ) -> None:
        self._contract, self._endpoints, self._metrics = contract, endpoints, metrics
        self._max_in_flight, self._max_batch, self._max_queue = max_in_flight, max_batch, max_queue
        self._replicas: dict[str, Replica] = {}
        self._queues: dict[str, deque[_Waiting[E, R]]] = {}  # by release: one RPC has one
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry_tokens = _RETRY_RESERVE
        self._pumping = False
        endpoints.subscribe(self._set_addresses)

    async def call(self, release: str, entry: E, budget: Budget) -> R:
        """Return the entry's result, or raise the status that it ended with."""
        budget.check(f"{self._contract.stage} was begun")
        if not any(r.up for r in self._replicas.values()):
            raise Unavailable(f"no replica of {self._contract.stage} can be reached")
        queue = self._queues.setdefault(release, deque())
        if len(queue) >= self._max_queue:
            raise ResourceExhausted(
                f"at most {self._max_queue} entries may wait for {self._contract.stage}"
            )
        self._retry_tokens = min(_RETRY_RESERVE, self._retry_tokens + _RETRY_SHARE)
        waiting: _Waiting[E, R] = _Waiting(entry, budget)
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

    def _set_addresses(self, addresses: Addresses) -> None:
        for address in addresses - self._replicas.keys():
            self._replicas[address] = Replica(
                address,
                path=self._contract.path,
                service=self._contract.service,
                response=self._contract.response,
                up=self._pump,
            )
        for address in self._replicas.keys() - addresses:
            gone = self._replicas.pop(address)
            self._spawn(gone.close(grace=5.0))  # what is in flight there may still end
        self._count_replicas()
        self._pump()

    def _count_replicas(self) -> None:
        up = sum(r.up for r in self._replicas.values())
        gauge, stage = self._metrics.replicas, self._contract.stage
        gauge.labels(stage, "up").set(up)
        gauge.labels(stage, "down").set(len(self._replicas) - up)

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
            while queue and (replica := self._pick()) is not None:
                if batch := self._take(queue):
                    replica.in_flight += 1
                    replica.sent += 1
                    self._spawn(self._send(release, batch, replica))

    def _pick(self) -> Replica | None:
        best: Replica | None = None
        for replica in self._replicas.values():
            free = replica.up and replica.in_flight < self._max_in_flight
            if free and (best is None or replica.load < best.load):
                best = replica
        return best

    def _take(self, queue: deque[_Waiting[E, R]]) -> list[_Waiting[E, R]]:
        batch: list[_Waiting[E, R]] = []
        while queue and len(batch) < self._max_batch:
            waiting = queue.popleft()
            if not waiting.future.done() and not waiting.budget.expired:
                batch.append(waiting)
        return batch

    async def _send(self, release: str, batch: list[_Waiting[E, R]], replica: Replica) -> None:
        contract = self._contract
        request = contract.request(
            release=release,
            entries=[contract.entry_to_proto(w.entry, w.budget.micros) for w in batch],
        )
        timeout = max(w.budget.remaining for w in batch) + _SLACK_SECONDS
        call = replica.call(request, timeout=timeout)
        left = _cancel_when_all_left(batch, call)
        try:
            response = await call
            replica.succeeded()
            self._attempted("OK")
            self._deliver(batch, response)
        except grpc.aio.AioRpcError as error:
            self._attempted(error.code().name)
            self._failed(release, batch, replica, error)
        except asyncio.CancelledError:
            self._attempted("CANCELLED")
            if not left:  # this task itself was cancelled
                raise
            if all(w.budget.expired for w in batch):  # nobody left: the replica was too slow
                replica.timed_out()
        except Exception as error:
            self._attempted("INTERNAL")
            _fail(batch, Internal(f"{contract.stage} answered something invalid: {error}"))
        finally:
            replica.in_flight -= 1
            self._pump_soon()

    def _attempted(self, outcome: str) -> None:
        self._metrics.stage_attempts.labels(self._contract.stage, outcome).inc()

    def _deliver(self, batch: list[_Waiting[E, R]], response: Any) -> None:
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
        release: str,
        batch: list[_Waiting[E, R]],
        replica: Replica,
        error: grpc.aio.AioRpcError,
    ) -> None:
        """Handle an RPC that failed as a whole: retry what may be retried, fail the rest."""
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            replica.timed_out()
        elif code is grpc.StatusCode.UNAVAILABLE:
            replica.failed(error.details() or "unavailable")
            self._count_replicas()
            batch = self._requeue(release, batch)
            if not any(r.up for r in self._replicas.values()):
                for queue in self._queues.values():  # waiting out the budget would help nobody
                    batch.extend(queue)
                    queue.clear()
        _fail(batch, error_of_call(error))

    def _requeue(self, release: str, batch: list[_Waiting[E, R]]) -> list[_Waiting[E, R]]:
        """Put entries back that may be tried once more; return the others."""
        refused: list[_Waiting[E, R]] = []
        can_retry = any(r.up for r in self._replicas.values())
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

    async def close(self) -> None:
        """Stop following replicas and close every channel."""
        self._endpoints.close()
        self._queues.clear()  # nothing is sent any more
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(r.close() for r in self._replicas.values()))


def _fail(batch: Iterable[_Waiting[Any, Any]], error: CoreRecError) -> None:
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)


def _cancel_when_all_left(batch: list[_Waiting[Any, Any]], call: Any) -> list[bool]:
    """Cancel the RPC once every caller of its entries is gone; the list then holds True."""
    remaining = len(batch)
    gone: list[bool] = []

    def left(future: asyncio.Future[Any]) -> None:
        nonlocal remaining
        if future.cancelled():
            remaining -= 1
            if not remaining:
                gone.append(True)
                call.cancel()

    for waiting in batch:
        waiting.future.add_done_callback(left)
    return gone
