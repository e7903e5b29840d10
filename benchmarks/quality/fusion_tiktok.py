"""Fusion of id, image and audio on tiktok-mm: five strategies beside ids alone, full ranking.

Every strategy has the same two-tower, the same seeds and the same training, but for `id_dropout`:
ids alone are better without it, fusions with it. All that, the epoch of each run and the strategy
that is reported are chosen on validation; the test part is looked at once a run.

    python benchmarks/quality/fusion_tiktok.py [--seeds 0,1,2] [--work FOLDER]
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from report import Benchmark, SeedRun, parser, peak_memory_bytes, reset_peak_memory, write_report
from tiktok_data import TikTok, tiktok

from corerec.engines.sequences import Sequences
from corerec.engines.two_tower import TwoTower
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.evaluation.ranked import full_ranking, scorer
from corerec.multimodal import STRATEGIES, FusionOutput

IDS = "ids alone"
BENCHMARK = Benchmark(
    name="fusion_tiktok",
    data="tiktok-mm, 9,308 users, 6,710 videos",
    protocol="MMSSL's split, all items, training events filtered; epoch and strategy by validation",
    published={
        "MF-BPR": {"recall@20": 0.0346, "ndcg@20": 0.0130},
        "VBPR": {"recall@20": 0.0380, "ndcg@20": 0.0134},
        "LightGCN": {"recall@20": 0.0653, "ndcg@20": 0.0282},
        "MMSSL": {"recall@20": 0.0921, "ndcg@20": 0.0392},
    },
    required={"recall@20": 0.0653, "recall@20 above ids alone": 0.0},
    aim={"recall@20": 0.084},
)
CONFIG = TwoTowerConfig(
    dim=64, history="mean", history_length=650, bag_dropout=0.5, id_dropout=0.1,
    temperature=0.2, bias=True, fusion="concat", neighbours=10,
)  # fmt: skip
ALONE: dict[str, Any] = {"fusion": "sum", "neighbours": 0, "id_dropout": 0.0}
"""What ids alone have instead."""
TRAINING = TwoTowerFitConfig(
    epochs=14, max_examples=10**9, batch_users=512, learning_rate=0.01, batch_negatives=1024,
    uniform_negatives=1024, patience=4, precision="fp32",
)  # fmt: skip


def run(tiktok: TikTok, strategy: str, seed: int) -> dict[str, Any]:
    """Train one model and return what is known of it."""
    reset_peak_memory()
    alone = strategy == IDS
    data = replace(tiktok.data, vectors={}) if alone else tiktok.data
    config = replace(CONFIG, **(ALONE if alone else {"fusion": strategy}))
    model = TwoTower(config=config, training=TRAINING, seed=seed, device="cpu")

    def measure(model: TwoTower, relevant: Sequences, ks: tuple[int, ...]) -> dict[str, float]:
        return full_ranking(scorer(model, tiktok.train), relevant, tiktok.train, ks=ks)

    model.fit(
        data,
        events=tiktok.train,
        validate=lambda model: measure(model, tiktok.validation, (20,))["recall@20"],
    )
    history = model.history
    assert history is not None
    best = history.epochs[history.best_epoch]
    return {
        "strategy": strategy,
        "seed": seed,
        "validation recall@20": best["validation"],
        "metrics": measure(model, tiktok.test, (10, 20)),
        "cold recall@20": cold_recall(model, tiktok),
        "weights": modality_weights(model),
        "epochs": len(history.epochs),
        "best_epoch": history.best_epoch + 1,
        "seconds": history.seconds,
        "samples_per_second": history.examples / history.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def cold_recall(model: TwoTower, tiktok: TikTok) -> float:
    """Return recall@20 of test items without a training event, among such items alone."""
    cold = np.bincount(tiktok.train.items, minlength=tiktok.train.item_count) == 0
    kept = cold[tiktok.test.items]
    relevant = Sequences.of(
        tiktok.test.users[kept], tiktok.test.items[kept],
        user_count=tiktok.test.user_count, item_count=tiktok.test.item_count,
    )  # fmt: skip
    score = scorer(model, tiktok.train)
    wrong = torch.from_numpy(np.where(cold, 0, -1e9).astype(np.float32))
    return full_ranking(lambda rows: torch.as_tensor(score(rows)) + wrong, relevant, ks=(20,))[
        "recall@20"
    ]


def modality_weights(model: TwoTower) -> dict[str, float]:
    """Return how much each modality has to say in the vectors of all items, on average."""
    fusion = model.net.item.fusion
    if fusion is None:
        return {}
    seen: list[FusionOutput] = []
    hook = fusion.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    model.encode_items()
    hook.remove()
    weights = torch.cat([output.weights for output in seen]).mean(0).tolist()
    return dict(zip(fusion.names, weights, strict=True))


def strategies_table(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by strategy the mean and spread over seeds of what was measured."""
    table = {}
    for strategy in (IDS, *STRATEGIES):
        own = [one for one in found if one["strategy"] == strategy]
        if not own:
            continue
        values = {
            "recall@20": [one["metrics"]["recall@20"] for one in own],
            "ndcg@20": [one["metrics"]["ndcg@20"] for one in own],
            "validation recall@20": [one["validation recall@20"] for one in own],
            "cold recall@20": [one["cold recall@20"] for one in own],
            "best_epoch": [one["best_epoch"] for one in own],
            "seconds": [one["seconds"] for one in own],
        }
        table[strategy] = {
            "mean": {name: statistics.fmean(each) for name, each in values.items()},
            "spread": {name: max(each) - min(each) for name, each in values.items()},
            "weights": {
                name: statistics.fmean(one["weights"][name] for one in own)
                for name in own[0]["weights"]
            },
        }
    return table


