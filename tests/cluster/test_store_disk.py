"""A store whose disk is full refuses writes, serves reads, and goes on when there is room again."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corerec.errors import Unavailable
from corerec.store import Event, Item, Store, open_store
from tests.redis_server import RedisServer, find_redis_server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

READS = 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB. Skips where the tests may not mount one, except in CI."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        assert os.environ.get("CI") != "true", "CI must test a full disk: it may mount a tmpfs"
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Filling:
    """Writes to a store until all is refused, and knows what was acknowledged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.said: set[str] = set()
        self.items: list[str] = []
        self.events: list[int] = []
        self.users: list[str] = []
        self._tried = 0

    def fill(self) -> None:
        """Write items, events and users in turn, until none was taken for twenty turns."""
        refusals = 0
        end = time.monotonic() + 60
        while refusals < 60:
            assert time.monotonic() < end, "the disk was never full"
            taken = self.write()
            refusals = 0 if taken else refusals + 3
        assert len(self.items) > 30

    def write(self) -> int:
        """Try one item, one event and one user, all new; return how many were taken."""
        number, before = self._tried, len(self.items) + len(self.events) + len(self.users)
        self._tried += 1
        with self._refusal():
            self._store.upsert_items([Item(item_id=f"n{number}", title="t" * 1000)])
            self.items.append(f"n{number}")
        with self._refusal():
            self._store.append_events([Event(f"e{number}", "n0", 0, number, "x", str(number))])
            self.events.append(number)
        with self._refusal():
            self._store.put_users([(f"p{number}", {"name": "v" * 200})])
            self.users.append(f"p{number}")
        return len(self.items) + len(self.events) + len(self.users) - before

    def check(self, store: Store) -> None:
        """Read all that was acknowledged, and nothing of what was refused."""
        found, position = [], 0
        while changes := store.changes(position):
            found += [change.item_id for change in changes]
            position = changes[-1].position
        assert found == self.items
        assert store.events_after(0, 10**6)[1][:, 1].tolist() == self.events
        for kind, known in (("e", {f"e{i}" for i in self.events}), ("p", set(self.users))):
            states = store.read_users([f"{kind}{number}" for number in range(self._tried)])
            assert {state.user_id for state in states if state.known} == known
        for _ in range(READS):
            (user,), _ = store.read_users_and_changes(["e0"], store.position())
            assert user.times.tolist() == [0]

    @contextlib.contextmanager
    def _refusal(self) -> Iterator[None]:
        try:
            yield
        except Unavailable as error:
            self.said.add(str(error))


def grow(disk: Path) -> None:
    """Make room."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


def test_sqlite_on_a_full_disk_refuses_writes_and_serves_reads(small_disk: Path) -> None:
    with contextlib.closing(open_store(small_disk / "s.db")) as store:
        filling = Filling(store)
        filling.fill()
        assert all("s.db: the disk is full; nothing was written" in text for text in filling.said)
        filling.check(store)
        with contextlib.closing(open_store(small_disk / "s.db")) as another:
            filling.check(another)
        grow(small_disk)
        assert filling.write() == 3
        filling.check(store)


def test_sqlite_that_may_not_write_more_refuses_writes_and_serves_reads(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.closing(open_store(tmp_path / "s.db")) as store:
        filling = Filling(store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))
        try:
            filling.fill()
            assert all("; see whether its disk is full" in text for text in filling.said)
            filling.check(store)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert filling.write() == 3
        filling.check(store)


def test_redis_of_every_second_on_a_full_disk_refuses_writes_and_serves_reads(
    small_disk: Path,
) -> None:
    server = RedisServer(find_redis_server(), small_disk, appendfsync="everysec")
    try:
        with contextlib.closing(open_store(server.url, durability="everysec")) as store:
            filling = Filling(store)
            filling.fill()
            assert all("AOF file" in text and "make room" in text for text in filling.said)
            filling.check(store)
            grow(small_disk)
            time.sleep(1.5)  # it tries once a second
            assert filling.write() == 3
            filling.check(store)
    finally:
        server.kill()


def test_redis_of_every_write_ends_on_a_full_disk_and_has_lost_nothing(small_disk: Path) -> None:
    server = RedisServer(find_redis_server(), small_disk)
    try:
        with contextlib.closing(open_store(server.url)) as store:
            filling = Filling(store)
            filling.fill()
            assert all("see that redis-server runs there" in text for text in filling.said)
            assert not server.running()
            grow(small_disk)
            server.start()
            filling.check(store)
            assert filling.write() == 3
            filling.check(store)
    finally:
        server.kill()
