"""Checks the harness itself: popularity and EASE on the NCF split against published figures.

EASE's regularisation is chosen on each user's newest training item. Both are closed forms, so one
seed says all.

    python benchmarks/quality/harness.py [--out benchmarks/results]
"""

from __future__ import annotations

import time
from typing import Any

from ncf_data import PROTOCOL, PUBLISHED, Split, hold_out, read_ncf
from report import Benchmark, SeedRun, main

from corerec.evaluation.baselines import EASE, TopPop
from corerec.evaluation.ranked import sampled_ranking, scorer

GRID = (500.0, 700.0, 1000.0, 1400.0, 2000.0)
TOLERANCE = 0.002


def measure(model: Any, split: Split) -> dict[str, float]:
    """Return hr@10 and ndcg@10 of a model over a split."""
    score = scorer(model, split.train)
    return sampled_ranking(score, split.right, split.negatives, rows=split.rows)


def run(seed: int) -> SeedRun:
    """Return both baselines' figures on the test part."""
    split = read_ncf()
    held = hold_out(split.train, seed)
    tried = {}
    for value in GRID:
        tried[value] = measure(EASE(value).fit(held.train), held)["ndcg@10"]
        print(f"EASE, regularisation {value:g}: validation ndcg@10 {tried[value]:.4f}", flush=True)
    chosen = max(tried, key=lambda value: tried[value])
    start = time.perf_counter()
    ease = EASE(chosen).fit(split.train)
    seconds = time.perf_counter() - start
    found = {"TopPop": measure(TopPop().fit(split.train), split), "EASE": measure(ease, split)}
    metrics = {f"{name} {m}": value for name, own in found.items() for m, value in own.items()}
    for name, value in metrics.items():
        model, metric = name.split()
        gap = value - PUBLISHED[model][metric]
        word = "within" if abs(gap) <= TOLERANCE else "NOT within"
        print(f"{name}: {gap:+.4f} from the published, {word} {TOLERANCE}")
    return SeedRun(
        seed=seed,
        metrics=metrics,
        epochs=1,
        best_epoch=1,
        seconds=seconds,
        samples_per_second=len(split.train) / seconds,
        more={"regularisation": chosen, "validation": {str(k): v for k, v in tried.items()}},
    )


if __name__ == "__main__":
    known = {f"{n} {m}": v for n in ("TopPop", "EASE") for m, v in PUBLISHED[n].items()}
    benchmark = Benchmark(
        name="harness",
        data="ml-1m, NCF split",
        protocol=PROTOCOL,
        published={"Dacrema et al., 2021, table 55": known},
        required={name: value - TOLERANCE for name, value in known.items()},
    )
    main(benchmark, run, {"grid": GRID, "tolerance": TOLERANCE}, seeds=(0,))
