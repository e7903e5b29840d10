"""What a search waits for while new vectors are merged into an index of a million.

    python benchmarks/retrieval/merge.py [--rows 1024]

The core's thread does a step of the merge, then a search, in turns: the worst case, where every
search finds a step under way and waits for all of it. A replica rests between steps; what its
answers pay is measured by benchmarks/live/merge.py. Beside it the same searches with nothing to
merge, and with a delta that is only searched. Vectors and queries are those of vectors.py. Writes
benchmarks/results/retrieval/merge.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))
from report import ROOT, command, machine
from vectors import load

from corerec.retrieval.build import build_index

RESULT = ROOT / "benchmarks/results/retrieval/merge.json"
K, EXCLUDED, CALL = 500, 50, 16


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return percentiles in microseconds."""
    micros = np.array(seconds) * 1e6
    found = {f"p{p:g}": round(float(np.percentile(micros, p)), 1) for p in (50, 95, 99)}
    return found | {"count": len(seconds)}


def main() -> None:
    """Measure and write the report."""
    arguments = argparse.ArgumentParser(description="searches during a merge")
    arguments.add_argument("--rows", type=int, default=1024, help="new items, all in the delta")
    arguments.add_argument("--rounds", type=int, default=20)
    given = arguments.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    items, queries = load()
    rng = np.random.default_rng(0)
    held = given.rows * given.rounds
    vectors = np.array(items[:-held])
    index = build_index(vectors, model_id="benchmark", queries=queries[:1000])
    excluded = [rng.integers(0, len(vectors), EXCLUDED)]

    def search() -> None:
        row = int(rng.integers(1000, len(queries)))
        index.search(queries[row : row + 1], K, excluded)

    def timed(work: Any) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    for _ in range(200):
        search()
    found: dict[str, list[float]] = {"nothing new": [], "delta": [], "merging": [], "steps": []}
    for turn in range(given.rounds):
        found["nothing new"] += [timed(search) for _ in range(100)]
        first = len(vectors) + turn * given.rows
        fresh = np.arange(first, first + given.rows, dtype=np.int64)
        for part in np.split(fresh, given.rows // CALL):
            index.upsert(part, np.array(items[part]))
        found["delta"] += [timed(search) for _ in range(100)]
        more = True
        while more:
            begin = time.perf_counter()
            more = index.maintain()
            found["steps"].append(time.perf_counter() - begin)
            search()
            found["merging"].append(time.perf_counter() - begin)
    results = {name: percentiles(own) for name, own in found.items()}
    p99 = {name: results[name]["p99"] for name in ("nothing new", "delta", "merging")}
    values = {
        "name": "merge",
        "what": f"one thread, one query at a time, k = {K}, microseconds",
        "items": len(vectors),
        "kind": index.info.kind,
        "rows": given.rows,
        "micros": results,
        "p99_ratio_merging": p99["merging"] / p99["nothing new"],
        "p99_ratio_delta": p99["delta"] / p99["nothing new"],
        "machine": machine(),
        "command": command(),
    }
    RESULT.write_text(json.dumps(values, indent=2) + "\n")
    print(json.dumps({k: v for k, v in values.items() if k != "machine"}, indent=1))


if __name__ == "__main__":
    main()
