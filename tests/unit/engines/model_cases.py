"""One case a model for `test_model_contract.py`: how to make, fit and ask it, on tiny data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corerec.engines.protocols import Report
from corerec.engines.sequences import Sequences

ITEMS, USERS, STEPS = 24, 40, 12
EPOCHS = 4


def ring() -> Sequences:
    """Users walk around a ring of items: what comes next is the item plus one."""
    users = np.repeat(np.arange(USERS), STEPS)
    steps = np.tile(np.arange(STEPS), USERS)
    start = np.random.default_rng(1).integers(0, ITEMS, USERS)
    return Sequences.of(
        users,
        (start[users] + steps) % ITEMS,
        steps * 3_600_000_000,
        user_count=USERS,
        item_count=ITEMS,
    )


@dataclass(frozen=True, kw_only=True)
class ModelCase:
    """What the suite needs to know of a model."""

    name: str
    make: Callable[[int, int], Any]
    """(seed, most epochs) -> a model that is not fitted."""
    fit: Callable[[Any, Path | None, Report | None], Any]
    """(model, checkpoint, report) -> the model, fitted on tiny data."""
    overfit: Callable[[Any], float]
    """Share of the training data that the fitted model has right, 0..1."""
    scores: Callable[[Any], NDArray[np.float32]]
    """Scores of fixed questions."""
    load: Callable[[Path], Any]
    overfit_epochs: int = 60
    """Epochs after which `overfit` must be at least 0.9."""
    refuses: Callable[[Any], None] | None = None
    """Fits on data with a NaN in it and must raise InvalidArgument; None without floats in data."""
    on: Callable[[int, int, str], Any] | None = None
    """(seed, most epochs, device) -> a model; None when it runs on CPUs only."""


def vector_scores(model: Any) -> NDArray[np.float32]:
    """Return the scores of the ring's users for all items."""
    scores: NDArray[np.float32] = (
        model.encode_users(ring().contexts(range(8))) @ model.encode_items().T
    )
    return scores


def next_is_first(model: Any) -> float:
    """Return how often the item after a user's last one comes first among all items."""
    data = ring()
    found = model.recommend(data.contexts(range(USERS)), 1, exclude_seen=False).numbers[:, 0]
    last = data.items[data.offsets[1:] - 1]
    return float((found == (last + 1) % ITEMS).mean())


VECTOR_MODELS: list[ModelCase] = []
"""Retrieval models: `corerec.engines.protocols.VectorModel`."""
TABLE_MODELS: list[ModelCase] = []
"""Ranking models over tables of features."""
