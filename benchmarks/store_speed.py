"""Measures a store: writes a second, the time to an acknowledgement, reads, seeding, size.

    python benchmarks/store_speed.py --folder .

Both stores hold the same release and live items. The writers are threads of one process, so the
figures include the interpreter's lock; Redis runs beside them on the same machine, with
`appendfsync always`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quality.report import command, machine  # noqa: E402
from corerec.release import Release, ReleaseWriter, write_catalogue  # noqa: E402
from corerec.store import Event, Item, Store, open_store  # noqa: E402
from corerec.store.redis import RedisStore  # noqa: E402
from tests.redis_server import RedisServer, find_redis_server  # noqa: E402

TOUCH_PER_SECOND = 200
"""Writes a second while reads are measured under load."""


def main() -> None:
    """Measure both stores, print a table and write the report."""
    parser = argparse.ArgumentParser(description="measure the stores")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=50_000, help="of the release")
    parser.add_argument("--events", type=int, default=50, help="a user, in the release")
    parser.add_argument("--live", type=int, default=20_000, help="items upserted before")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--folder", type=Path, help="where the stores lie; their disk matters")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        release = make_release(folder / "releases", given.users, given.items, given.events)
        flush = [fsync_micros(folder)]
        found = {
            "sqlite": measure(open_store(folder / "s.db"), release, given),
            "redis": measure_redis(folder, release, given),
        }
        flush.append(fsync_micros(folder))
        found["sqlite"]["bytes_on_disk"] = sum(p.stat().st_size for p in folder.glob("s.db*"))
    values = {
        "name": "store_speed",
        "config": {name: getattr(given, name) for name in ("users", "items", "events", "live")},
        "seconds": given.seconds,
        "fsync_micros_before_and_after": flush,
        "load_average": os.getloadavg()[0],
        "stores": found,
        "machine": machine(),
        "command": command(),
    }
    path = given.out / "store" / "store_speed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")
    show(found, flush)
    print(f"written to {path}")


def measure_redis(folder: Path, release: Release, given: argparse.Namespace) -> dict[str, Any]:
    """Measure a Redis store on a server that is started for it."""
    (folder / "redis").mkdir()
    server = RedisServer(find_redis_server(), folder / "redis")
    try:
        store = RedisStore(server.url, busy_seconds=10)
        values = measure(store, release, given)
        import redis

        with redis.Redis(port=server.port) as client:
            info: Any = client.info("memory")
        values["bytes_in_memory"] = info["used_memory"]
        files = (folder / "redis").rglob("*")
        values["bytes_on_disk"] = sum(p.stat().st_size for p in files if p.is_file())
    finally:
        server.kill()
    return values


def measure(store: Store, release: Release, given: argparse.Namespace) -> dict[str, Any]:
    """Return every figure of one store, seconds, microseconds or a second."""
    values: dict[str, Any] = {}
    began = time.perf_counter()
    store.seed(release)
    values["seed_seconds"] = round(time.perf_counter() - began, 2)
    for start in range(0, given.live, 500):
        store.upsert_items([item(f"live{i}") for i in range(start, start + 500)])
    dice = np.random.default_rng(0)

    def user() -> str:
        return f"u{dice.integers(given.users)}"

    def upsert(worker: int, turn: int) -> None:
        store.upsert_items([item(f"live{(worker * 997 + turn) % given.live}")])

    def upsert_many(worker: int, turn: int) -> None:
        first = turn * 100 % (given.live - 100)
        store.upsert_items([item(f"live{first + i}") for i in range(100)])

    def append(worker: int, turn: int) -> None:
        person, number = f"u{(worker * 9973 + turn) % given.users}", turn % given.items
        store.append_events(
            [Event(person, f"i{number}", number, 10**15 + turn, "x", f"{worker}-{turn}")]
        )

    def append_many(worker: int, turn: int) -> None:
        events = [
            Event(
                f"u{(turn * 100 + i) % given.users}", f"i{i}", i, 2 * 10**15 + turn, "x", f"m{turn}"
            )
            for i in range(100)
        ]
        store.append_events(events)

    for threads in (1, 4, 16):
        values[f"upsert_1_threads_{threads}"] = written(upsert, threads, given.seconds)
        values[f"append_1_threads_{threads}"] = written(append, threads, given.seconds)
    values["upsert_100"] = written(upsert_many, 1, given.seconds, each=100)
    values["append_100"] = written(append_many, 1, given.seconds, each=100)
    position = store.position()

    def follow() -> None:
        nonlocal position
        if changes := store.read_users_and_changes([user()], position)[1]:
            position = changes[-1].position

    reads: dict[str, Callable[[], object]] = {
        "read_users_1": lambda: store.read_users([user()]),
        "read_users_32": lambda: store.read_users([user() for _ in range(32)]),
        "read_users_and_changes_1": follow,
        "changes_none": lambda: store.changes(position),
        "changes_1000": lambda: store.changes(0),
        "position": store.position,
    }
    for name, read in reads.items():
        values[name] = read_micros(read, given.seconds / 2)
    with writing(upsert):
        for name in ("read_users_1", "read_users_and_changes_1"):
            values[f"{name}_while_writing"] = read_micros(reads[name], given.seconds)
    store.close()
    return values


def written(
    write: Callable[[int, int], None], threads: int, seconds: float, each: int = 1
) -> dict[str, float]:
    """Return writes a second of some threads, and the time to an acknowledgement."""
    took: list[list[float]] = [[] for _ in range(threads)]
    base, end = time.time_ns(), time.perf_counter() + seconds

    def run(worker: int) -> None:
        turn = base // 1000 % 10**9
        while (began := time.perf_counter()) < end:
            write(worker, turn)
            took[worker].append(time.perf_counter() - began)
            turn += 1

    workers = [threading.Thread(target=run, args=(worker,)) for worker in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    passed = time.perf_counter() - began
    all_of = [value for own in took for value in own]
    return {"per_second": round(len(all_of) * each / passed, 1)} | percentiles(all_of)


def read_micros(read: Callable[[], object], seconds: float) -> dict[str, float]:
    """Return the time of one read at a time."""
    took = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        read()
        took.append(time.perf_counter() - began)
    return percentiles(took)


@contextmanager
def writing(write: Callable[[int, int], None]) -> Iterator[None]:
    """Write at a steady rate in another thread."""
    stop = threading.Event()

    def run() -> None:
        turn = 0
        while not stop.wait(1 / TOUCH_PER_SECOND):
            write(99, turn)
            turn += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return median and 99th percentile in microseconds."""
    p50, p99 = np.percentile(np.array(seconds) * 1e6, [50, 99])
    return {"p50_micros": round(float(p50), 1), "p99_micros": round(float(p99), 1)}


