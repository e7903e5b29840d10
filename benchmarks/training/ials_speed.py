"""How fast iALS trains beside `implicit`: same data, factors, iterations, threads and machine.

Each measurement is a process of its own, so that each has its own peak memory; the libraries take
turns. `implicit` gets a ready sparse matrix; corerec's time holds the building of its own.

    python benchmarks/training/ials_speed.py [--rounds 3] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks/quality"))

from ncf_data import read_ncf  # noqa: E402
from report import command, machine, peak_memory_bytes, reset_peak_memory  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from corerec.cf_engine import (  # noqa: E402
    IalsFitConfig,
    MatrixFactorization,
    MatrixFactorizationConfig,
)
from corerec.engines.sequences import Sequences  # noqa: E402
from corerec.evaluation.metrics import Float64s  # noqa: E402
from corerec.evaluation.ranked import Score, full_ranking, scorer  # noqa: E402

LIBRARIES = ("corerec", "implicit")
CASES = {
    "ml-1m-64": {"k": 64, "iterations": 10},
    "ml-1m-192": {"k": 192, "iterations": 10},
    "generated-20m": {"k": 64, "iterations": 4},
}
UNOBSERVED, REGULARISATION = 0.1, 1.0
MEASURED_USERS = 3000


def generated(events: int = 20_000_000, users: int = 140_000, items: int = 26_000) -> Sequences:
    """Return events of users who each like two of 100 shelves, items by a power law within."""
    rng = np.random.default_rng(0)
    activity = rng.lognormal(0.0, 1.0, users)
    counts = np.maximum(5, (events * activity / activity.sum()).astype(np.int64))
    row = np.repeat(np.arange(users, dtype=np.int32), counts)
    likes = rng.integers(100, size=(users, 2))
    shelf = likes[row, rng.integers(2, size=len(row))]
    any_shelf = rng.random(len(row)) < 0.2
    shelf[any_shelf] = rng.integers(100, size=int(any_shelf.sum()))
    size = items // 100
    place = (size ** rng.random(len(row), np.float32)).astype(np.int32) - 1  # log-uniform
    return Sequences.of(row, shelf * size + place, user_count=users, item_count=items)


def halves(data: Sequences) -> tuple[Sequences, Sequences]:
    """Return training events and, for some users, one item they do not have in training."""
    rng = np.random.default_rng(1)
    counts = np.diff(data.offsets)
    rows = np.sort(rng.choice(np.flatnonzero(counts > 1), MEASURED_USERS, replace=False))
    right = data.items[data.offsets[rows] + rng.integers(counts[rows])]
    hidden = np.full(data.user_count, -1)
    hidden[rows] = right
    kept = data.items != np.repeat(hidden, counts)
    sizes = {"user_count": data.user_count, "item_count": data.item_count}
    return (
        Sequences.of(data.users[kept], data.items[kept], **sizes),
        Sequences.of(rows, right, **sizes),
    )


def _clocks() -> Float64s:
    """Return the seconds of the wall and those that all threads have computed."""
    return np.array([time.perf_counter(), time.process_time()])


def ours(train: Sequences, k: int, iterations: int) -> tuple[Score, Float64s]:
    """Return the scores of our model and its clocks, the compiler's left out."""
    config = MatrixFactorizationConfig(
        k=k, regularisation=REGULARISATION, unobserved_weight=UNOBSERVED, frequency_power=0
    )
    tiny = Sequences.of(np.arange(9) // 3, np.arange(9) % 4)
    MatrixFactorization(config=config, training=IalsFitConfig(epochs=1)).fit(tiny)
    start = _clocks()
    model = MatrixFactorization(config=config, training=IalsFitConfig(epochs=iterations))
    model.fit(train)
    return scorer(model, train), _clocks() - start


def theirs(train: Sequences, k: int, iterations: int) -> tuple[Score, Float64s]:
    """Return the scores and clocks of implicit's conjugate gradients on the same objective."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(
        (np.ones(len(train), np.float32), train.items.astype(np.int32), train.offsets),
        shape=(train.user_count, train.item_count),
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1
    model = AlternatingLeastSquares(
        factors=k,
        # Ours divided by the weight of what is not observed: the same minimum, up to a scale.
        regularization=REGULARISATION / UNOBSERVED,
        alpha=1 / UNOBSERVED,
        iterations=iterations,
        num_threads=torch.get_num_threads(),
        random_state=0,
    )
    start = _clocks()
    model.fit(matrix, show_progress=False)
    took = _clocks() - start
    users, items = model.user_factors, model.item_factors.T
    return lambda rows: users[rows] @ items, took


def measure(library: str, case: str) -> dict[str, Any]:
    """Return what one training took and reached."""
    data = generated() if case.startswith("generated") else read_ncf().train
    train, test = halves(data)
    del data
    whole = peak_memory_bytes()
    reset_peak_memory()
    with threadpool_limits(1, "blas"):  # implicit asks for it: its threads are above BLAS
        score, (seconds, spent) = {"corerec": ours, "implicit": theirs}[library](
            train, **CASES[case]
        )
    peak = peak_memory_bytes()
    found = full_ranking(score, test, train, ks=(10,))
    return {
        "seconds": float(seconds),
        "core_seconds": float(spent),
        "iterations_per_second": CASES[case]["iterations"] / float(seconds),
        "interactions_per_second": CASES[case]["iterations"] * len(train) / float(seconds),
        "interactions": len(train),
        "peak_memory_bytes": peak,
        "peak_with_data_bytes": max(peak, whole),
        "ndcg@10": found["ndcg@10"],
        "threads": torch.get_num_threads(),
    }


def compare(case: str, rounds: int) -> dict[str, Any]:
    """Return the median run of each library, each in `rounds` processes, taking turns."""
    runs: dict[str, list[dict[str, Any]]] = {library: [] for library in LIBRARIES}
    for _ in range(rounds):
        for library in LIBRARIES:
            line = [sys.executable, __file__, "--one", library, case]
            done = subprocess.run(line, check=True, capture_output=True, text=True)
            runs[library].append(json.loads(done.stdout.splitlines()[-1]))
            print(case, library, runs[library][-1], flush=True)
    middle = {}
    for library, own in runs.items():
        seconds = statistics.median_low([run["seconds"] for run in own])
        middle[library] = next(run for run in own if run["seconds"] == seconds)
    ratios = {
        name: middle["implicit"][name] / middle["corerec"][name]
        for name in ("seconds", "core_seconds")
    }
    return {**CASES[case], **middle, "times_less_than_implicit": ratios, "runs": runs}


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    table = Table()
    for column in ("data, factors", "library", "it/s", "interactions/s", "peak GiB", "NDCG@10"):
        table.add_column(
            column, justify="left" if column in ("data, factors", "library") else "right"
        )
    for case, own in found.items():
        for library in LIBRARIES:
            run = own[library]
            table.add_row(
                case,
                library,
                f"{run['iterations_per_second']:.2f}",
                f"{run['interactions_per_second'] / 1e6:.1f} M",
                f"{run['peak_with_data_bytes'] / 2**30:.2f}",
                f"{run['ndcg@10']:.4f}",
            )
    Console().print(table)


def main() -> None:
    """Measure one library on one case, or all of them by turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "CASE"), help="measure this alone")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    path = args.out / "training/ials_speed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {}
    for case in args.cases.split(","):
        found[case] = compare(case, args.rounds)
        own = {"machine": machine(), "command": command(), "cases": found}
        path.write_text(json.dumps({"name": "ials_speed"} | own, indent=2) + "\n")
    show(found)


if __name__ == "__main__":
    main()
