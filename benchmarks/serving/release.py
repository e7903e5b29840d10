"""The release that every peer serves: a generated world, trained once and kept in .bench/."""

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
from corerec.release import Release
from corerec.store import SqliteStore

WORLD = ("--users", "20000", "--items", "50000", "--interactions", "1000000")
SEED = 7
MAX_USERS = 2000


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A release and what is asked of it."""

    release: Release
    store: Path
    """SQLite store that holds the release's users; copied for each peer."""
    requests: list[dict[str, Any]]
    """RecommendRequests as JSON, one per user: the same moment for all, the end of the data, so
    that the answer does not depend on when the benchmark runs."""

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


def prepare(folder: Path, release: Path | None) -> Subject:
    """Return the release at a path, or the benchmark's own, generated and trained when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    opened = Release.open(release or _trained(folder))
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


def _trained(folder: Path) -> Path:
    world, releases = folder / "world", folder / "releases"
    if not (world / "dataset.toml").exists():
        _corerec("data", "generate", str(world), *WORLD)
    if not (releases / "latest").exists():
        _corerec("train", str(world), "--out", str(releases))
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
