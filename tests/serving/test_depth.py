"""How many RPCs are under way is found by trying, and is what a fixed number would have been best.

The replica is simulated event by event; one test asks a real one over loopback.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest

from corerec.serving.budget import Budget
from corerec.serving.contracts import RANK
from corerec.serving.depth import Depth
from corerec.serving.endpoints import StaticEndpoints
from corerec.serving.metrics import Metrics
from corerec.serving.stage_client import RemoteStage
from corerec.serving.stream_server import StreamServer
from corerec.stages import RankEntry, RankResult, Source, UserContext
from corerec.v1 import ranking_pb2_grpc
from tests.serving.fakes import RELEASE, columns

MOST, SECONDS, LEARNT = 8, 60.0, 20.0


class Fixed(Depth):
    """A depth that nothing changes."""

    def __init__(self, value: int) -> None:
        super().__init__(1)
        self.value = value


@dataclass
class World:
    """One replica and those who ask it. Seconds."""

    travel: float
    fixed: float
    """Of a batch, whatever its size."""
    each: float
    callers: int = 0
    """Who ask again when they have their answer; 0: requests come at `rate`."""
    rate: float = 0.0
    depths: list[int] = field(default_factory=list)

    def mean(self, depth: Depth, seed: int = 0) -> float:
        """Return the mean time of an entry in the stage, once the depth has been found."""
        rng, counter = random.Random(seed), itertools.count()
        events: list[tuple[float, int, str, list[float]]] = []
        waiting: list[float] = []
        there: list[list[float]] = []  # RPCs that wait at the replica
        computing: list[list[float]] = []  # RPCs whose entries are one batch
        under_way, spent = 0, []

        def at(moment: float, kind: str, batch: list[float]) -> None:
            heapq.heappush(events, (moment, next(counter), kind, batch))

        for _ in range(self.callers or 1):
            at(rng.random() * 0.01, "ask", [])
        while events:
            now, _, kind, batch = heapq.heappop(events)
            if now > SECONDS:
                break
            if kind == "ask":
                waiting.append(now)
                if self.rate:
                    at(now + rng.expovariate(self.rate), "ask", [])
            elif kind == "there":
                there.append(batch)
            elif kind == "computed":
                for rpc in computing:
                    at(now + self.travel * rng.uniform(1.0, 1.2), "back", rpc)
                computing = []
            else:
                under_way -= 1
                depth.record(sum(now - asked for asked in batch), len(batch))
                for asked in batch:
                    if now > LEARNT:
                        spent.append(now - asked)
                        self.depths.append(depth.value)
                    if self.callers:
                        at(now + 0.0005 * rng.random(), "ask", [])
            if there and not computing:
                computing, there = there, []
                seconds = self.fixed + self.each * sum(map(len, computing))
                at(now + seconds * rng.uniform(0.9, 1.1), "computed", [])
            while waiting and under_way < depth.value:
                under_way += 1
                at(now + self.travel * rng.uniform(1.0, 1.2), "there", waiting[:32])
                del waiting[:32]
        return float(np.mean(spent))


WORLDS = {
    "near and busy": World(travel=0.0002, fixed=0.002, each=0.0003, callers=32),
    "far and busy": World(travel=0.01, fixed=0.0005, each=0.0001, callers=64),
    "far and open": World(travel=0.01, fixed=0.0005, each=0.0002, rate=500.0),
    "near and open": World(travel=0.0003, fixed=0.001, each=0.0003, rate=500.0),
    "one caller": World(travel=0.0003, fixed=0.001, each=0.0003, callers=1),
}


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(2))
def test_entries_spend_no_more_time_than_at_the_best_fixed_depth(name: str, seed: int) -> None:
    world = WORLDS[name]
    best = min(world.mean(Fixed(depth), seed) for depth in (1, 2, 4, 8))
    assert world.mean(Depth(MOST), seed) <= 1.1 * best


def test_a_busy_near_replica_has_one_rpc_and_a_far_one_several() -> None:
    means = {}
    for name in ("near and busy", "far and busy"):
        world = WORLDS[name]
        world.depths.clear()
        world.mean(Depth(MOST))
        means[name] = np.mean(world.depths)
    assert means["near and busy"] < 1.2
    assert means["far and busy"] > 4.0


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_it_stays_in_its_bounds_whatever_it_is_told(most: int) -> None:
    rng, depth = random.Random(most), Depth(most)
    seen = set()
    for _ in range(50_000):
        depth.record(rng.expovariate(100.0), 1)
        seen.add(depth.value)
    assert min(seen) == 1
    assert max(seen) <= most
    assert most == 1 or len(seen) > 1  # it did try


class FarRanking(ranking_pb2_grpc.RankingServiceServicer):
    """A stage that answers all that it is asked at once, each RPC after 20 ms: a long way off."""

    def __init__(self) -> None:
        self.streams = StreamServer(RANK, Metrics(), begin=self.begin, respond=self.respond)

    def begin(self, request: Any) -> list[asyncio.Future[Any]]:
        entries = range(len(request.entries))
        return [asyncio.ensure_future(asyncio.sleep(0.02)) for _ in entries]

    def respond(self, response: Any, outcomes: Any) -> None:
        one = RankResult(candidates=columns(np.arange(3, dtype=np.int64), Source.TWO_TOWER))
        for _ in outcomes:
            RANK.write_result(response.results.add(), one, {})

    async def RankStream(self, requests: object, context: Any) -> None:
        await self.streams.serve(context)


async def test_over_real_connections_a_long_way_is_bridged_by_more_rpcs() -> None:
    server = grpc.aio.server()
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(FarRanking(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    candidates = columns(np.arange(10, dtype=np.int64), Source.TWO_TOWER)
    entry = RankEntry(user=UserContext(), candidates=candidates, k=3)
    client: RemoteStage = RemoteStage(
        RANK, StaticEndpoints([f"127.0.0.1:{port}"]), Metrics(), max_in_flight=MOST
    )
    loop, most = asyncio.get_running_loop(), 0
    stop = loop.time() + 20.0

    async def ask_again(rng: random.Random) -> None:
        nonlocal most
        while loop.time() < stop and client._depth._settled < 4:
            await asyncio.sleep(rng.expovariate(50.0))
            await client.call(RELEASE, entry, Budget(5))
            (replica,) = client._replicas._replicas.values()
            most = max(most, replica.in_flight)

    await asyncio.gather(*(ask_again(random.Random(caller)) for caller in range(16)))
    assert client._depth._settled >= 4
    assert most <= MOST
    await client.close()
    await server.stop(None)
