"""What is special to the SQLite store: locks, damage, deletion, and death in the middle."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corerec.errors import NotFound, Unavailable
from corerec.store import Event, Item, SqliteStore

KILLS = 10
WRITER = """
import sys
from pathlib import Path
from corerec.store import Event, SqliteStore
store = SqliteStore(Path(sys.argv[1]))
run, i = sys.argv[2], 0
while True:
    ids = [f"{run}-{i}-{j}" for j in range(3)]
    store.append_events([Event(f"u{i % 5}", "i1", 1, i, "x", e) for e in ids])
    print(" ".join(ids), flush=True)
    i += 1
"""


def _events(path: Path) -> list[str]:
    link = sqlite3.connect(path)
    try:
        return [row[0] for row in link.execute("SELECT event_id FROM events ORDER BY seq")]
    finally:
        link.close()


def test_what_was_acknowledged_survives_kill_9_and_nothing_is_doubled(
    tmp_path: Path, make_release
) -> None:
    path, dice = tmp_path / "s.db", random.Random(7)
    store = SqliteStore(path)
    store.seed(make_release())
    store.close()
    acked: list[str] = []
    for run in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(run)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        acked += writer.stdout.readline().split()
        time.sleep(dice.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        # A line without its end was cut by the kill; its events may be there or not.
        rest = writer.stdout.read().splitlines(keepends=True)
        acked += [e for line in rest if line.endswith("\n") for e in line.split()]
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
    stored = _events(path)
    assert len(acked) > 3 * KILLS
    assert not set(acked) - set(stored)
    assert len(stored) == len(set(stored))
    assert len(stored) % 3 == 0  # each call's events are all there or none
    assert len(stored) - len(acked) <= 3 * KILLS
    reopened = SqliteStore(path, check_file=True)
    lengths = [len(state.items) for state in reopened.read_users([f"u{i}" for i in range(5)])]
    assert sum(lengths) == len(stored) or max(lengths) == 1000
    reopened.close()


def test_a_seed_killed_in_the_middle_has_not_happened(tmp_path: Path, make_release) -> None:
    release = make_release()
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from corerec.release import Release; from corerec.store import SqliteStore\n"
        "def stop(what, done, total):\n"
        "    if what == 'histories': os.kill(os.getpid(), signal.SIGKILL)\n"
        "SqliteStore(Path(sys.argv[1])).seed(Release.open(Path(sys.argv[2])), stop)\n"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "s.db"), str(release.path)]
    assert subprocess.run(arguments, check=False).returncode == -9
    store = SqliteStore(tmp_path / "s.db")
    assert not store.read_users(["ann"])[0].known
    assert store.seed(release)
    assert store.read_users(["ann"])[0].items.tolist() == [0, 1, 2]
    store.close()


def test_a_locked_store_still_reads_and_refuses_to_write(tmp_path: Path, make_release) -> None:
    store = SqliteStore(tmp_path / "s.db", busy_seconds=0.05)
    store.seed(make_release())
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for write in (
        lambda: store.append_events([Event("u", "i1", 1, 1)]),
        lambda: store.put_users([("u", {})]),
        store.check,
    ):
        with pytest.raises(Unavailable, match=r"s\.db: another process held the write lock"):
            write()
    assert store.read_users(["ann"])[0].items.tolist() == [0, 1, 2]
    other.execute("ROLLBACK")
    other.close()
    store.check()
    assert store.append_events([Event("u", "i1", 1, 1)]) == 1
    store.close()


@pytest.mark.parametrize("replace", [False, True])
def test_a_deleted_or_replaced_file_acknowledges_nothing(
    tmp_path: Path, make_release, replace: bool
) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.seed(make_release())
    if replace:
        SqliteStore(tmp_path / "other.db").close()
        (tmp_path / "other.db").replace(tmp_path / "s.db")
    else:
        (tmp_path / "s.db").unlink()
    with pytest.raises(Unavailable, match="deleted or replaced"):
        store.append_events([Event("u", "i1", 1, 1)])
    with pytest.raises(Unavailable, match="deleted or replaced"):
        store.check()
    store.close()


def test_files_that_are_no_store_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello " * 1000)
    with pytest.raises(Unavailable, match=r"text\.db: the file is damaged .*restore it"):
        SqliteStore(tmp_path / "text.db")
    with pytest.raises(Unavailable, match=r"cannot be opened: .*text"):
        SqliteStore(tmp_path / "text.db" / "s.db")
    link = sqlite3.connect(tmp_path / "foreign.db")
    link.execute("CREATE TABLE t (x)")
    link.close()
    with pytest.raises(Unavailable, match="store of version 2 or older, got version 0"):
        SqliteStore(tmp_path / "foreign.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(Unavailable, match=r"folder\.db: unable to open"):
        SqliteStore(tmp_path / "folder.db")


def test_a_truncated_file_is_refused_at_opening(tmp_path: Path, make_release) -> None:
    path = tmp_path / "s.db"
    store = SqliteStore(path)
    store.seed(make_release(ids=[f"i{i}" for i in range(2000)]))
    store.close()
    good = path.read_bytes()
    for size in (len(good) // 2, len(good) - 4096, 1000):
        path.write_bytes(good[:size])
        with pytest.raises(Unavailable, match=r"s\.db: the file is damaged"):
            SqliteStore(path)


def test_a_flipped_bit_in_a_user_is_noticed_when_it_is_read(tmp_path: Path, make_release) -> None:
    path = tmp_path / "s.db"
    store = SqliteStore(path)
    store.seed(make_release())
    store.append_events([Event("ann", "i1", 1, 0x5A5A5A5A5A5A)])
    store.close()
    good = path.read_bytes()
    for needle, what in ((b"\x5a" * 6 + b"\0\0", "history"), (b'"Bonn"', "profile")):
        bad = bytearray(good)
        bad[good.index(needle) + 1] ^= 1
        path.write_bytes(bad)
        store = SqliteStore(path)
        with pytest.raises(Unavailable, match=rf"s\.db: the {what} of user 'ann' does not match"):
            store.read_users(["ann"])
        assert store.read_users(["bob"])[0].known
        store.close()


def test_every_flipped_byte_of_a_store_is_noticed_or_harmless(tmp_path: Path, make_release) -> None:
    """No flip may crash the process, raise a bare SQLite error or change what is answered."""
    path = tmp_path / "s.db"
    store = SqliteStore(path)
    store.seed(make_release())
    store.append_events([Event("ann", "i1", 1, 40)])
    (change,) = store.upsert_items([Item(item_id="a", title="t", attributes={"x": "1"})])
    store.close()
    good, dice, noticed = path.read_bytes(), random.Random(3), 0
    for _ in range(200):
        bad = bytearray(good)
        bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
        path.write_bytes(bad)
        for extra in ("-wal", "-shm"):
            Path(f"{path}{extra}").unlink(missing_ok=True)
        try:
            store = SqliteStore(path)
        except Unavailable:
            noticed += 1
            continue
        try:
            (ann,) = store.read_users(["ann"])
            assert ann.items.tolist() == [0, 1, 2, 1]
            assert ann.attributes == {"age": "25", "city": "Bonn"}
            assert store.changes(0) == store.read_items(["a"]) == [change]
            assert store.item_numbers(["i0", "i1", "i2", "a"]) == [0, 1, 2, 3]
            assert store.events_after(0)[1].tolist() == [[1, 40]]
        except Unavailable:
            noticed += 1
        finally:
            store.close()
    assert noticed


def test_commits_are_flushed_to_the_disk(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    with store._database.writing(commit=False) as link:
        assert link.execute("PRAGMA synchronous").fetchone() == (2,)
        assert link.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert os.path.exists(tmp_path / "s.db-wal")  # noqa: PTH110
    store.close()


def test_a_store_of_version_1_is_brought_up_to_date_in_place(tmp_path: Path, make_release) -> None:
    path = tmp_path / "s.db"
    store = SqliteStore(path)
    store.seed(make_release())
    store.append_events([Event("ann", "i1", 1, 40, "x", "once")])
    store.close()
    link = sqlite3.connect(path)
    link.executescript(
        "DROP TABLE catalogue; ALTER TABLE events DROP COLUMN crc; PRAGMA user_version=1"
    )
    link.close()
    store = SqliteStore(path)
    assert not store.seed(make_release())
    assert store.read_users(["ann"])[0].items.tolist() == [0, 1, 2, 1]
    assert store.append_events([Event("ann", "i1", 1, 40, "x", "once")]) == 0
    assert store.position() == 0
    assert store.events_after(0)[1].tolist() == [[1, 40]]
    assert store.upsert_items([Item(item_id="a")])[0].number == 3
    store.close()
    SqliteStore(path).close()


def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "s.db").close()
    link = sqlite3.connect(tmp_path / "s.db")
    link.execute("PRAGMA user_version=3")
    link.close()
    with pytest.raises(Unavailable, match=r"s\.db: must be .* got version 3; use another file"):
        SqliteStore(tmp_path / "s.db")


def test_a_flipped_bit_in_an_item_is_noticed_when_it_is_read(tmp_path: Path, make_release) -> None:
    path = tmp_path / "s.db"
    store = SqliteStore(path)
    store.seed(make_release())
    store.upsert_items([Item(item_id="a", title="Unmistakable"), Item(item_id="b")])
    store.close()
    bad = bytearray(path.read_bytes())
    bad[bad.index(b"Unmistakable")] ^= 1
    path.write_bytes(bad)
    store = SqliteStore(path)
    for read in (
        lambda: store.changes(0),
        lambda: store.read_items(["a"]),
        lambda: store.read_users_and_changes([], 0),
    ):
        with pytest.raises(Unavailable, match=r"s\.db: item 'a', number 3, does not match its"):
            read()
    assert len(store.changes(1)) == 1
    assert store.read_users(["bob"])[0].known
    store.close()


def _in_one_group(store: SqliteStore, writes: list[Callable[[], object]]) -> list[object]:
    """Run writes in a thread each that all wait while another has the turn; return what came."""
    came: list[object] = [None] * len(writes)

    def run(place: int) -> None:
        try:
            came[place] = writes[place]()
        except Exception as error:
            came[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(writes))]
    with store._database.writing(commit=False):
        for thread in threads:
            thread.start()
        while store._database._turns.waiting() < len(writes):
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    return came


def test_writes_that_wait_together_share_a_commit_and_each_has_its_own_outcome(
    tmp_path: Path, make_release
) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.seed(make_release())
    said: list[str] = []
    store._database._writer.set_trace_callback(said.append)
    came = _in_one_group(
        store,
        [
            *[lambda i=i: store.upsert_items([Item(item_id=f"n{i}")])[0] for i in range(20)],
            lambda: store.append_events([Event("u", "i1", 1, 5), Event("u", "nobody", 9, 5)]),
            lambda: store.append_events([Event("v", "i1", 1, 5)]),
            lambda: store.put_users([("w", {"a": "b"})]),
            lambda: store.delete_items(["i2"])[0],
        ],
    )
    assert said.count("COMMIT") == 1
    assert isinstance(came[20], NotFound)
    assert came[21:23] == [1, 1]
    changes = [*came[:20], came[23]]
    assert store.changes(0) == sorted(changes, key=lambda change: change.position)
    assert sorted(change.position for change in changes) == list(range(1, 22))
    assert [s.known for s in store.read_users(["u", "v", "w"])] == [False, True, True]
    store.close()


def test_a_write_that_does_not_fit_leaves_those_beside_it_alone(
    tmp_path: Path, make_release
) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.seed(make_release())
    link = store._database._writer
    link.execute(f"PRAGMA max_page_count={link.execute('PRAGMA page_count').fetchone()[0] + 4}")
    large = [Item(item_id=f"large{i}", title="t" * 1000) for i in range(100)]
    came = _in_one_group(
        store,
        [
            lambda: store.put_users([("one", {})]),
            lambda: store.upsert_items(large),
            lambda: store.put_users([("two", {})]),
        ],
    )
    assert came[::2] == [1, 1]
    assert isinstance(came[1], Unavailable)
    assert "s.db: the disk is full; nothing was written" in str(came[1])
    assert [s.known for s in store.read_users(["one", "two"])] == [True, True]
    assert store.position() == 0
    link.execute("PRAGMA max_page_count=1000000")
    assert len(store.upsert_items(large)) == 100
    store.close()


def test_writes_that_wait_on_a_locked_store_all_say_so(tmp_path: Path, make_release) -> None:
    store = SqliteStore(tmp_path / "s.db", busy_seconds=0.3)
    store.seed(make_release())
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    writes = [lambda: store.put_users([("u", {})])] * 5
    began = time.monotonic()
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(len(writes)) as pool:
        came = [future.exception() for future in [pool.submit(write) for write in writes]]
    other.close()
    assert all("try again" in str(error) for error in came)
    assert time.monotonic() - began < 3
    assert store.put_users([("u", {})]) == 1
    store.close()
