"""The services as plain processes: drain at load, shared ports, acknowledged events survive."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corerec.client import CatalogItem, Client, Event
from corerec.errors import CoreRecError
from tests.cluster.running import Loader, Service, corerec, is_up, served, state_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


class Processes:
    """Stages and gateways, each a process of its own."""

    def __init__(self, folder: Path, release: Path) -> None:
        self.folder, self.release = folder, release
        self.started: list[Service] = []

    def start(self, module: str, text: str = "") -> Service:
        path = self.folder / f"{module}-{len(self.started)}.toml"
        path.write_text(f'release = "{self.release}"\n{text}')
        service = Service(module, path)
        self.started.append(service)
        return service

    def gateway(self, stages: dict[str, list[Service]], port: int = 0) -> Service:
        lines = [f"{name} = {[s.address for s in found]}" for name, found in stages.items()]
        text = f'[gateway]\nport = {port}\nclock = "data"\nstore = "{self.folder / "s.db"}"\n'
        text += "default_deadline_ms = 2000\n[gateway.stages]\n" + "\n".join(lines)
        return self.start("gateway", text)


@pytest.fixture
def processes(tmp_path: Path, tiny_release: Path) -> Iterator[Processes]:
    running = Processes(tmp_path, tiny_release)
    yield running
    for service in running.started:
        service.close()


def stages(processes: Processes, ranking: int = 1) -> dict[str, list[Service]]:
    return {
        "retrieval": [processes.start("retrieval_svc")],
        "ranking": [processes.start("ranking_svc") for _ in range(ranking)],
        "rerank": [processes.start("rerank_svc")],
    }


async def test_a_stage_that_is_told_to_end_at_load_costs_nothing(processes: Processes) -> None:
    running = stages(processes, ranking=2)
    gateway = processes.gateway(running)
    async with Loader(gateway.address, callers=6, pause=0.02) as loader:
        await asyncio.sleep(1.0)
        leaving = running["ranking"][0]
        leaving.signal(signal.SIGTERM)
        assert await asyncio.to_thread(leaving.wait) == 0
        await asyncio.sleep(0.5)
    assert loader.load.answered > 50
    assert not loader.load.errors
    assert not loader.load.degraded


async def test_a_gateway_that_is_told_to_end_finishes_what_it_has(processes: Processes) -> None:
    running = stages(processes)
    first = processes.gateway(running)
    async with Loader(first.address, callers=6, pause=0.0) as loader:
        await asyncio.sleep(1.0)
        before = loader.load.answered
        first.signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.wait) == 0
    # Callers learn of the end only as connections that are refused, never as a broken answer.
    assert before > 20
    assert all("Unavailable" in e for e in loader.load.errors), loader.load.errors
    assert not loader.load.degraded


def test_what_was_acknowledged_is_readable_when_serving_again(processes: Processes) -> None:
    running = stages(processes)
    gateway = processes.gateway(running)
    acknowledged: dict[str, list[str]] = {}
    chance = random.Random(3)
    for round_ in range(4):
        with Client(gateway.address, timeout=5) as client:
            items = [i.item_id for i in client.recommend("", n=100).items]
            for n in range(chance.randrange(3, 12)):
                user, item = f"r{round_}-{n % 3}", items[n]
                if client.record([Event(user_id=user, item_id=item)]):
                    acknowledged.setdefault(user, []).append(item)
        gateway.signal(signal.SIGKILL)
        gateway.wait()
        gateway = processes.gateway(running)
        with Client(gateway.address, timeout=5) as client:
            for user, wanted in acknowledged.items():
                found = [h.item_id for h in client.explain(user).history]
                assert sorted(found) == sorted(wanted)


def test_acknowledged_changes_of_the_catalogue_survive_kills_and_are_there_when_serving_again(
    processes: Processes,
) -> None:
    """Rows 16 and 17: an oracle of acknowledged writes against the gateway's own answers."""
    running = stages(processes)
    gateway = processes.gateway(running)
    chance, wanted, unsure = random.Random(5), {}, {}
    for round_ in range(8):
        stop = time.monotonic() + chance.uniform(0.1, 0.5)
        killer = threading.Timer(stop - time.monotonic(), gateway.signal, [signal.SIGKILL])
        killer.start()
        with Client(gateway.address, timeout=5) as client:
            for step in range(10_000):
                item_id = f"k{chance.randrange(12)}"
                title = None if chance.random() < 0.2 else f"{round_}-{step}"
                unsure[item_id] = title  # until it is acknowledged it may be there or not
                try:
                    if title is None:
                        client.delete_items([item_id])
                    else:
                        client.upsert_items([CatalogItem(item_id=item_id, title=title)])
                except CoreRecError:
                    break
                wanted[item_id] = unsure.pop(item_id)
        killer.join()
        gateway.wait()
        gateway = processes.gateway(running)
        with Client(gateway.address, timeout=5) as client:
            found = {c.item_id: c.item and c.item.title for c in client.changes(0, 1000).changes}
            for item_id, title in unsure.items():
                assert found.get(item_id) in (title, wanted.get(item_id))
                wanted[item_id] = found.get(item_id)
            assert {i: t for i, t in found.items() if t is not None} == {
                i: t for i, t in wanted.items() if t is not None
            }
            alive = [i for i, title in found.items() if title is not None]
            assert [e.item.item_id for e in client.get_items(alive)] == alive if alive else True
        unsure.clear()
    assert wanted


async def test_a_stage_that_dies_leaves_valid_answers(processes: Processes) -> None:
    running = stages(processes)
    gateway = processes.gateway(running)
    running["ranking"][0].signal(signal.SIGKILL)
    running["ranking"][0].wait()
    with Client(gateway.address, timeout=2) as client:
        for _ in range(5):
            answer = client.recommend("u000001")
            assert len(answer.items) == 10
            assert {d.stage for d in answer.degraded} == {"rank"}


def test_in_process_serves_the_same_funnel(tiny_release: Path, tmp_path: Path) -> None:
    with served(tiny_release, tmp_path / "state", "--in-process") as state:
        address = state_of(state)["address"]
        with Client(address, timeout=5) as client:
            answer = client.recommend("u000007")
        assert len(answer.items) == 10
        assert not answer.degraded
    assert not is_up(address)


def test_the_commands_say_what_to_do_without_a_cluster(tmp_path: Path) -> None:
    done = corerec("recommend", "--user", "u1", "--state-dir", tmp_path)
    assert done.returncode == 1
    assert "start one with: corerec serve" in done.stderr
    stopped = corerec("stop", "--state-dir", tmp_path)
    assert stopped.returncode == 0
    with pytest.raises(CoreRecError), Client("127.0.0.1:1", timeout=0.5) as client:
        client.recommend("u000001")
