"""What codes of 8 and of 4 bits cost a search: the same lists, vectors and users, in turns.

    python -m benchmarks.retrieval.codes [--release RELEASE] [--name NAME]

Builds an index of each kind over the two-tower vectors of a release as training does, for recall
.96 of the exact best 500, and asks both for held-back users in batches of three, as a busy cluster
has them. `cold` is with other work in the processor's caches before each batch. Microseconds of one
thread, the median of a round's batches; each round asks all kinds. Writes
benchmarks/results/retrieval/codes.json, under NAME beside other runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.retrieval.core import entries_of
from corerec.release import Release
from corerec.retrieval import RetrievalCore
from corerec.retrieval.build import build_index, load_index, save_index
from corerec.retrieval.index import ItemIndex
from corerec.retrieval.sources import VectorSource
from corerec.retrieval.stores.spec import IndexSpec, Kind
from corerec.stages import Float32s

sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))
from report import ROOT, command, machine

RESULT = ROOT / "benchmarks/results/retrieval/codes.json"
KINDS: tuple[tuple[Kind, float], ...] = (("ivf-int8-refine", 1.05), ("ivf-int4-refine", 1.35))
K, BATCH, ROUNDS, OTHER_BYTES = 500, 3, 5, 16 << 20


def micros(index: ItemIndex, queries: Float32s, *, cold: bool) -> float:
    """Return the median time of a query, in batches."""
    other, found = np.ones(OTHER_BYTES, np.uint8), []
    for start in range(0, len(queries) - BATCH + 1, BATCH):
        if cold:
            other += 1
        began = time.perf_counter()
        index.search(queries[start : start + BATCH], K)
        found.append((time.perf_counter() - began) / BATCH * 1e6)
    return float(np.median(found))


def main() -> None:
    """Measure both kinds and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, default=ROOT / ".bench/releases-1m")
    parser.add_argument("--name", default="trained by default")
    arguments = parser.parse_args()
    release = Release.open(arguments.release)
    source = RetrievalCore.load(release).sources[0]
    assert isinstance(source, VectorSource)
    queries = np.asarray(source.encode([entry.user for entry in entries_of(release)]), np.float32)
    asked, tuned = queries[::2], queries[1::2]
    kinds: dict[str, tuple[ItemIndex, list[tuple[float, float]]]] = {}
    for kind, factor in KINDS:
        spec = IndexSpec(kind=kind, refine_factor=factor)
        built = build_index(source.vectors, model_id="", spec=spec, queries=tuned)
        with tempfile.TemporaryDirectory() as folder:  # as it is served: laid out at once
            file, header = Path(folder) / "index.faiss", Path(folder) / "index.json"
            save_index(built, file, header, with_vectors=False)
            served = load_index(file, header, vectors=source.vectors)
        served.search(asked[:BATCH], K)
        kinds[kind] = (served, [])
    for _ in range(ROUNDS):
        for index, times in kinds.values():
            times.append((micros(index, asked, cold=False), micros(index, asked, cold=True)))
    rows: list[dict[str, Any]] = []
    table = Table("kind", "recall", "lists read", "refine", "us hot", "us cold", "index MiB")
    for kind, (index, times) in kinds.items():
        info, (hot, cold) = index.info, np.median(times, axis=0)
        row = {
            "kind": kind,
            "nlist": info.nlist,
            "nprobe": info.nprobe,
            "refine_factor": info.refine_factor,
            "recall": round(info.recall, 4),
            "hot_micros": round(float(hot), 1),
            "cold_micros": round(float(cold), 1),
            "rounds": [[round(value, 1) for value in both] for both in times],
            "index_bytes": index.store.held().index,
        }
        rows.append(row)
        read = f"{info.nprobe} of {info.nlist}"
        size = f"{row['index_bytes'] / 2**20:.0f}"
        table.add_row(kind, f"{info.recall:.4f}", read, f"{info.refine_factor:.3g}",
                      f"{hot:.0f}", f"{cold:.0f}", size)  # fmt: skip
    Console().print(table)
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    report[arguments.name] = {
        "items": len(source.vectors),
        "dim": source.vectors.shape[1],
        "k": K,
        "batch": BATCH,
        "users": len(asked),
        "kinds": rows,
        "machine": machine(),
        "command": command(),
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
