"""Several workers of one training: rows of batches, weights, and equality with a single one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corerec.distributed import train
from corerec.engines.sequences import Sequences
from corerec.engines.windows import batches, cut
from corerec.engines.workers import ALONE, Worker


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_row_of_a_batch_is_one_workers_or_of_all_in_a_tiny_one(
    count: int, workers: int
) -> None:
    parts = [Worker(rank, workers).rows(count) for rank in range(workers)]
    if count < workers:
        assert all(part.tolist() == list(range(count)) for part in parts)
    else:
        assert sorted(np.concatenate(parts).tolist()) == list(range(count))


def test_the_average_of_weighted_means_is_the_mean_of_all_rows() -> None:
    values = np.arange(7.0)
    means = []
    for rank in range(3):
        worker = Worker(rank, 3)
        own = values[worker.rows(7)]
        means.append(worker.weight(len(own), 7) * own.mean())
    assert np.mean(means) == pytest.approx(values.mean())
    assert ALONE.weight(7, 7) == 1.0


def test_workers_share_batches_and_no_window_is_lost_or_seen_twice() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 40, 900), rng.integers(0, 100, 900)
    sequences = Sequences.of(users, items, user_count=40, item_count=100)

    def drawn(worker: Worker) -> list[list[tuple[int, tuple[int, ...]]]]:
        own = np.random.default_rng(5)
        windows = cut(sequences, 8, 10**9, own)
        return [
            [(int(u), tuple(t[v])) for u, t, v in zip(b.user, b.targets, b.valid, strict=True)]
            for b in batches(sequences, windows, 16, 100, own, worker)
        ]

    def everyone(worker: Worker) -> list[list[int]]:
        own = np.random.default_rng(5)
        windows = cut(sequences, 8, 10**9, own)
        drawn = batches(sequences, windows, 16, 100, own, worker)
        return [sorted(b.targets[b.valid] if b.everyone is None else b.everyone) for b in drawn]

    # Negatives come from what all workers learn in the step, as a single one's do.
    assert everyone(ALONE) == everyone(Worker(0, 2)) == everyone(Worker(1, 2))
    alone, first, second = drawn(ALONE), drawn(Worker(0, 2)), drawn(Worker(1, 2))
    assert len(alone) == len(first) == len(second)
    for whole, one, other in zip(alone, first, second, strict=True):
        if len(whole) == 1:
            assert one == other == whole
        else:
            assert sorted(one + other) == sorted(whole)


PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np, torch
from corerec.distributed import train
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower import TwoTower
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.engines.two_tower_inputs import TwoTowerInputs
from corerec.engines.workers import Worker

rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
if count > 1:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count
    )
rng = np.random.default_rng(0)
events = Sequences.of(
    rng.integers(0, 60, 1500), rng.integers(0, 80, 1500), user_count=60, item_count=80
)
model = TwoTower(
    config=TwoTowerConfig(dim=8, heads=2, history_length=10, hidden=16, dropout=0.0,
                          id_dropout=0.0),
    training=TwoTowerFitConfig(epochs=2, batch_windows=16, batch_users=16, learning_rate=1e-2),
    device="cpu",
)
model.fit_inputs(
    TwoTowerInputs.of_counts(60, 80),
    events,
    validate=lambda own: float(own.encode_items()[0, 0]) + rank,
    checkpoint=folder / f"{count}.safetensors",
    worker=Worker(rank, count),
)
print(json.dumps(model.history.epochs))
if count > 1:
    torch.distributed.destroy_process_group()
"""


def test_two_workers_without_chance_learn_what_one_learns(tmp_path: Path) -> None:
    """Without dropout and against the whole catalogue only the optimiser differs a little.

    Several workers have dense gradients of embeddings, whose rows of zeros Adam leaves alone; a
    single one has sparse ones, and moves every row that it looked up.
    """
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(count), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, count in ((0, 1), (0, 2), (1, 2))
    ]
    said = []
    for process in running:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        said.append(json.loads(out))
    alone, first, second = said
    assert first == second  # all decide alike, also where their validation would differ
    for one, other in zip(alone, first, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["validation"] == pytest.approx(other["validation"], abs=1e-3)


def test_what_is_told_last_is_passed_on_though_nobody_looks_again(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    progress = tmp_path / "progress.json"
    with train._listening(progress, lambda *step: told.append(step)):
        progress.write_text('{"done": 3, "total": 3, "note": "epoch 3"}')
    assert told == [(3, 3, "epoch 3")]
