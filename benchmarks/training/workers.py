"""Compares one worker's two-tower with that of several, beside the spread of seeds.

    python benchmarks/training/workers.py [--workers 2] [--seeds 0,1,2] [--out benchmarks/results]

A world is generated; every training has the same batches an epoch, the same steps and learning
rate. Written to `training/workers.json`: recall@100 on the validation slice, and how fast the
steps went (of one worker with one thread, and of the workers together, each with one thread).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quality"))

from report import command, machine

from corerec.data.dataset import load_dataset
from corerec.data.generate import generate
from corerec.distributed.session import ray_session
from corerec.distributed.train import WorkersConfig, fit_tower
from corerec.engines.two_tower import TwoTower
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.parts import Parts, prepare
from corerec.pipelines.tower import recall, train_tower, validation_cases

WORLD = {"users": 1_500, "items": 1_500, "interactions": 60_000, "seed": 0}


def config_of(seed: int) -> TrainConfig:
    """Return a training of four epochs that takes seconds."""
    own = TrainConfig(seed=seed, threads=1, device="cpu")
    return replace(
        own,
        two_tower=replace(own.two_tower, dim=32, hidden=64),
        two_tower_fit=replace(own.two_tower_fit, epochs=4, max_examples=10**9, patience=4),
    )


def described(model: TwoTower, parts: Parts, config: TrainConfig, workers: int) -> dict[str, Any]:
    """Return what one training gave."""
    history = model.history
    assert history is not None, "a model that was fitted has a history"
    cases, k = validation_cases(parts, config), config.evaluation.tower_recall_at
    return {
        "workers": workers,
        "seed": config.seed,
        f"recall@{k}": recall(cases, parts, model, k),
        "epochs": history.epochs,
        "best_epoch": history.best_epoch + 1,
        "seconds": history.seconds,
        "samples_per_second": history.examples / history.seconds,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    """Run all trainings and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    seeds = [int(text) for text in given.seeds.split(",")]
    torch.set_num_threads(1)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "world"
        generate(data, **WORLD)
        parts = prepare(load_dataset(data), config_of(0))
        for seed in seeds:
            config = config_of(seed)
            runs.append(described(train_tower(parts, config), parts, config, 1))
            print(json.dumps({k: v for k, v in runs[-1].items() if k != "epochs"}), flush=True)
        settings = WorkersConfig(workers=given.workers, threads=given.workers)
        with ray_session(given.workers, uses=("train",)):
            for seed in seeds:
                config, checkpoint = config_of(seed), Path(folder) / f"{seed}.safetensors"
                fit_tower(data, config, checkpoint, settings)
                model = train_tower(parts, config, checkpoint=checkpoint)
                runs.append(described(model, parts, config, given.workers))
                print(json.dumps({k: v for k, v in runs[-1].items() if k != "epochs"}), flush=True)
    write(runs, given.workers, given.out)


def write(runs: list[dict[str, Any]], workers: int, out: Path) -> None:
    """Write the report and print its middle."""
    groups = {
        count: [own["recall@100"] for own in runs if own["workers"] == count]
        for count in (1, workers)
    }
    rates = {
        count: statistics.median(o["samples_per_second"] for o in runs if o["workers"] == count)
        for count in (1, workers)
    }
    report = {
        "name": "workers",
        "data": f"generated world {WORLD}",
        "protocol": "two-tower, recall@100 over all unseen items on the validation slice",
        "mean": {str(count): statistics.fmean(own) for count, own in groups.items()},
        "spread": {str(count): max(own) - min(own) for count, own in groups.items()},
        "difference_of_means": statistics.fmean(groups[workers]) - statistics.fmean(groups[1]),
        "samples_per_second": {str(count): rate for count, rate in rates.items()},
        "speedup": rates[workers] / rates[1],
        "runs": runs,
        "config": asdict(config_of(0)),
        "machine": machine(),
        "command": command(),
    }
    path = out / "training" / "workers.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({k: report[k] for k in ("mean", "spread", "speedup")}, indent=2))


if __name__ == "__main__":
    main()
