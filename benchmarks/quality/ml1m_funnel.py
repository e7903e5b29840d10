"""Trains the funnel on MovieLens-1M, leave-one-out, full catalogue, seen filtered; writes JSON.

Protocol: the order of ml-1m.txt, each user's last item is the question, the one before it stops
training. Published beside it: Klenitskiy and Vasilev, RecSys 2023 (popularity NDCG@10 .0178).

    python benchmarks/quality/ml1m_funnel.py [--epochs 6] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml1m_data import ITEMS, USERS, shared_data, write_ml1m
from rich.console import Console

from corerec.pipelines.config import TrainConfig
from corerec.pipelines.progress import Steps
from corerec.pipelines.report import print_metrics
from corerec.pipelines.train import read_metrics, train_release

PUBLISHED_POPULARITY = 0.0178


def config(epochs: int, seed: int, threads: int) -> TrainConfig:
    """Return the training that the benchmark is about."""
    own = replace(TrainConfig.quality(), seed=seed, threads=threads)
    return replace(
        own,
        two_tower_fit=replace(own.two_tower_fit, epochs=epochs),
        evaluation=replace(own.evaluation, cases=USERS, tower_cases=USERS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--work", type=Path, help="keep data, checkpoints and release here")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    args = parser.parse_args()
    if not (shared_data() / "ml-1m").is_dir():
        raise SystemExit(
            f"{shared_data()}/ml-1m is not there; set COREREC_SHARED_DATA to its folder"
        )
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        write_ml1m(work / "data")
        console, start = Console(), time.perf_counter()
        steps = Steps(console)
        chosen = config(args.epochs, args.seed, args.threads)
        path = train_release(work / "data", work / "releases", chosen, steps=steps)
        metrics = dict(read_metrics(path))
        print_metrics(console, metrics, steps.costs)
        args.out.mkdir(parents=True, exist_ok=True)
        result = args.out / "ml1m_funnel.json"
        result.write_text(
            json.dumps(_result(metrics, time.perf_counter() - start), indent=2) + "\n"
        )
        console.print(f"written to {result}")


def _result(metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
    funnel, alone = metrics["funnel"]["ndcg@10"], metrics["retrieval_alone"]["ndcg@10"]
    return {
        "protocol": f"ml-1m.txt, leave-one-out, full ranking of {ITEMS}, seen filtered",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "seconds": round(seconds, 1),
        "checks": {
            "funnel_ndcg_above_retrieval_alone": funnel > alone,
            "funnel_ndcg_at_least_4x_popularity": funnel >= 4 * PUBLISHED_POPULARITY,
            "recall_500_at_least_0.75": metrics["retrieval"]["recall@500"] >= 0.75,
        },
        **metrics,
    }


if __name__ == "__main__":
    main()
