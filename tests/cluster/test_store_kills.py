"""Writers of a store, and Redis itself, are killed at random; what was acknowledged is kept."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corerec.store import Item, Store, open_store
from corerec.store.base import Event
from tests.cluster.store_oracle import Follower, Oracle, everything, row_of
from tests.cluster.store_writer import BASE, THREADS, Log, do, plans
from tests.redis_server import RedisServer, find_redis_server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

KILLS = 100
ROOT = Path(__file__).resolve().parents[2]


class Place:
    """Where a store lies: its address, and for Redis the server that holds it."""

    def __init__(self, address: str, server: RedisServer | None = None) -> None:
        self.address, self.server = address, server
        self.options: dict[str, Any] = {"busy_seconds": 5.0}

    def open(self) -> Store:
        return open_store(self.address, **self.options)


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where this test's store lies."""
    if request.param == "sqlite":
        yield Place(str(tmp_path / "store.db"))
        return
    (tmp_path / "redis").mkdir()
    server = RedisServer(find_redis_server(), tmp_path / "redis")
    yield Place(server.url, server)
    server.kill()


class Writers:
    """Starts one writer after another; each is killed before the next."""

    def __init__(self, place: Place, log: Path) -> None:
        command = [sys.executable, "-m", "tests.cluster.store_writer"]
        self._launcher = subprocess.Popen(
            [*command, place.address, json.dumps(place.options), str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def start(self, run: int, pending: list[list[dict[str, Any]]]) -> int:
        """Start a writer and return its pid."""
        assert self._launcher.stdin is not None
        self._launcher.stdin.write(json.dumps({"run": run, "pending": pending}) + "\n")
        self._launcher.stdin.flush()
        return int(self._line())

    def kill(self, pid: int) -> None:
        """Kill a writer and wait for its end."""
        os.kill(pid, signal.SIGKILL)
        assert self._line() == "ended"

    def close(self) -> None:
        """End the launcher."""
        self._launcher.kill()
        self._launcher.communicate()

    def _line(self) -> str:
        assert self._launcher.stdout is not None
        return self._launcher.stdout.readline().strip()


def test_what_was_acknowledged_survives_a_hundred_kills(place: Place, tmp_path: Path) -> None:
    dice, log = random.Random(11), tmp_path / "writes.log"
    log.touch()
    with contextlib.closing(place.open()) as store:
        assert store.upsert_items([Item(item_id=BASE)])[0].number == 0
    oracle, follower = Oracle(log, THREADS), Follower(place.open)
    writers = Writers(place, log)
    try:
        for run in range(KILLS):
            pid = writers.start(run, oracle.pending())
            time.sleep(dice.uniform(0, 0.25))
            if place.server and run % 4 == 3:
                place.server.kill()
                if dice.random() < 0.5:  # the writer is there when the server comes back
                    place.server.start()
                    time.sleep(dice.uniform(0, 0.15))
            writers.kill(pid)
            if place.server and not place.server.running():
                place.server.start()
            oracle.read()
            with contextlib.closing(place.open()) as store:
                oracle.check(store)
    finally:
        writers.close()
        follower.finish()
    assert oracle.acknowledged > 10 * KILLS
    oracle.check_seen(follower.seen)
    with contextlib.closing(place.open()) as store:
        assert follower.state == {c.number: row_of(c) for c in everything(store)}
        assert len(follower.seen) > 5 * len(follower.state)
        assert follower.position == store.position()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            "DELETE FROM catalogue WHERE id = (SELECT max(id) FROM catalogue WHERE NOT deleted)",
            "None",
        ),
        ("DELETE FROM catalogue WHERE position = (SELECT max(position) FROM catalogue)", "."),
        ("DELETE FROM events WHERE seq = 5", "acknowledged events are missing"),
        ("DELETE FROM events WHERE event_id != '' AND seq > 60", "acknowledged events are missing"),
        ("DELETE FROM histories", "."),
        (lambda s: s.upsert_items([Item(item_id="t0-3", title="made up")]), "."),
        (lambda s: s.upsert_items([Item(item_id="made up")]), "."),
        (lambda s: s.delete_items([f"t{i}-{j}" for i in range(4) for j in range(12)]), "."),
        (lambda s: s.append_events([Event("own-0", BASE, 0, 10**9)]), "events that nobody wrote"),
        (lambda s: s.append_events([Event("own-0", BASE, 0, 0)]), "an event is there twice"),
    ],
)
def test_the_oracle_notices_what_is_missing_made_up_or_doubled(
    tmp_path: Path, damage: Any, said: str
) -> None:
    path, log = tmp_path / "store.db", tmp_path / "writes.log"
    lines, store = Log(str(log)), open_store(path)
    store.upsert_items([Item(item_id=BASE)])
    for thread in range(THREADS):
        for number, plan in zip(range(20), plans(0, thread), strict=False):
            key = f"{thread}.{number}"
            lines.tell(key=key, thread=thread, plan=plan)
            lines.tell(key=key, acked=do(store, plan))
    oracle = Oracle(log, THREADS)
    oracle.read()
    oracle.check(store)
    if callable(damage):
        damage(store)
    else:
        with contextlib.closing(sqlite3.connect(path)) as link:
            assert link.execute(damage).rowcount
            link.commit()
    with pytest.raises(AssertionError, match=said):
        oracle.check(store)
    store.close()
