"""What answers of a retrieval replica pay while new items are merged into its index.

A replica runs as a process on a SQLite store, as it does alone or behind Ray, and notes when it
takes changes and when it moves rows into the main index. It is asked over gRPC at a steady rate,
by users with histories, for 500 candidates. Every second a burst of items is upserted at once, so
that the delta fills to its limit, and is then merged. An answer belongs to what was going on when
it was asked for: `taking` changes, `merging` what came, or neither, `quiet`. So the three take
turns within one run, and what else the machine does falls on all of them.

    python -m benchmarks.live.merge --release .bench/releases-1m
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.live.callers import quantiles
from benchmarks.live.services import ended, started
from benchmarks.quality.report import ROOT, machine
from corerec.errors import CoreRecError
from corerec.release import Release
from corerec.retrieval import RetrievalCore
from corerec.serving.alone import run_process
from corerec.serving.budget import Budget
from corerec.serving.contracts import RETRIEVE
from corerec.serving.deployment_file import DeploymentFile
from corerec.serving.endpoints import StaticEndpoints
from corerec.serving.metrics import Metrics, observe_sources
from corerec.serving.process import ServerProcess, stage_process
from corerec.serving.stage_client import RemoteStage
from corerec.stages import RetrieveEntry, UserContext
from corerec.store import Item, open_store
from corerec.store.catalogue import ItemChange
from retrieval_svc.config import RetrievalConfig
from retrieval_svc.servicer import add

RESULT = ROOT / "benchmarks/results/live/merge.json"
TAKING, MERGING = 0, 1
SAME_SECONDS = 0.3
"""Turns and steps that follow each other within this are one taking, and one merge."""
BEFORE_SECONDS, AFTER_SECONDS = 0.3, 0.1
"""An answer is not quiet so long before changes are taken, when they are written, nor after."""
BACKLOG_SECONDS = 0.05
"""For so long after changes were taken answers still wait for each other, and are of no kind."""


class Noting(RetrievalCore):
    """A core that notes when it changes: kind, begin, end, and rows of the delta after it."""

    notes: list[tuple[float, float, float, float]]

    def apply(self, changes: Sequence[ItemChange], *, indexed: bool = False) -> None:
        began = time.monotonic()
        super().apply(changes, indexed=indexed)
        self._note(TAKING, began)

    def maintain(self) -> bool:
        began, before = time.monotonic(), self.counts["delta_items"]
        more = super().maintain()
        if before:
            self._note(MERGING, began)
        return more

    def _note(self, kind: int, began: float) -> None:
        notes = self.__dict__.setdefault("notes", [])
        notes.append((kind, began, time.monotonic(), self.counts["delta_items"]))


def serve(config: Path, notes: Path) -> None:
    """Run the replica until SIGTERM, then write what it noted."""
    cores: list[Noting] = []

    def make(file: DeploymentFile, where: str) -> ServerProcess:
        own = file.config(RetrievalConfig, "retrieval")

        def load() -> RetrievalCore:
            cores.append(Noting.load(Release.open(Path(where)), threads=own.threads))
            return cores[0]

        return stage_process(
            own, RETRIEVE, name="retrieval", load=load, add=add, observe=observe_sources
        )

    try:
        run_process(config, "", make)
    finally:
        np.save(notes, np.array(cores[0].notes))


def requests(release: Release, count: int) -> list[RetrieveEntry]:
    """Return requests of users with histories of 60 items."""
    rng, items = np.random.default_rng(0), len(release.catalogue)
    return [
        RetrieveEntry(
            user=UserContext(user_id=f"u{i:06d}", items=rng.integers(0, items, 60), times=times),
            k=500,
        )
        for i, times in enumerate([np.arange(60, dtype=np.int64) * 10**6] * count)
    ]


async def ask(
    address: str, release: Release, rate: float, stop: asyncio.Event
) -> tuple[list[tuple[float, float]], int]:
    """Ask at a steady rate; return when each was asked for and how long it took, and failures."""
    stage: RemoteStage[Any, Any] = RemoteStage(RETRIEVE, StaticEndpoints([address]), Metrics())
    entries, found = requests(release, 2000), []
    failed: list[float] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(entry: RetrieveEntry) -> None:
        began = time.monotonic()
        try:
            await stage.call(release.id, entry, Budget(5))
        except CoreRecError:
            failed.append(began)
        else:
            found.append((began, time.monotonic() - began))

    due, number = time.monotonic(), 0
    while not stop.is_set():
        due, number = due + 1 / rate, number + 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(one(entries[number % len(entries)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    await stage.close()
    return found, len(failed)


def write(path: Path, like: Sequence[str], bursts: int, rows: int, every: float) -> None:
    """Upsert bursts of so many items, one transaction each."""
    store = open_store(str(path))
    for burst in range(bursts):
        due = time.monotonic() + every
        store.upsert_items(
            [
                Item(item_id=f"live-{i}", title=f"Live {i}", category=like[i % len(like)])
                for i in range(burst * rows, (burst + 1) * rows)
            ]
        )
        time.sleep(max(0.0, due - time.monotonic()))
    store.close()


def windows(notes: np.ndarray[Any, Any], kind: int) -> np.ndarray[Any, Any]:
    """Return (n, 2) begin and end of what follows each other closely."""
    own = notes[notes[:, 0] == kind][:, 1:3]
    first = np.flatnonzero(np.r_[True, own[1:, 0] - own[:-1, 1] > SAME_SECONDS])
    last = np.r_[first[1:] - 1, len(own) - 1]
    return np.stack([own[first, 0], own[last, 1]], axis=1)


def within(
    times: np.ndarray[Any, Any], spans: np.ndarray[Any, Any], before: float = 0, after: float = 0
) -> Any:
    """Return which times (n,) lie in a span, or so many seconds before or after one."""
    place = np.searchsorted(spans[:, 0] - before, times, side="right") - 1
    return (place >= 0) & (times <= spans[np.maximum(place, 0), 1] + after)


def summary(answers: Sequence[tuple[float, float]], notes: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return what was measured."""
    taking, merging = windows(notes, TAKING), windows(notes, MERGING)
    # What came before the first burst, when processes started, is of no kind.
    times, took = np.array(sorted(own for own in answers if own[0] > taking[0, 0])).T
    is_taking = within(times, taking)
    is_merging = within(times, merging) & ~within(times, taking, 0.0, BACKLOG_SECONDS)
    is_quiet = ~within(times, taking, BEFORE_SECONDS, AFTER_SECONDS)
    is_quiet &= ~within(times, merging, 0.0, AFTER_SECONDS)
    found = {
        name: quantiles(took[own].tolist())
        for name, own in (("quiet", is_quiet), ("taking", is_taking), ("merging", is_merging))
    }
    steps = {kind: notes[notes[:, 0] == kind] for kind in (TAKING, MERGING)}
    return {
        "answers": found,
        "to_quiet": {
            f"{name}_p{q}": round(found[name][f"p{q}_ms"] / found["quiet"][f"p{q}_ms"], 2)
            for name in ("merging", "taking")
            for q in (50, 95, 99)
        },
        "merges": len(merging),
        "merge_seconds": quantiles((merging[:, 1] - merging[:, 0]).tolist(), 1.0),
        "step": quantiles((steps[MERGING][:, 2] - steps[MERGING][:, 1]).tolist()),
        "turn_of_changes": quantiles((steps[TAKING][:, 2] - steps[TAKING][:, 1]).tolist()),
        "delta_most": int(notes[:, 3].max()),
        "delta_left": int(notes[-1, 3]),
    }


