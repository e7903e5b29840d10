"""Measures reranking on one core: MMR and DPP over 100 items, and the whole RerankCore.

    python -m benchmarks.rerank [--items 1000000] [--seconds 1]

A request is 100 candidates of which 10 are shown, under the rules that training puts into a
release. Vectors have 64 columns and clusters, as trained ones do. Times are CPU time of the
thread. Writes benchmarks/results/rerank.json; `--before FILE` keeps an older commit's beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.quality.report import command, machine
from corerec.release.catalogue import Catalogue
from corerec.rerank import DEFAULT_RULES, RerankCore, RerankRules, choosing, load_rules, plain
from corerec.rerank.choosing import DPP, MMR
from corerec.stages import Candidates, RerankEntry, Source

RESULT = Path(__file__).parent / "results" / "rerank.json"
CANDIDATES, SHOWN, WIDTH = 100, 10, 64
NOW = 1_700_000_000_000_000
DAY = 86_400_000_000


def make_catalogue(items: int, rng: np.random.Generator) -> Catalogue:
    """Return items with 100 categories and a creator for every 20."""
    creators = np.minimum(rng.zipf(1.5, items), items // 20).astype(str)
    return Catalogue(
        pl.DataFrame(
            {
                "item_id": np.arange(items).astype(str),
                "title": [f"The title of item {i}" for i in range(items)],
                "category": rng.integers(0, 100, items).astype(str),
                "creator": creators,
                "born_micros": NOW - rng.integers(0, 1000, items) * DAY,
            }
        )
    )


def make_vectors(items: int, rng: np.random.Generator) -> np.ndarray:
    """Return L2-normalised vectors (items, WIDTH) around 1,000 centres."""
    centres = rng.standard_normal((1000, WIDTH), np.float32)
    vectors = rng.standard_normal((items, WIDTH), np.float32)
    vectors += centres[rng.integers(0, 1000, items)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def make_entries(count: int, items: int, rng: np.random.Generator) -> list[RerankEntry]:
    """Return requests for different candidates."""
    return [
        RerankEntry(
            candidates=Candidates(
                numbers=rng.choice(items, CANDIDATES, replace=False).astype(np.int64),
                scores=np.sort(rng.random(CANDIDATES, np.float32))[::-1].copy(),
                sources=np.full(CANDIDATES, Source.TWO_TOWER, np.uint8),
            ),
            k=SHOWN,
            now=NOW,
        )
        for _ in range(count)
    ]


def micros(work: Callable[[int], Any], seconds: float) -> dict[str, float]:
    """Return the CPU time of one call: the median, and the best tenth. `work` takes a counter."""
    for turn in range(20):
        work(turn)
    times, turn, end = [], 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.thread_time_ns()
        work(turn)
        times.append(time.thread_time_ns() - start)
        turn += 1
    return {
        "median_micros": round(float(np.median(times)) / 1000, 1),
        "best_tenth_micros": round(float(np.quantile(times, 0.1)) / 1000, 1),
    }


def measure_choices(items: int, seconds: float) -> dict[str, Any]:
    """Return what choosing costs by method, list length and form, over a table of `items`."""
    rng = np.random.default_rng(0)
    table = make_vectors(items, rng)
    codes = rng.integers(0, 1000, items).astype(np.int32)
    drawn = [rng.choice(items, CANDIDATES, replace=False) for _ in range(256)]
    scores = np.sort(rng.random((256, CANDIDATES)))[:, ::-1].copy()
    none, found = np.empty(0, np.int64), {}
    for method, name in ((MMR, "mmr"), (DPP, "dpp")):
        for k in (SHOWN, CANDIDATES):
            for form, choose in (("compiled", choosing.choose), ("plain", plain.choose)):

                def work(turn: int, choose: Any = choose, method: int = method, k: int = k) -> None:
                    own, numbers = scores[turn % 256], drawn[turn % 256]
                    choose(own, numbers, none, table, codes, codes, (0, 3), method, 0.9, k, False)

                found[f"{name}, {k} of {CANDIDATES}, {form}"] = micros(work, seconds)
    return found


def measure_core(
    core: RerankCore, entries: Sequence[RerankEntry], size: int, seconds: float
) -> dict[str, float]:
    """Return the CPU time of a request in batches of `size`."""
    batches = [entries[i : i + size] for i in range(0, len(entries) - size + 1, size)]
    found = micros(lambda turn: core.run(batches[turn % len(batches)]), seconds)
    result = core.run(batches[0])[0]
    steps = {f"{name}_micros": value for name, value in result.timings.items()}  # type: ignore[union-attr]
    return {name: round(value / size, 1) for name, value in found.items()} | steps


def measure_cores(
    items: int, rules: dict[str, RerankRules], seconds: float
) -> dict[str, dict[str, Any]]:
    """Return what a request costs by rules, explanation and batch."""
    rng = np.random.default_rng(0)
    catalogue, vectors = make_catalogue(items, rng), make_vectors(items, rng)
    entries = make_entries(256, items, rng)
    explained = [replace(entry, explain=True) for entry in entries]
    found: dict[str, dict[str, Any]] = {}
    for name, some in rules.items():
        core = RerankCore(release="b", catalogue=catalogue, vectors=vectors, rules=some)
        core.warm()
        found[name] = {
            f"batch of {size}": measure_core(core, entries, size, seconds) for size in (1, 8, 32)
        }
        found[name]["batch of 8, explained"] = measure_core(core, explained, 8, seconds)
        found[name]["check"] = micros(lambda t, core=core: core.check(entries[t % 256]), seconds)  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--before", type=Path, help="the report of an older commit, kept as it is")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    default = load_rules(DEFAULT_RULES)
    report: dict[str, Any] = {
        "what": f"CPU time of one thread; {CANDIDATES} candidates, {SHOWN} shown, "
        f"{WIDTH} columns, {arguments.items} items",
        "command": command(),
        "machine": machine(),
    }
    dpp = replace(default, diversity=replace(default.diversity, method="dpp"))
    report["choices"] = measure_choices(arguments.items, arguments.seconds)
    report["core"] = measure_cores(
        arguments.items, {"default": default, "with dpp": dpp}, arguments.seconds
    )
    if arguments.before:
        report["before"] = json.loads(arguments.before.read_text())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
