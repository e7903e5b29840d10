"""Searches of a trained two-tower's items by CoreRec's indexes and other libraries, side by side.

Each contender is built once (kept under --work), set to the narrowest search that reaches the
recall on 1,000 queries of held-out users, and then all are timed in turns in one process: single
queries on one thread, batches of 512 on two. With --large a process each, since they do not fit
memory together.

    python benchmarks/retrieval/index_speed.py [--large] [--filters] [--build-only]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quality"))
import torch
from peers import THREADS, Contender, Faiss, Float32s, Hnswlib, Int64s, Ours, Scann, Usearch
from report import ROOT, command, machine
from vectors import WORK, load

from corerec.retrieval.choose.truth import exact_best, recalls

K, RECALL, QUERIES, BATCH, ROUNDS, SINGLES = 500, 0.95, 1000, 512, 5, 200
PROBES = (4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 40, 48, 64, 96, 128)
DEPTHS = (500, 600, 700, 800, 900, 1000, 1200, 1400)


def contenders(large: bool) -> dict[str, Contender]:
    """Return all contenders by name; graphs over ten million items take hours and are left out."""
    lists = 8192 if large else 4096
    own = lists if large else lists // 2
    found: list[Contender] = [
        Ours("CoreRec ivf-int8", "ivf-int8-refine", nlist=own, refine_factor=1.02),
        Faiss(f"FAISS IVF{lists},SQ8", f"IVF{lists},SQ8", PROBES),
        Faiss(f"FAISS IVF{lists},PQ64x4fs + refine", f"IVF{lists},PQ64x4fs", PROBES, 1.5),
        Scann(lists),
    ]
    if not large:
        found += [
            Scann(lists // 2),
            Faiss("FAISS HNSW16", "HNSW16", DEPTHS),
            Hnswlib(),
            Usearch(),
        ]
    return {own.name: own for own in found}


def ready(own: Contender, folder: Path, vectors: Float32s) -> float:
    """Load a contender, built and saved first where it was not; return the seconds of the build."""
    stem = "".join(c if c.isalnum() else "-" for c in own.name).lower()
    path, told = folder / f"{stem}.index", folder / f"{stem}.seconds"
    if not told.exists():
        started = time.perf_counter()
        own.build(vectors)
        seconds = time.perf_counter() - started
        own.save(path)
        told.write_text(str(round(seconds, 1)))
        print(f"{own.name}: built in {seconds:.0f} s", flush=True)
    own.load(path, vectors)
    return float(told.read_text())


def tuned(own: Contender, queries: Float32s, truth: Int64s) -> dict[str, Any]:
    """Set the fastest search that reaches the recall, by a first look; return what it is."""
    best: dict[str, Any] | None = None
    top: dict[str, Any] = {"recall": 0.0}
    for setting in own.settings:
        own.set(setting, K)
        found = float(recalls(own.many(queries, K), truth).mean())
        one = {"setting": setting, "recall": round(found, 4)}
        top = max(top, one, key=lambda seen: seen["recall"])
        if found < RECALL:
            continue
        started = time.perf_counter()
        own.many(queries, K)
        one["look_seconds"] = time.perf_counter() - started
        if best is None or one["look_seconds"] < best["look_seconds"]:
            best = one
        if not isinstance(setting, tuple) or setting[0] > 1.5 * best["setting"][0]:
            break
    chosen = best or top
    own.set(chosen["setting"], K)
    return {"setting": chosen["setting"], "recall": chosen["recall"], "reached": best is not None}


def timed(own: Contender, queries: Float32s, turn: int) -> tuple[list[float], float]:
    """Return milliseconds of single queries, and queries a second of batches, of one turn."""
    singles = []
    for i in range(SINGLES):
        query = queries[(turn * SINGLES + i) % len(queries)]
        started = time.perf_counter()
        own.one(query, K)
        singles.append(1000 * (time.perf_counter() - started))
    rates = []
    for i in range(2):
        first = ((2 * turn + i) * BATCH) % (len(queries) - BATCH)
        started = time.perf_counter()
        own.many(queries[first : first + BATCH], K)
        rates.append(BATCH / (time.perf_counter() - started))
    return singles, max(rates)


def compare(
    names: list[str], every: dict[str, Contender], work: Path, large: bool, build_only: bool
) -> dict[str, Any]:
    """Return what each named contender did; their turns alternate."""
    vectors, queries = load(work, large=large)
    if not large:
        vectors = np.array(vectors)
    folder = work / ("built-10m" if large else "built-1m")
    folder.mkdir(exist_ok=True)
    faiss.omp_set_num_threads(THREADS)
    order = np.random.default_rng(1).permutation(len(queries))
    asked, timing = queries[order[:QUERIES]], queries[order[QUERIES:]]
    truth_file = folder / "truth.npy"
    if not truth_file.exists():
        np.save(truth_file, exact_best(vectors, asked, K, "ip"))
    truth, results = np.load(truth_file), {}
    for name in names:
        ready(every[name], folder, vectors)
        if build_only:
            continue
        results[name] = tuned(every[name], asked, truth)
        index, beside = every[name].nbytes
        results[name] |= {"index_bytes": index, "vector_bytes": beside}
    if build_only:
        return {}
    singles: dict[str, list[float]] = {name: [] for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(ROUNDS + 1):
        for name in names:
            ones, rate = timed(every[name], timing, turn)
            if turn:  # the first is to warm up
                singles[name] += ones
                rates[name].append(rate)
    for name in names:
        results[name] |= {
            "single_p50_ms": round(statistics.median(singles[name]), 4),
            "single_p99_ms": round(float(np.quantile(singles[name], 0.99)), 4),
            "batch_per_second": round(statistics.median(rates[name])),
            "batch_per_second_best": round(max(rates[name])),
        }
    return results


def filtered(own: Ours, vectors: Float32s, queries: Float32s) -> list[dict[str, Any]]:
    """Return recall against exact filtered search and latency, for filters of several widths.

    Each is tried twice: items at random, and whole regions of the space, as a category is.
    """
    torch.set_num_threads(1)  # as services do: the threads are for queries
    rng, found = np.random.default_rng(2), []
    region = vectors @ rng.normal(size=vectors.shape[1]).astype(np.float32)
    for share in (1.0, 0.5, 0.05, 0.005):
        for kind in ("random", "region") if share < 1 else ("none",):
            values = rng.random(len(vectors)) if kind == "random" else region
            mask = values >= np.quantile(values, 1 - share) if share < 1 else None
            rows = np.flatnonzero(mask) if mask is not None else np.arange(len(vectors))
            truth = rows[exact_best(np.ascontiguousarray(vectors[rows]), queries[:300], K, "ip")]
            recall = float(recalls(own.store.search(queries[:300], K, mask)[0], truth).mean())
            faiss.omp_set_num_threads(1)
            taken = []
            for query in queries[300:500]:
                started = time.perf_counter()
                own.store.search(query[None], K, mask)
                taken.append(1000 * (time.perf_counter() - started))
            faiss.omp_set_num_threads(THREADS)
            started = time.perf_counter()
            own.store.search(queries[:BATCH], K, mask)
            rate = BATCH / (time.perf_counter() - started)
            found.append(
                {
                    "share": share,
                    "kind": kind,
                    "allowed": len(rows),
                    "recall": round(recall, 4),
                    "single_p50_ms": round(statistics.median(taken), 4),
                    "batch_per_second": round(rate),
                }
            )
            print(found[-1], flush=True)
    return found


def picture(results: dict[str, Any], path: Path, title: str) -> None:
    """Draw each contender's two speeds as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted(results, key=lambda name: results[name]["single_p50_ms"])
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 0.45 * len(names) + 1.5))
    colours = ["tab:blue" if name.startswith("CoreRec") else "tab:gray" for name in names]
    for axis, key, label in (
        (left, "single_p50_ms", "one query alone, one thread: median ms"),
        (right, "batch_per_second", f"batches of {BATCH}, two threads: queries a second"),
    ):
        bars = axis.barh(names, [results[name][key] for name in names], color=colours)
        axis.bar_label(bars, padding=3, fmt="%.3g" if key == "single_p50_ms" else "{:,.0f}")
        axis.invert_yaxis()
        axis.set_xlabel(label)
        axis.margins(x=0.18)
    right.set_yticklabels([])
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--large", action="store_true", help="ten million items")
    parser.add_argument("--only", help="contenders, semicolons between")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--filters", action="store_true", help="filters instead of contenders")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    args = parser.parse_args()
    every = contenders(args.large)
    names = args.only.split(";") if args.only else list(every)
    folder = args.out / "retrieval"
    folder.mkdir(parents=True, exist_ok=True)
    size = "10m" if args.large else "1m"
    told = {
        "data": json.loads((args.work / "training.json").read_text()) | {"dim": 64},
        "k": K,
        "recall": RECALL,
        "batch": BATCH,
        "threads": THREADS,
        "machine": machine(),
        "command": command(),
    }
    if args.filters:
        vectors, queries = load(args.work, large=args.large)
        own = every["CoreRec ivf-int8"]
        assert isinstance(own, Ours)
        ready(own, args.work / f"built-{size}", vectors)
        tuning = queries[np.random.default_rng(1).permutation(len(queries))[:QUERIES]]
        told["tuned"] = tuned(own, tuning, np.load(args.work / f"built-{size}" / "truth.npy"))
        values = {"name": f"filters_{size}"} | told
        values["results"] = filtered(own, np.asarray(vectors), queries[-512:])
        (folder / f"filters_{size}.json").write_text(json.dumps(values, indent=2) + "\n")
        return
    if args.large and not args.alone:
        results = {}
        for name in names:
            line = [sys.executable, __file__, "--large", "--alone", "--only", name]
            line += ["--work", str(args.work), "--out", str(args.out)]
            line += ["--build-only"] * args.build_only
            done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
            results |= json.loads(done.stdout.splitlines()[-1])
            print(json.dumps(results.get(name)), flush=True)
    else:
        results = compare(names, every, args.work, args.large, args.build_only)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of KiB
        if args.alone:
            own_peak = {name: own | {"peak_gib": round(peak, 2)} for name, own in results.items()}
            print(json.dumps(own_peak))
            return
    if args.build_only:
        return
    for name, own in results.items():
        print(f"{name:38s} {own}")
    values = {"name": f"index_speed_{size}"} | told | {"results": results}
    (folder / f"index_speed_{size}.json").write_text(json.dumps(values, indent=2) + "\n")
    items = "10,000,000" if args.large else "1,000,000"
    title = f"{items} items x 64, {K} results, recall >= {RECALL}"
    picture(results, folder / f"index_speed_{size}.png", title)


if __name__ == "__main__":
    main()
