"""The release that every peer serves: a generated world, trained once and kept in .bench/.

The world of a million items takes half a minute to generate and about ten to train on two cores,
with 4 GiB of memory, and leaves 2 GiB in the folder; that of 50,000 items two minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.serving.machine import ROOT
from corerec.ranking.gate import FILE as GATE
from corerec.ranking.gate import PrecisionReport
from corerec.ranking.precision import Precision
from corerec.release import Release
from corerec.store import SqliteStore

SEED = 7
MAX_USERS = 100_000
"""More than one peer is asked in a round, so that what it keeps of a user does not flatter it."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A release and what is asked of it."""

    release: Release
    store: Path
    """SQLite store that holds the release's users; copied for each peer."""
    requests: list[dict[str, Any]]
    """RecommendRequests as JSON, one per user: the same moment for all, the end of the data, so
    that the answer does not depend on when the benchmark runs."""

    @property
    def items(self) -> int:
        """Items of the release's catalogue."""
        return int((self.release.info.get("counts") or {}).get("items", 0))

    def allows(self, precision: Precision) -> bool:
        """Return whether the release's gate lets its ranker compute so; say so when not."""
        report = PrecisionReport(measured={})
        if self.release.has(GATE):
            report = PrecisionReport.load(self.release.file(GATE))
        allowed = report.allows(precision)
        if not allowed:
            found = report.measured.get(precision, "it was not measured")
            print(f"the release's gate does not allow {precision}: {found}")
        return allowed

    def describe(self) -> dict[str, Any]:
        """Return what was served, without paths."""
        index = json.loads(self.release.file("two_tower_index.json").read_text())
        info = self.release.info
        return {
            "release": self.release.id,
            "dataset": info.get("dataset"),
            "counts": info.get("counts"),
            "index": index,
            "users_asked_for": len(self.requests),
        }


def prepare(folder: Path, release: Path | None, items: int) -> Subject:
    """Return the release at a path, or the benchmark's own of so many items, made when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    opened = Release.open(release or _trained(folder, items))
    return Subject(release=opened, store=_seeded(folder, opened), requests=requests(opened))


def requests(release: Release) -> list[dict[str, Any]]:
    """Return one request for each of a fixed random choice of users with a history."""
    histories = pl.scan_parquet(release.file("histories.parquet"))
    users = histories.select("user_id").unique().sort("user_id").collect()["user_id"].to_list()
    order = np.random.default_rng(SEED).permutation(len(users))[:MAX_USERS]
    moment = str(release.info["data_end_micros"])  # int64 is text in JSON of protos
    return [
        {"user_id": users[i], "page_size": 10, "request_time_micros": moment}
        for i in order.tolist()
    ]


def world(items: int) -> tuple[str, ...]:
    """Return the options that generate a world of so many items: eight interactions for each."""
    users, interactions = max(20_000, items * 15 // 100), max(1_000_000, items * 8)
    return (
        *("--users", str(users), "--items", str(items)),
        *("--interactions", str(interactions)),
    )


def label(items: int) -> str:
    """Return what a catalogue's size is called in the names of folders."""
    for unit, one in (("m", 1_000_000), ("k", 1000)):
        if items % one == 0:
            return f"{items // one}{unit}"
    return str(items)


def _trained(folder: Path, items: int) -> Path:
    data, releases = folder / f"world-{label(items)}", folder / f"releases-{label(items)}"
    if (releases / "latest").exists():
        return releases
    minutes = 2 + items // 100_000
    print(f"the world of {items:,} items is made once: about {minutes} minutes on two cores")
    if not (data / "dataset.toml").exists():
        _corerec("data", "generate", str(data), *world(items))
    _corerec("train", str(data), "--out", str(releases))
    return releases


def _seeded(folder: Path, release: Release) -> Path:
    path = folder / "stores" / f"{release.id}.db"
    path.parent.mkdir(exist_ok=True)
    store = SqliteStore(path)
    try:
        store.seed(release)
    finally:
        store.close()  # which also folds the write-ahead log into the file
    return path


def _corerec(*arguments: str) -> None:
    command = [sys.executable, "-m", "corerec.cli", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SystemExit(f"corerec {' '.join(arguments)} failed")
