"""Measures RankingCore on one core: everything of a request's ranking but the wire.

    python -m benchmarks.ranking.core [--items 50000] [--seconds 1] [--large] [--release FOLDER]

"kept" users asked before, "new" ones did not. In "cold" rows other work had the caches between two
batches, as other processes have where all share cores: 16 MB are read and written, and Python runs.
A release of your own gives its items, load time and memory. Writes
benchmarks/results/ranking/core.json, whose `before` of an earlier run stays.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality.report import command, machine
from benchmarks.ranking.world import CANDIDATES, HISTORY, make_entries, write_release
from corerec.errors import CoreRecError
from corerec.ranking.core import RankingCore
from corerec.release import Release
from corerec.release.reader import OpenRelease
from corerec.stages import RankEntry

RESULT = Path(__file__).parents[1] / "results" / "ranking" / "core.json"
SIZES = (1, 2, 4, 8, 32)
NEW = 4096
"""Different users that ask in turn: more than are kept."""


def batches(entries: Sequence[RankEntry], size: int, new: bool) -> Iterator[list[RankEntry]]:
    """Yield batches for ever, each of other users, or of the same few again."""
    parts = [entries[i : i + size] for i in range(0, len(entries) - size + 1, size)]
    user = cycle(range(NEW))
    for part in cycle(parts):
        if new:
            yield [replace(e, user=replace(e.user, user_id=f"new{next(user)}")) for e in part]
        else:
            yield list(part)


class Others:
    """What other processes do to a core's caches."""

    def __init__(self) -> None:
        self._memory = np.zeros(16 << 20, np.uint8)
        self._text = json.dumps([{"number": i, "name": str(i)} for i in range(300)])

    def work(self) -> None:
        self._memory[::64] += 1
        json.dumps(json.loads(self._text))


def measure(
    core: RankingCore,
    entries: Sequence[RankEntry],
    size: int,
    seconds: float,
    *,
    new: bool,
    others: Others | None,
) -> dict[str, Any]:
    """Return times of a batch size; "best" is what it takes when nothing else disturbs."""
    source = batches(entries, size, new)
    for _ in range(NEW // size if new else len(entries) // size):
        core.run(next(source))
    features, score, walls, spent = [], [], [], []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        batch = next(source)
        if others is not None:
            others.work()
        start, cpu = time.perf_counter(), time.thread_time()
        results = core.run(batch)
        walls.append(time.perf_counter() - start)
        spent.append(time.thread_time() - cpu)
        first = results[0]
        assert not isinstance(first, CoreRecError)
        features.append(first.timings["features"])
        score.append(first.timings["score"])
    return {
        "batch": size,
        "users": "new" if new else "kept",
        "caches": "cold" if others is not None else "warm",
        "core_ms_per_request": round(float(np.mean(spent)) / size * 1e3, 4),
        "median_core_ms_per_request": round(float(np.median(spent)) / size * 1e3, 4),
        "median_ms_per_request": round(float(np.median(walls)) / size * 1e3, 4),
        "best_ms_per_request": round(min(walls) / size * 1e3, 4),
        "pairs_per_second": round(size * CANDIDATES / float(np.median(walls))),
        "features_micros_median_of_a_matrix": float(np.median(features)),
        "score_micros_median_of_a_matrix": float(np.median(score)),
    }


def resident_mib() -> float:
    """Return the memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def load(release: OpenRelease, precision: Any) -> tuple[RankingCore, dict[str, float]]:
    """Return a core, and what loading and warming took."""
    before, start = resident_mib(), time.perf_counter()
    core = RankingCore.load(release, device="cpu", precision=precision)
    loaded = time.perf_counter()
    core.warm()
    return core, {
        "load_seconds": round(loaded - start, 2),
        "warm_seconds": round(time.perf_counter() - loaded, 2),
        "memory_mib": round(resident_mib() - before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--large", action="store_true", help="a network ten times the default's")
    parser.add_argument("--release", type=Path, help="a release to load instead")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        release: OpenRelease
        if arguments.release is not None:
            release = Release.open(arguments.release)
        else:
            release = write_release(
                Path(folder), arguments.items, 20_000, rng, large=arguments.large
            )
        core, loading = load(release, arguments.precision)
        entries = make_entries(128, core.items, rng)
        results = [
            measure(core, entries, size, arguments.seconds, new=new, others=others)
            for size in SIZES
            for new in (False, True)
            for others in (None, Others())
        ]
    report = {
        "what": "RankingCore.run, check included, one thread",
        "command": command(),
        "machine": machine(),
        "torch": torch.__version__,
        "precision": arguments.precision,
        "items": core.items,
        "candidates": CANDIDATES,
        "history": HISTORY,
        "loading": loading,
        "results": results,
    }
    if arguments.out.exists():
        report["before"] = json.loads(arguments.out.read_text()).get("before", [])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