def popularity(tiktok: TikTok) -> dict[str, float]:
    """Return what ranking by training events alone reaches: what published figures stand on."""
    counts = torch.from_numpy(np.bincount(tiktok.train.items, minlength=tiktok.train.item_count))
    return full_ranking(
        lambda rows: counts.float().expand(len(rows), -1), tiktok.test, tiktok.train, ks=(20,)
    )


def report(found: list[dict[str, Any]], tiktok: TikTok, out: Path) -> None:
    """Write the JSON: the seeds of the strategy of best validation, and a table of all."""
    table = strategies_table(found)
    fused = [name for name in STRATEGIES if name in table]
    best = max(fused, key=lambda name: table[name]["mean"]["validation recall@20"])
    alone = {one["seed"]: one["metrics"] for one in found if one["strategy"] == IDS}
    runs = [_seed_run(one, alone[one["seed"]]) for one in found if one["strategy"] == best]
    config = {
        "model": asdict(replace(CONFIG, fusion=best)),
        "ids alone": asdict(replace(CONFIG, **ALONE)),
        "training": asdict(TRAINING),
    }
    path = write_report(BENCHMARK, runs, config, out)
    values = json.loads(path.read_text())
    values |= {"strategies": table, "popularity": popularity(tiktok)}
    path.write_text(json.dumps(values, indent=2) + "\n")
    for name, row in table.items():
        mean = {key: round(value, 4) for key, value in row["mean"].items()}
        print(name, mean, {key: round(value, 3) for key, value in row["weights"].items()})


def _seed_run(one: Mapping[str, Any], alone: Mapping[str, float]) -> SeedRun:
    metrics = {
        **one["metrics"],
        "recall@20 above ids alone": one["metrics"]["recall@20"] - alone["recall@20"],
        "recall@20 of ids alone": alone["recall@20"],
        "ndcg@20 of ids alone": alone["ndcg@20"],
    }
    more = {name: one[name] for name in ("validation recall@20", "cold recall@20", "weights")}
    kept = ("seed", "epochs", "best_epoch", "seconds", "samples_per_second", "peak_memory_bytes")
    return SeedRun(metrics=metrics, more=more, **{name: one[name] for name in kept})


def main() -> None:
    arguments = parser("fusion_tiktok")
    arguments.add_argument("--work", type=Path, help="keep finished runs here and go on from them")
    given = arguments.parse_args()
    torch.set_num_threads(1)  # every figure is of one core
    data, found = tiktok(), []
    for seed in (int(text) for text in given.seeds.split(",")):
        for strategy in (IDS, *STRATEGIES):
            kept = given.work and given.work / f"{strategy.replace(' ', '_')}.{seed}.json"
            if kept and kept.exists():
                found.append(json.loads(kept.read_text()))
                continue
            started = time.perf_counter()
            one = run(data, strategy, seed)
            found.append(one)
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(one))
            print(
                f"seed {seed}, {strategy}: recall@20 {one['metrics']['recall@20']:.4f}, "
                f"ndcg@20 {one['metrics']['ndcg@20']:.4f}, epoch {one['best_epoch']} "
                f"({time.perf_counter() - started:.0f} s)",
                flush=True,
            )
    report(found, data, given.out)


if __name__ == "__main__":
    main()
