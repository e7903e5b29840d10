"""Retrieval over shards, on real gRPC and a real release: the same answers, and what is missing
when a shard is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from corerec.errors import DeadlineExceeded, InvalidArgument, Unavailable
from corerec.release import Release
from corerec.retrieval import RetrievalCore
from corerec.retrieval.shard import ShardCore
from corerec.serving.budget import Budget
from corerec.serving.contracts import RETRIEVE, SEARCH
from corerec.serving.endpoints import StaticEndpoints
from corerec.serving.metrics import Metrics
from corerec.serving.process import ServerProcess, stage_process
from corerec.serving.stage_client import RemoteStage
from corerec.stages import Predicate, RetrieveEntry, RetrieveResult, UserContext
from corerec.store import Item, SqliteStore
from retrieval_svc.config import RetrievalConfig, ShardConfig
from retrieval_svc.process import process, remote_shards
from retrieval_svc.servicer import add_search
from retrieval_svc.shard import shard_process

K = 100


class SlowShard(ShardCore):
    """A shard that can be told to be late."""

    delay = 0.0

    def run(self, entries):
        time.sleep(self.delay)
        return super().run(entries)


class Sharded:
    """A retrieval front, and shards of so many replicas, each behind its own gRPC server."""

    def __init__(self, release: Path, shards: int, replicas: int, store: str = "") -> None:
        self.release, self.shards, self.replicas = release, shards, replicas
        common = {"drain_notice_seconds": 0.05, "store": store, "tail_ms": 20}
        # All run in one event loop here: a late one must not make the others late.
        self.shard_config = ShardConfig(inline_ms=0, **common)
        self.config = RetrievalConfig(shards=shards, cache_seconds=0.0, **common)
        self.servers: list[list[ServerProcess]] = []
        self.slow: dict[tuple[int, int], SlowShard] = {}

    async def start(self) -> Sharded:
        for shard in range(self.shards):
            own = [self._shard(shard, replica) for replica in range(self.replicas)]
            for server in own:
                await server.start()
            self.servers.append(own)
        self.endpoints = [StaticEndpoints([s.address for s in own]) for own in self.servers]

        async def connect(config, metrics):
            return remote_shards(config, metrics, lambda shard: self.endpoints[shard])

        self.front = process(self.config, str(self.release), connect=connect)
        await self.front.start()
        self.client: RemoteStage = RemoteStage(
            RETRIEVE, StaticEndpoints([self.front.address]), Metrics()
        )
        self.id = Release.open(self.release).id
        return self

    def _shard(self, shard: int, replica: int) -> ServerProcess:
        def load() -> ShardCore:
            core = SlowShard.load(Release.open(self.release), shard, self.shards)
            self.slow[shard, replica] = core
            return core

        return stage_process(
            self.shard_config, SEARCH, name=f"shard-{shard}", load=load, add=add_search
        )

    async def ask(self, entry: RetrieveEntry, seconds: float = 5.0) -> RetrieveResult:
        return await self.client.call(self.id, entry, Budget(seconds))

    def metric(self, name: str, **labels: str) -> float:
        return self.front.metrics.registry.get_sample_value(name, labels) or 0.0

    async def stop(self) -> None:
        await self.client.close()
        await self.front.drain()
        await asyncio.gather(*(server.drain() for own in self.servers for server in own))


@pytest.fixture
async def sharded(tiny_release: Path) -> AsyncIterator[Sharded]:
    running = await Sharded(tiny_release, 2, 2).start()
    yield running
    await running.stop()


def entries() -> list[RetrieveEntry]:
    rng, found = np.random.default_rng(3), []
    for i in range(30):
        items = rng.integers(0, 500, rng.integers(0, 40)).astype(np.int64)
        user = UserContext(user_id=f"u{i:06d}", items=items, times=np.arange(len(items)) * 10**6)
        where = (Predicate(attribute="born_micros", at_least=0.0),) if i % 3 == 0 else ()
        found.append(RetrieveEntry(user=user, k=K, where=where, explain=i % 2 == 0))
    return found


def same(one: RetrieveResult, other: RetrieveResult) -> None:
    np.testing.assert_array_equal(one.candidates.numbers, other.candidates.numbers)
    np.testing.assert_array_equal(one.candidates.sources, other.candidates.sources)
    np.testing.assert_allclose(one.candidates.scores, other.candidates.scores, rtol=1e-5)
    assert one.found_by.keys() == other.found_by.keys()
    for source, scores in one.found_by.items():
        np.testing.assert_allclose(scores, other.found_by[source], rtol=1e-5)


@pytest.mark.parametrize(("shards", "replicas"), [(2, 2), (4, 1), (8, 1)])
async def test_shards_answer_exactly_what_one_does(
    tiny_release: Path, shards: int, replicas: int
) -> None:
    asked = entries()
    wanted = RetrievalCore.load(Release.open(tiny_release)).run(asked)
    sharded = await Sharded(tiny_release, shards, replicas).start()
    found = await asyncio.gather(*(sharded.ask(entry) for entry in asked))
    await sharded.stop()
    for one, other in zip(wanted, found, strict=True):
        same(one, other)
        assert other.coverage == 1.0
        assert {"shards", "fuse"} <= set(other.timings)


async def test_an_unknown_attribute_is_refused_with_the_nearest_known(sharded: Sharded) -> None:
    where = (Predicate(attribute="categry", any_of=("x",)),)
    entry = RetrieveEntry(user=UserContext(), k=K, where=where)
    with pytest.raises(InvalidArgument, match=r"unknown attribute 'categry'.*'category'"):
        await sharded.ask(entry)


async def test_a_lost_shard_lowers_coverage_by_its_share_and_the_rest_is_exact(
    sharded: Sharded,
) -> None:
    entry = entries()[1]
    whole = await sharded.ask(entry)
    for server in sharded.servers[1]:
        await server._server._server.stop(None)
    part = await sharded.ask(entry)
    assert part.coverage == pytest.approx(0.5)
    assert (part.candidates.numbers % 2 == 0).all()
    kept = [n for n in whole.candidates.numbers.tolist() if n % 2 == 0]
    assert set(kept) <= set(part.candidates.numbers.tolist())
    for server in sharded.servers[0]:
        await server._server._server.stop(None)
    with pytest.raises(Unavailable):
        await sharded.ask(entry)


async def test_a_late_shard_is_left_out_within_the_budget(sharded: Sharded) -> None:
    entry = entries()[1]
    await sharded.ask(entry)
    for replica in range(2):
        sharded.slow[1, replica].delay = 2.0
    started = time.monotonic()
    part = await sharded.ask(entry, 0.5)
    assert time.monotonic() - started < 0.5
    assert part.coverage == pytest.approx(0.5)
    for replica in range(2):
        sharded.slow[0, replica].delay = 2.0
    with pytest.raises(DeadlineExceeded):
        await sharded.ask(entry, 0.5)
    assert sharded.metric("corerec_shard_seconds_count", shard="1") >= 2


async def test_one_late_shard_of_four_costs_a_quarter(tiny_release: Path) -> None:
    """Row 4, in front of the shards."""
    sharded = await Sharded(tiny_release, 4, 1).start()
    entry = entries()[1]
    whole = await sharded.ask(entry)
    sharded.slow[2, 0].delay = 2.0
    started = time.monotonic()
    part = await sharded.ask(entry, 0.5)
    assert time.monotonic() - started < 0.5
    assert part.coverage == pytest.approx(0.75)
    assert whole.coverage == 1.0
    assert not (part.candidates.numbers % 4 == 2).any()
    await sharded.stop()


async def test_a_shard_that_comes_back_is_whole_again(sharded: Sharded) -> None:
    entry = entries()[1]
    whole = await sharded.ask(entry)
    sharded.endpoints[1].set([])
    assert (await sharded.ask(entry)).coverage == pytest.approx(0.5)
    sharded.endpoints[1].set([server.address for server in sharded.servers[1]])
    back = await sharded.ask(entry)
    assert back.coverage == 1.0
    same(whole, back)


async def test_one_late_replica_of_a_shard_is_hedged(sharded: Sharded) -> None:
    entry = entries()[1]
    for _ in range(100):
        await sharded.ask(entry)
    sharded.slow[1, 0].delay = 0.5
    latencies = []
    for _ in range(20):
        started = time.monotonic()
        assert (await sharded.ask(entry)).coverage == 1.0
        latencies.append(time.monotonic() - started)
    assert sorted(latencies)[-2] < 0.4
    assert sharded.metric("corerec_hedges_total", stage="shard-1", winner="second") >= 1


async def test_every_shard_follows_the_store_and_position_is_the_least(
    tiny_release: Path, tmp_path: Path
) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.seed(Release.open(tiny_release))
    running = await Sharded(tiny_release, 2, 1, store=str(tmp_path / "s.db")).start()
    entry = entries()[1]
    first = (await running.ask(entry)).candidates.numbers[:4].tolist()
    ids = Release.open(tiny_release).catalogue.ids
    store.delete_items([ids[n] for n in first])
    made = store.upsert_items([Item(item_id=f"new{i}", category="c") for i in range(3)])
    due = time.monotonic() + 3
    while (found := await running.ask(entry)).position < made[-1].position:
        assert time.monotonic() < due, f"position {found.position}"
        await asyncio.sleep(0.02)
    assert not set(first) & set(found.candidates.numbers.tolist())
    await running.stop()
    store.close()


def test_a_shard_that_there_is_not_is_refused(tiny_release: Path) -> None:
    with pytest.raises(ValueError, match=r"shard must be in \[0, 2\), got 2"):
        shard_process(ShardConfig(), str(tiny_release), 2, 2)
