"""The two-tower step: trains it, stops it by validation recall, and encodes every item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from corerec.engines.two_tower_fit import TwoTowerFit, fit_two_tower
from corerec.engines.two_tower_io import model_id
from corerec.engines.two_tower_net import (
    ItemContent,
    TwoTowerNet,
    TwoTowerShape,
    UserInputs,
    item_vectors,
)
from corerec.evaluation.cases import Cases
from corerec.features import FeatureSchema, ItemFeatures, UserFeatures
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.progress import Report
from corerec.pipelines.slices import Events, Slice
from corerec.retrieval.encoder import QueryEncoder
from corerec.stages import Float32s

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A trained two-tower and what it says of every item."""

    fit: TwoTowerFit
    model_id: str
    vectors: Float32s
    """(N, D), unit length, by item number."""
    encoder: QueryEncoder


def train_tower(
    events: Events,
    schema: FeatureSchema,
    features: ItemFeatures,
    users: UserFeatures,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    report: Report | None = None,
    heard: Callable[[float], None] | None = None,
) -> Tower:
    """Return the two-tower of the first slice; `users` is the table of all users.

    `heard` is given the validation recall of each epoch as it ends.
    """
    device = pick_device(config.device)
    content = ItemContent.of(features, device)
    cases = events.cases(Slice.VALIDATION).sample(
        config.evaluation.tower_cases, np.random.default_rng([config.seed, 101])
    )

    def validate(model: TwoTowerNet) -> float:
        encoder, vectors = _encode(model, content)
        found = recall(cases, encoder, vectors, users, config.evaluation.tower_recall_at)
        if heard is not None:
            heard(found)
        return found

    fit = fit_two_tower(
        events.sequences(),
        content,
        UserInputs(
            *(torch.from_numpy(a).to(device) for a in (users.row, users.categorical, users.numeric))
        ),
        TwoTowerShape.of(schema),
        config.two_tower,
        config.two_tower_fit,
        seed=config.seed,
        validate=validate if len(cases) else None,
        report=report,
        checkpoint=checkpoint,
    )
    # Everything after training runs where serving runs.
    model = fit.model.to("cpu")
    encoder, vectors = _encode(model, ItemContent.of(features))
    return Tower(fit=fit, model_id=model_id(model), vectors=vectors, encoder=encoder)


def recall(
    cases: Cases, encoder: QueryEncoder, vectors: Float32s, users: UserFeatures, k: int
) -> float:
    """Return the share of cases whose right item is among the k best unseen ones, exactly."""
    hits = 0
    for start in range(0, len(cases), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(cases)))
        histories = cases.histories(rows)
        queries = encoder.encode(histories, users.take(cases.user_row[rows] + 1), cases.now[rows])
        scores = queries @ vectors.T  # (B, N)
        for row, history in enumerate(histories):
            scores[row, history] = -np.inf
        own = np.einsum("bd,bd->b", queries, vectors[cases.right[rows]])
        # The product above and this one may differ in the last bit: the item itself is taken off.
        scores[np.arange(len(rows)), cases.right[rows]] = -np.inf
        hits += int(((scores > own[:, None]).sum(1) < k).sum())
    return hits / len(cases)


def pick_device(wanted: str) -> torch.device:
    """Return the device to train on; `auto` is CUDA where there is one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def _encode(model: TwoTowerNet, content: ItemContent) -> tuple[QueryEncoder, Float32s]:
    base = model.item_base(content)
    return QueryEncoder(model, base), item_vectors(base).cpu().numpy()
