"""Measures what the lists beside the models bring: recall of retrieval with each, by its share.

A generated world of 3,000 users and 4,000 items, a two-tower with the default's settings and three
epochs; cases are 4,000 of the test slice, first interactions of a user with an item, each asked at
its moment. `cold` are the same cases without id and history: attributes and the moment alone.

    python benchmarks/retrieval/lists.py [--seeds 0,1]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quality"))
from report import ROOT, command, machine

from corerec.data.dataset import load_dataset
from corerec.data.generate import generate
from corerec.evaluation import metrics
from corerec.evaluation.cases import Cases
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.parts import Parts
from corerec.pipelines.progress import Steps
from corerec.pipelines.slices import Slice
from corerec.pipelines.train import train_funnel
from corerec.pipelines.write import Own, write_release
from corerec.release import Release
from corerec.retrieval import RetrievalCore, RetrievalOptions
from corerec.retrieval.options import LISTS
from corerec.stages import RetrieveEntry, RetrieveResult, UserContext

SHARES = (0.05, 0.1, 0.2)
COLD = (1.0, 0.5, 0.1, 0.0)
CASES, BATCH = 4_000, 64
BASE = TrainConfig(sources=("two_tower",))
CONFIG = replace(BASE, two_tower_fit=replace(BASE.two_tower_fit, epochs=3))

OUT = ROOT / "benchmarks/results/retrieval/lists.json"


def run(seed: int) -> dict[str, float]:
    """Return the recalls of one world."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder), seed)


def _run(folder: Path, seed: int) -> dict[str, float]:
    generate(folder / "data", users=3_000, items=4_000, interactions=90_000, seed=seed)
    config = replace(CONFIG, seed=seed)
    trained = train_funnel(
        load_dataset(folder / "data"),
        config,
        Own(unranked=True),
        work=folder / "work",
        steps=Steps(),
    )
    parts = trained.parts
    known = parts.events.before(Slice.TEST)
    path = write_release(folder / "releases", trained, known=known, metrics={})
    release = Release.open(path)
    cases = parts.events.cases(Slice.TEST).sample(CASES, np.random.default_rng([seed, 5]))
    mixes: dict[str, dict[str, float]] = {"models alone": {}}
    mixes |= {f"{kind} {share}": {kind: share} for kind in LISTS for share in SHARES}
    mixes["item_to_item and trending 0.1"] = {"item_to_item": 0.1, "trending": 0.1}
    found = {}
    for k in (100, 500):
        for name, quotas in mixes.items():
            options = RetrievalOptions(quotas=quotas)
            found[f"recall@{k}, {name}"] = _recall(release, options, parts, cases, k)
        for share in COLD:
            options = RetrievalOptions(cold_popular_share=share)
            name = f"cold, {share:.0%} popular"
            found[f"recall@{k}, {name}"] = _recall(release, options, parts, cases, k, cold=True)
    return found


def _recall(
    release: Release,
    options: RetrievalOptions,
    parts: Parts,
    cases: Cases,
    k: int,
    *,
    cold: bool = False,
) -> float:
    core = RetrievalCore.load(release, config=options)
    lists = np.full((len(cases), k), -1, np.int64)
    for start in range(0, len(cases), BATCH):
        rows = np.arange(start, min(start + BATCH, len(cases)))
        users = parts.contexts(cases, rows)
        if cold:
            users = [UserContext(attributes=user.attributes, now=user.now) for user in users]
        for row, result in zip(
            rows, core.run([RetrieveEntry(user=user, k=k) for user in users]), strict=True
        ):
            assert isinstance(result, RetrieveResult), result
            lists[row, : len(result.candidates)] = result.candidates.numbers
    return metrics.recall_at(metrics.ranks_of(lists, cases.right), k)


def main() -> None:
    """Run each seed and write what was found, with the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1", help="comma-separated")
    seeds = [int(text) for text in parser.parse_args().seeds.split(",")]
    runs: dict[int, Mapping[str, float]] = {}
    for seed in seeds:
        runs[seed] = run(seed)
        mean = {name: float(np.mean([own[name] for own in runs.values()])) for name in runs[seed]}
        report = {
            "data": "generated: 3,000 users, 4,000 items, 90,000 interactions",
            "cases": CASES,
            "seeds": runs,
            "mean": mean,
            "config": asdict(CONFIG),
            "machine": machine(),
            "command": command(),
        }
        OUT.write_text(json.dumps(report, indent=2, default=str) + "\n")
        for name, value in mean.items():
            print(f"{name:45} {value:.4f}", flush=True)


if __name__ == "__main__":
    main()