def fsync_micros(folder: Path) -> dict[str, float]:
    """Return what one 4 KB write and its flush take on this disk."""
    took = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(300):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return percentiles(took)


def item(item_id: str) -> Item:
    """Return an item like those of a shop, without content vectors."""
    return Item(
        item_id=item_id,
        title=f"A thing called {item_id}",
        category="things",
        creator="someone",
        born_micros=10**15,
        attributes={"price": "12.5", "colour": "red", "size": "m"},
        lists={"tags": ("new", "soft", "round")},
    )


def make_release(folder: Path, users: int, items: int, events: int) -> Release:
    """Write a release with histories, as far as a store reads it."""
    dice = np.random.default_rng(1)
    ids = [f"u{i}" for i in range(users)]
    with ReleaseWriter(folder) as writer:
        frame = pl.DataFrame({"item_id": [f"i{i}" for i in range(items)]})
        write_catalogue(writer.path("catalogue.parquet"), frame)
        profile = {"user_id": ids, "age": dice.integers(18, 80, users), "city": ["Bonn"] * users}
        pl.DataFrame(profile).write_parquet(writer.path("users.parquet"))
        rows = {
            "user_id": [user for user in ids for _ in range(events)],
            "item_number": dice.integers(items, size=users * events),
            "event_time_micros": dice.integers(10**15, size=users * events),
        }
        pl.DataFrame(rows).write_parquet(writer.path("histories.parquet"))
        return Release.open(writer.commit({}))


def show(found: dict[str, dict[str, Any]], flush: list[dict[str, float]]) -> None:
    """Print the figures side by side."""
    before, after = (value["p50_micros"] for value in flush)
    table = Table(title=f"fdatasync of 4 KB: {before:.0f} us before, {after:.0f} us after")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for name in found["sqlite"]:
        cells = [found[store].get(name) for store in found]
        table.add_row(name, *map(_cell, cells))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _cell(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:,}" if value is not None else ""
    micros = f"{value['p50_micros']:,.0f} / {value['p99_micros']:,.0f} us"
    return f"{value['per_second']:,.0f}/s, {micros}" if "per_second" in value else micros


if __name__ == "__main__":
    main()
