"""Measures TwoTower on UltraGCN's split of MovieLens-1M: full ranking, seen items filtered.

Protocol: the split's train and test files; each user's test items among all items that are not in
its train file. The number of epochs is the best on a random tenth of train; then the model is
trained on all of train for so many epochs, as the published models are trained on all of train.

    python benchmarks/quality/two_tower.py [--seeds 0,1,2] [--out benchmarks/results]
"""

from __future__ import annotations

import gzip
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from ml1m_data import shared_data
from report import Benchmark, SeedRun, main

from corerec.engines import TwoTower
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.evaluation.ranked import full_ranking, scorer

USERS, ITEMS = 6022, 3043
HELD_OUT = 0.1

BENCHMARK = Benchmark(
    name="two_tower",
    data="ml-1m, UltraGCN's split",
    protocol="full ranking, train items filtered; epochs by a tenth of train, then all of it",
    published={
        "POP": {"recall@20": 0.1160, "ndcg@20": 0.1176},
        "EASE": {"recall@20": 0.2741, "ndcg@20": 0.2631},
        "UltraGCN": {"recall@20": 0.2787, "ndcg@20": 0.2642},
    },
    required={"recall@20": 0.255, "ndcg@20": 0.245},
    aim={"recall@20": 0.274, "ndcg@20": 0.263},
)

CONFIG = TwoTowerConfig(
    dim=128,
    history="mean",
    history_length=3000,  # all events of every user
    temperature=0.15,
    bag_dropout=0.5,
    id_dropout=0.0,
    bias=True,
)
FIT = TwoTowerFitConfig(
    epochs=20,
    max_examples=10**9,
    batch_users=256,
    learning_rate=3e-3,
    full_softmax_below=10_000,
    patience=5,
)


def read_split(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return users and items (E,) of a file with a user and its items on each line."""
    with gzip.open(path, "rt") as file:
        rows = [np.array(line.split(), np.int64) for line in file]
    users = np.repeat([row[0] for row in rows], [len(row) - 1 for row in rows])
    return users, np.concatenate([row[1:] for row in rows])


def sequences(users: np.ndarray, items: np.ndarray) -> Sequences:
    return Sequences.of(users, items, user_count=USERS, item_count=ITEMS)


def run(seed: int) -> SeedRun:
    folder = shared_data() / "ml-1m/ultragcn_split"
    users, items = read_split(folder / "train.txt.gz")
    train, test = sequences(users, items), sequences(*read_split(folder / "test.txt.gz"))
    held = np.random.default_rng([seed, 7]).random(len(users)) < HELD_OUT
    learned, asked = sequences(users[~held], items[~held]), sequences(users[held], items[held])
    ids = [str(row) for row in range(USERS)]
    scores: list[float] = []

    def validate(model: TwoTower) -> float:
        found = full_ranking(scorer(model, learned, ids), asked, learned, ks=(20,))
        scores.append(found["recall@20"])
        print(f"  epoch {len(scores)}: validation recall@20 {scores[-1]:.4f}", flush=True)
        return scores[-1]

    chosen = TwoTower(config=CONFIG, training=FIT, seed=seed, device="cpu")
    chosen.fit(learned, validate=validate)
    best = int(np.argmax(scores))
    told = iter([*np.arange(best + 1, dtype=float), -1.0])  # stops where validation said
    model = TwoTower(config=CONFIG, training=replace(FIT, patience=1), seed=seed, device="cpu")
    model.fit(train, validate=lambda _: next(told))
    assert model.history is not None
    metrics = full_ranking(scorer(model, train, ids), test, train, ks=(20,))
    tenth_less = full_ranking(scorer(chosen, train, ids), test, train, ks=(20,))
    return SeedRun(
        seed=seed,
        metrics=metrics,
        epochs=len(model.history.epochs),
        best_epoch=best + 1,
        seconds=model.history.seconds,
        samples_per_second=model.history.examples / model.history.seconds,
        more={
            "validation_recall@20": scores,
            "test_of_the_model_without_the_tenth": tenth_less,
            "seconds_per_epoch": model.history.seconds / len(model.history.epochs),
        },
    )


if __name__ == "__main__":
    main(BENCHMARK, run, {"model": asdict(CONFIG), "training": asdict(FIT)})
