"""The live catalogue and shards on the real cluster: items come and go while processes die."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from corerec.client import AsyncClient, CatalogItem, Client, Predicate
from corerec.errors import CoreRecError
from tests.cluster.running import Loader, corerec, state_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SHARDS = ("retrieval-shard-0-of-2", "retrieval-shard-1-of-2")


def address(cluster: Path) -> str:
    return str(state_of(cluster)["address"])


def replicas(cluster: Path, service: str) -> list[dict]:
    return state_of(cluster)["replicas"][service]


def metric(replica: dict, name: str) -> float:
    """Return the sum of a metric's samples at one replica."""
    with urllib.request.urlopen(f"http://{replica['metrics']}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, flags=re.MULTILINE)
    return sum(map(float, found))


def wait_until_whole(cluster: Path, seconds: float = 90) -> None:
    """Wait until every service has its two replicas and answers lack nothing."""
    deadline = time.monotonic() + seconds
    whole = 0
    with Client(address(cluster), timeout=5) as client:
        while whole < 10:
            counts = {n: len(replicas(cluster, n)) for n in (*SHARDS, "ranking", "rerank")}
            try:
                answer = client.recommend("u000007")
            except CoreRecError:
                whole = 0
            else:
                full = answer.coverage == 1.0 and not answer.degraded
                whole = whole + 1 if full and set(counts.values()) == {2} else 0
            assert time.monotonic() < deadline, f"not whole: {counts}"
            time.sleep(0.05)


def test_an_upserted_item_is_recommended_within_a_second(cluster: Path) -> None:
    took = []
    with Client(address(cluster), timeout=5) as client:
        for i in range(5):
            category = f"newcomers-{i}"
            item = CatalogItem(item_id=f"new-{i}", title=f"New {i}", category=category)
            client.upsert_items([item])
            started = time.monotonic()
            while True:
                answer = client.recommend(
                    f"u{i:06d}", where=[Predicate(attribute="category", any_of=(category,))]
                )
                if answer.items:
                    break
                assert time.monotonic() - started < 10, "never found"
                time.sleep(0.01)
            took.append(time.monotonic() - started)
            assert [(x.item_id, x.title, x.category) for x in answer.items] == [
                (f"new-{i}", f"New {i}", category)
            ]
    assert sorted(took)[2] < 1.0, took


def test_the_commands_change_and_show_the_catalogue(cluster: Path, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"item_id": "typed", "title": "Typed", "category": "typed", "price": 3}\n')
    at = ("--state-dir", cluster)
    stored = corerec("items", "upsert", file, *at)
    assert "stored 1 items" in stored.stdout, stored.stderr
    assert "Typed" in corerec("items", "show", "typed", *at).stdout
    assert "typed" in corerec("items", "changes", *at).stdout
    time.sleep(1.0)
    answer = corerec("recommend", "--where", "category=typed", "--where", "price<=3", *at)
    assert "Typed" in answer.stdout, answer.stdout + answer.stderr
    status = corerec("status", *at).stdout
    assert status.count("position") >= 5
    assert "deleted 1 of 1" in corerec("items", "delete", "typed", *at).stdout
    gone = corerec("items", "show", "typed", *at)
    assert gone.returncode == 1
    assert "item 'typed' was deleted" in gone.stderr


class Gateway:
    """A client that finds the gateway again when it comes back on another port."""

    def __init__(self, cluster: Path) -> None:
        self._cluster, self._address = cluster, ""
        self._client: AsyncClient | None = None

    async def client(self) -> AsyncClient:
        if self._client is None or address(self._cluster) != self._address:
            await self.close()
            self._address = address(self._cluster)
            self._client = AsyncClient(self._address, timeout=3)
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None


async def test_a_deleted_item_is_never_answered_again_though_processes_die(cluster: Path) -> None:
    """Row 20: the gateway and the stages die between the deletes."""
    gone: dict[str, float] = {}
    late: list[str] = []
    stop = asyncio.Event()
    answered = 0

    async def ask(caller: int) -> None:
        nonlocal answered
        gateway = Gateway(cluster)
        while not stop.is_set():
            sent = time.monotonic()
            try:
                answer = await (await gateway.client()).recommend(f"u{caller:06d}", n=50)
            except CoreRecError:
                await asyncio.sleep(0.05)
                continue
            answered += 1
            late.extend(i.item_id for i in answer.items if gone.get(i.item_id, sent) < sent)
            await asyncio.sleep(0.01)
        await gateway.close()

    askers = [asyncio.create_task(ask(i)) for i in range(4)]
    gateway = Gateway(cluster)
    for victim in (None, "rerank", SHARDS[0], "gateway"):
        if victim is not None:
            os.kill(replicas(cluster, victim)[0]["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 90
        for _ in range(4):
            while True:
                try:
                    client = await gateway.client()
                    item = (await client.recommend("", n=5)).items[0].item_id
                    await client.delete_items([item])
                    break
                except CoreRecError:
                    assert time.monotonic() < deadline, f"no writes after {victim} died"
                    await asyncio.sleep(0.2)
            gone[item] = time.monotonic()
        await asyncio.sleep(1.0)
    stop.set()
    await asyncio.gather(*askers)
    await gateway.close()
    assert not late
    assert answered > 100
    await asyncio.to_thread(wait_until_whole, cluster)


async def test_a_lost_shard_costs_its_share_of_coverage_and_comes_back(cluster: Path) -> None:
    await asyncio.to_thread(wait_until_whole, cluster)
    async with AsyncClient(address(cluster), timeout=3) as client:
        for replica in replicas(cluster, SHARDS[1]):
            os.kill(replica["pid"], signal.SIGKILL)
        seen = set()
        for _ in range(20):
            answer = await client.recommend("u000003")
            assert len(answer.items) == 10
            if answer.coverage < 1.0:
                seen.add((round(answer.coverage, 6), answer.degraded[0].reason))
            await asyncio.sleep(0.02)
        assert seen == {(0.5, "partial")}
    await asyncio.to_thread(wait_until_whole, cluster)


async def test_a_replica_of_a_shard_that_hangs_for_a_moment_is_covered(cluster: Path) -> None:
    await asyncio.to_thread(wait_until_whole, cluster)
    async with Loader(address(cluster), callers=4, pause=0.02) as loader:
        await asyncio.sleep(2.0)
        fronts = replicas(cluster, "retrieval")
        before = sum(metric(front, "corerec_hedges_total") for front in fronts)
        pid = replicas(cluster, SHARDS[0])[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(1.5)
        finally:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(1.0)
        after = sum(metric(front, "corerec_hedges_total") for front in fronts)
    assert after > before
    assert not loader.load.errors
    assert len(loader.load.degraded) <= loader.load.total * 0.02, loader.load.degraded
    wait = wait_until_whole
    await asyncio.to_thread(wait, cluster)
