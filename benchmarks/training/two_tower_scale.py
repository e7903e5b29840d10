"""Trains two-towers on generated interactions, beside a plain loop: speed and peak memory.

Each contender runs in a process of its own, so that its peak is its own:

- sequences: TwoTower on arrays, attention over the history
- bags: TwoTower on arrays, the history as a bag
- dataset: TwoTower on a data set folder, a Parquet file of all interactions
- plain: nn.Embedding with dense gradients, torch.optim.Adam, in-batch softmax; users are ids

    python benchmarks/training/two_tower_scale.py [--events 20000000] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import nn

from corerec.data import load_dataset
from corerec.engines import TwoTower
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quality"))
from report import ROOT, command, machine

LIMIT_GIB = 8.0
DIM, BATCH = 64, 3200
CONTENDERS = ("sequences", "bags", "dataset", "plain")


def generate(users: int, items: int, events: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return user rows and item numbers (E,) int32: people of 500 tastes, popular items first."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0, 1, users)
    who = rng.choice(users, events, p=activity / activity.sum()).astype(np.int32)
    drawn = (items * rng.random(events, np.float32) ** 3).astype(np.int32)
    taste = (np.arange(users) % 500).astype(np.int64) * (items // 500)
    # Two of three events are of the user's taste: popular items, moved to the taste's own part.
    own = rng.random(events, np.float32) < 2 / 3
    what = np.where(own, (drawn // 20 + taste[who]) % items, drawn)
    return who, what.astype(np.int32)


def write_dataset(folder: Path, users: int, items: int, events: int) -> None:
    """Write the interactions as a data set folder."""
    who, what = generate(users, items, events)
    at = 1_600_000_000 + np.arange(events, dtype=np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    table = pl.DataFrame({"user_id": who, "item_id": what, "at": at})
    table.write_parquet(folder / "interactions.parquet")
    pl.DataFrame({"item_id": np.arange(items)}).write_parquet(folder / "items.parquet")
    (folder / "dataset.toml").write_text(
        'format = 1\nname = "generated"\n[interactions]\nfile = "interactions.parquet"\n'
        'time = "at"\n[items]\nfile = "items.parquet"\n'
    )


def train_ours(data: Any, history: str, examples: int) -> dict[str, float]:
    """Return samples a second of TwoTower on `examples` positives."""
    config = TwoTowerConfig(dim=DIM, history=history, id_dropout=0.1)  # type: ignore[arg-type]
    fit = TwoTowerFitConfig(epochs=1, max_examples=examples, batch_windows=BATCH // 50)
    model = TwoTower(config=config, training=fit, device="cpu").fit(data)
    found = model.history
    assert found is not None
    return {
        "examples": found.examples,
        "seconds": found.seconds,
        "samples_per_second": found.examples / found.seconds,
        "loss": found.epochs[-1]["loss"],
    }


def train_plain(who: np.ndarray, what: np.ndarray, users: int, items: int, steps: int) -> Any:
    """Return samples a second of the loop that one writes first."""
    torch.manual_seed(0)
    tables = nn.ModuleList([nn.Embedding(users, DIM), nn.Embedding(items, DIM)])
    optimizer = torch.optim.Adam(tables.parameters(), lr=3e-3)
    order = np.random.default_rng(1).permutation(len(who))[: steps * BATCH]
    target, started = torch.arange(BATCH), time.perf_counter()
    for rows in np.split(order, steps):
        user = F.normalize(tables[0](torch.from_numpy(who[rows]).long()), dim=1)
        item = F.normalize(tables[1](torch.from_numpy(what[rows]).long()), dim=1)
        loss = F.cross_entropy(user @ item.T / 0.05, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - started
    done = steps * BATCH
    return {"examples": done, "seconds": seconds, "samples_per_second": done / seconds}


def contend(args: argparse.Namespace) -> dict[str, Any]:
    """Run one contender and return what it took, its process's peak memory with it."""
    started = time.perf_counter()
    if args.contender == "dataset":
        found = train_ours(load_dataset(args.data), "attention", args.examples)
    else:
        who, what = generate(args.users, args.items, args.events)
        if args.contender == "plain":
            found = train_plain(who, what, args.users, args.items, args.plain_steps)
        else:
            data = Sequences.of(who, what, user_count=args.users, item_count=args.items)
            del who, what
            history = "mean" if args.contender == "bags" else "attention"
            found = train_ours(data, history, args.examples)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found | {"wall_seconds": time.perf_counter() - started, "peak_gib": round(peak, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--examples", type=int, default=600_000, help="positives to train on")
    parser.add_argument("--plain-steps", type=int, default=30)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(contend(args)))
        return
    sizes = {"users": args.users, "items": args.items, "events": args.events}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "data"
        for name in args.contenders.split(","):
            if name == "dataset":
                write_dataset(folder, args.users, args.items, args.events)
            line = [sys.executable, __file__, "--contender", name, "--data", str(folder)]
            for key in ("users", "items", "events", "examples"):
                line += [f"--{key}", str(getattr(args, key))]
            line += ["--plain-steps", str(args.plain_steps)]
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            results[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, results[name], flush=True)
    report = {
        "name": "two_tower_scale",
        "data": sizes,
        "model": {"dim": DIM, "positives_a_step": BATCH, "negatives": 1024},
        "limit_gib": LIMIT_GIB,
        "within_limit": {n: r["peak_gib"] <= LIMIT_GIB for n, r in results.items()},
        "results": results,
        "machine": machine(),
        "command": command(),
    }
    if "plain" in results:
        plain = results["plain"]["samples_per_second"]
        report["times_the_plain_loop"] = {
            name: round(found["samples_per_second"] / plain, 2)
            for name, found in results.items()
            if name != "plain"
        }
    path = args.out / "training" / "two_tower_scale.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