async def run(address: str, release: Release, arguments: argparse.Namespace, store: Path) -> Any:
    """Ask while bursts come; return the answers' times."""
    stop = asyncio.Event()
    asking = asyncio.create_task(ask(address, release, arguments.rate, stop))
    await asyncio.sleep(2.0)
    like = release.catalogue.category_names
    own = [sys.executable, "-m", "benchmarks.live.merge", "--write", str(store)]
    own += [json.dumps([like, arguments.bursts, arguments.rows, arguments.every])]
    writer = await asyncio.create_subprocess_exec(*own)
    await writer.wait()
    await asyncio.sleep(2.0)
    stop.set()
    return await asking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--rows", type=int, default=1000, help="items of a burst")
    parser.add_argument("--bursts", type=int, default=60)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between bursts")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--serve", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    if arguments.write:
        write(Path(arguments.write[0]), *json.loads(arguments.write[1]))
        return
    release = Release.open(arguments.release.resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_store(str(folder / "store.db"))
        store.seed(release)
        store.close()
        text = f'release = "{release.path}"\n[retrieval]\nstore = "{folder / "store.db"}"\n'
        (folder / "retrieval.toml").write_text(text)
        own = ["benchmarks.live.merge", "--serve", str(folder / "retrieval.toml")]
        child, metadata = started([*own, str(folder / "notes.npy")], folder / "retrieval.log")
        try:
            address = metadata["address"]
            answers, failed = asyncio.run(run(address, release, arguments, folder / "store.db"))
        finally:
            ended([child])
        found = summary(answers, np.load(folder / "notes.npy"))
    settings = {n: getattr(arguments, n) for n in ("rate", "rows", "bursts", "every")}
    line = " ".join(["python -m benchmarks.live.merge", *sys.argv[1:]])
    values = {
        "command": line,
        "machine": machine(),
        "items": len(release.catalogue),
        "settings": settings,
        "failed": failed,
        **found,
    }
    text = json.dumps(values, indent=2) + "\n"
    sys.stdout.write(text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
