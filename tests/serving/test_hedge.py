"""A second replica is asked for what a first is late with: rarely, in budget, to good effect."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from corerec.errors import CoreRecError
from corerec.serving.budget import Budget
from corerec.serving.contracts import RANK
from corerec.serving.endpoints import StaticEndpoints
from corerec.serving.hedge import Hedge
from corerec.serving.metrics import Metrics
from corerec.serving.stage_client import RemoteStage
from corerec.stages import RankEntry, Source, UserContext
from tests.serving.fakes import RELEASE, Faults, columns, start_fake_stage


def entry() -> RankEntry:
    candidates = columns(np.arange(10, dtype=np.int64), Source.TWO_TOWER)
    return RankEntry(user=UserContext(), candidates=candidates, k=3)


def test_late_is_the_98th_percentile_of_recent_latencies() -> None:
    hedge, rng = Hedge(), np.random.default_rng(0)
    assert hedge.after is None
    latencies = rng.uniform(0.01, 0.02, 256)
    for seconds in latencies:
        hedge.record(float(seconds))
    assert hedge.after == pytest.approx(np.quantile(latencies, 0.98), rel=0.01)


def test_second_rpcs_stay_within_their_share() -> None:
    hedge, sent = Hedge(0.05), 0
    for _ in range(10_000):
        hedge.earn()
        sent += hedge.spend()
    assert 0.049 * 10_000 <= sent <= 0.05 * 10_000


class Pair:
    """Two replicas; the first is late in a share of its batches."""

    def __init__(self, late: float, delay: float) -> None:
        self.faults = [Faults(), Faults()]
        self._rng, self._late, self._delay = np.random.default_rng(7), late, delay

    async def start(self, *, hedge: bool) -> None:
        self.servers = [await start_fake_stage("ranking", f) for f in self.faults]
        self.metrics = Metrics()
        self.endpoints = StaticEndpoints([server.address for server in self.servers])
        self.client: RemoteStage = RemoteStage(
            RANK, self.endpoints, self.metrics, hedge=Hedge() if hedge else None
        )

    async def latencies(self, count: int) -> np.ndarray:
        found = []
        for _ in range(count):
            self.faults[0].delay = self._delay if self._rng.random() < self._late else 0.0
            started = time.monotonic()
            await self.client.call(RELEASE, entry(), Budget(5))
            found.append(time.monotonic() - started)
        return np.array(found)

    @property
    def computed(self) -> int:
        return sum(len(batch) for faults in self.faults for batch in faults.batches)

    async def stop(self) -> None:
        await self.client.close()
        await asyncio.gather(*(server.drain() for server in self.servers))


async def test_one_replica_that_is_often_late_costs_at_most_5_percent_and_half_the_tail() -> None:
    """Row 9: one of two replicas is 200 ms late in 5% of its batches."""
    count, tails = 1200, {}
    for hedge in (False, True):
        pair = Pair(late=0.05, delay=0.2)
        await pair.start(hedge=hedge)
        await pair.latencies(100)
        before = pair.computed
        latencies = await pair.latencies(count)
        extra = pair.computed - before - count
        tails[hedge] = np.quantile(latencies, 0.99)
        await pair.stop()
        assert extra <= 0.05 * count if hedge else extra == 0
    assert tails[False] >= 0.2
    assert tails[True] <= tails[False] / 2


async def test_a_replica_that_is_always_late_is_left_alone_but_for_a_trial() -> None:
    pair = Pair(late=1.0, delay=0.1)
    await pair.start(hedge=True)
    await pair.latencies(100)
    slow = len(pair.faults[0].batches)
    latencies = await pair.latencies(400)
    assert len(pair.faults[0].batches) - slow <= 0.05 * 400
    assert np.quantile(latencies, 0.95) < 0.05
    pair._late = 0.0  # it is well again, and is found out
    for _ in range(20):
        await pair.latencies(100)
        before = len(pair.faults[0].batches)
        await pair.latencies(40)
        if len(pair.faults[0].batches) - before >= 10:
            break
    else:
        pytest.fail("the replica was never used again")
    await pair.stop()


async def test_without_a_second_replica_nothing_is_sent_twice() -> None:
    pair = Pair(late=0.1, delay=0.05)
    await pair.start(hedge=True)
    pair.endpoints.set([pair.servers[0].address])
    await pair.latencies(200)
    assert len(pair.faults[0].batches) == 200
    await pair.stop()


async def test_a_replica_that_dies_while_both_are_asked_loses_nothing() -> None:
    pair = Pair(late=0.0, delay=0.0)
    await pair.start(hedge=True)
    for _ in range(60):
        pair.client._hedge.earn()
    await pair.latencies(60)
    for address, replica in pair.client._replicas._replicas.items():
        if address == pair.servers[1].address:
            replica.pace.seconds = 10.0  # so that the first call goes to the other one
    pair.faults[0].delay = 0.5
    call = asyncio.ensure_future(pair.client.call(RELEASE, entry(), Budget(5)))
    await asyncio.sleep(0.1)  # late: both are asked, the second has answered or is about to
    await pair.servers[0]._server._server.stop(None)
    assert (await call).candidates.numbers.tolist() == [9, 8, 7]
    pair.faults[0].delay = 0.0
    failures = []
    for _ in range(20):
        try:
            await pair.client.call(RELEASE, entry(), Budget(5))
        except CoreRecError as error:
            failures.append(error)
    assert not failures
    await pair.stop()


async def test_what_a_hanging_replica_was_asked_ends_though_another_answered() -> None:
    pair = Pair(0.0, 0.0)
    await pair.start(hedge=True)
    await pair.latencies(60)
    pair.faults[0].hold = threading.Event()
    first, second = pair.client._replicas._replicas.values()
    pair.client._hedge._tokens = 5.0  # type: ignore[union-attr]
    for _ in range(4):
        await pair.client.call(RELEASE, entry(), Budget(0.3))
    assert first.in_flight + second.in_flight == 1  # one hangs, the rest was answered
    await asyncio.sleep(0.4)
    assert first.in_flight + second.in_flight == 0
    pair.faults[0].hold.set()
    await pair.stop()
