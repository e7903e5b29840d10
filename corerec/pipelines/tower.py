"""The two-tower step: trains it on the first slice and stops it by validation recall."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from corerec.engines.two_tower import TwoTower, pick_device
from corerec.engines.two_tower_inputs import TwoTowerInputs
from corerec.engines.workers import ALONE, Worker
from corerec.evaluation.cases import Cases
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.parts import Parts
from corerec.pipelines.progress import Report
from corerec.pipelines.slices import Slice

__all__ = ["pick_device", "recall", "train_tower", "validation_cases"]

_BATCH = 256


def train_tower(
    parts: Parts,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    report: Report | None = None,
    heard: Callable[[float], None] | None = None,
    worker: Worker = ALONE,
) -> TwoTower:
    """Return the two-tower of the first slice.

    `heard` is given the validation recall of each epoch as it ends; `worker` says which of several
    processes that train it this one is.
    """
    cases = validation_cases(parts, config)
    inputs = TwoTowerInputs.of_schema(parts.dataset, parts.schema, parts.features)

    def validate(model: TwoTower) -> float:
        found = recall(cases, parts, model, config.evaluation.tower_recall_at)
        if heard is not None:
            heard(found)
        return found

    model = TwoTower(
        config=config.two_tower,
        training=config.two_tower_fit,
        seed=config.seed,
        device=config.device,
    )
    return model.fit_inputs(
        inputs,
        parts.events.sequences(),
        validate=validate if len(cases) else None,
        checkpoint=checkpoint,
        report=report,
        worker=worker,
    )


def validation_cases(parts: Parts, config: TrainConfig) -> Cases:
    """Return the cases that stop the training of a source."""
    return parts.events.cases(Slice.VALIDATION).sample(
        config.evaluation.tower_cases, np.random.default_rng([config.seed, 101])
    )


def recall(cases: Cases, parts: Parts, model: Any, k: int) -> float:
    """Return the share of cases whose right item is among the k best unseen ones, exactly."""
    vectors, hits = model.encode_items(), 0
    for start in range(0, len(cases), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(cases)))
        right = cases.right[rows]
        queries = model.encode_users(parts.contexts(cases, rows))
        scores = queries @ vectors.T  # (B, N)
        own = np.einsum("bd,bd->b", queries, vectors[right])
        for row, history in enumerate(cases.histories(rows)):
            scores[row, history] = -np.inf
        # The product above and this one may differ in the last bit: the item itself is taken off.
        scores[np.arange(len(rows)), right] = -np.inf
        hits += int(((scores > own[:, None]).sum(1) < k).sum())
    return hits / len(cases)
