"""The replicas of one stage: which there are, which are up, and which to ask next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from corerec.serving.contracts import StageContract
from corerec.serving.depth import Depth
from corerec.serving.endpoints import Addresses, Endpoints
from corerec.serving.hedge import Trial
from corerec.serving.metrics import Metrics
from corerec.serving.replica import Replica

_POLL_SECONDS = 0.01


class ReplicaSet:
    """Follows the endpoints of a stage, a channel each. Belongs to the event loop.

    Args:
        depth: how many RPCs may be under way per replica.
        avoid_slow: leave a replica alone that is much slower than the best, but for a trial.
        changed: called when there may be room for another RPC.
    """

    def __init__(
        self,
        contract: StageContract[Any, Any],
        metrics: Metrics,
        depth: Depth,
        *,
        avoid_slow: bool,
        changed: Callable[[], None],
    ) -> None:
        self._contract, self._metrics, self._depth = contract, metrics, depth
        self._avoid_slow, self._changed, self._trial = avoid_slow, changed, Trial()
        self._replicas: dict[str, Replica] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._endpoints: Endpoints | None = None

    def follow(self, endpoints: Endpoints) -> None:
        """Take the addresses known now, and every change of them."""
        self._endpoints = endpoints
        endpoints.subscribe(self._set_addresses)

    @property
    def any_up(self) -> bool:
        """Whether a replica can be asked."""
        return any(replica.up for replica in self._replicas.values())

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(self._replicas) > 1

    @property
    def idle(self) -> int:
        """How many can be asked and have nothing to do; at least 1."""
        return max(1, sum(r.up and not r.in_flight for r in self._replicas.values()))

    def _set_addresses(self, addresses: Addresses) -> None:
        others = any(r.up for address, r in self._replicas.items() if address in addresses)
        for address in addresses - self._replicas.keys():
            self._replicas[address] = Replica(
                address,
                contract=self._contract,
                up=self._came_up,
                trusted=not others,  # when others can be asked, it can wait for its connection
            )
        for address in self._replicas.keys() - addresses:
            gone = self._replicas.pop(address)
            self._close_later(gone)  # what is in flight there may still end
        self.count()
        self._changed()

    def _came_up(self) -> None:
        self.count()
        self._changed()

    async def greeted(self, seconds: float) -> bool:
        """Return whether there are replicas and all have said SERVING within so many seconds."""
        due = time.monotonic() + seconds
        while not (self._replicas and all(r.greeted for r in self._replicas.values())):
            if time.monotonic() > due:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    def count(self) -> None:
        """Tell the metrics how many are up."""
        up = sum(r.up for r in self._replicas.values())
        gauge, stage = self._metrics.replicas, self._contract.stage
        gauge.labels(stage, "up").set(up)
        gauge.labels(stage, "down").set(len(self._replicas) - up)

    def _close_later(self, gone: Replica) -> None:
        task = asyncio.create_task(gone.close(grace=5.0))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def pick(self) -> Replica | None:
        """Return the least busy replica that has room for an RPC."""
        best: Replica | None = None
        for replica in self._usable():
            free = replica.in_flight < self._depth.value
            if free and (best is None or replica.load < best.load):
                best = replica
        return best

    def _usable(self) -> list[Replica]:
        """Return the replicas that are up, without those that are to be left alone."""
        up = [replica for replica in self._replicas.values() if replica.up]
        if not self._avoid_slow or len(up) < 2:
            return up
        best = min((r.pace.seconds for r in up if r.pace.seconds is not None), default=None)
        if best is None or not (slow := [r for r in up if r.pace.is_slow(best)]):
            return up
        return slow if self._trial.now() else [r for r in up if r not in slow]

    def other_than(self, first: Replica) -> Replica | None:
        """Return the least busy other replica, whether or not it has room."""
        others = [r for r in self._replicas.values() if r.up and r is not first]
        return min(others, key=lambda r: (r.in_flight, r.pace.seconds or 0.0), default=None)

    def stop(self) -> None:
        """Follow no longer."""
        if self._endpoints is not None:
            self._endpoints.close()

    async def close(self) -> None:
        """Close every channel."""
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(r.close() for r in self._replicas.values()))
