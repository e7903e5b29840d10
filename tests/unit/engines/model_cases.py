"""One case a model for `test_model_contract.py`: how to make, fit and ask it, on tiny data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corerec.cf_engine import (
    BprFitConfig,
    IalsFitConfig,
    MatrixFactorization,
    MatrixFactorizationConfig,
)
from corerec.data import dataset_from_frames
from corerec.engines import DCN, DLRM
from corerec.engines.bert4rec import BERT4Rec
from corerec.engines.bert4rec_config import BERT4RecConfig, BERT4RecFitConfig
from corerec.engines.ctr_config import CtrFitConfig
from corerec.engines.ctr_examples import CtrExamples
from corerec.engines.dcn import DcnConfig
from corerec.engines.dlrm import DlrmConfig
from corerec.engines.protocols import Report
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower import TwoTower
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig

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


def pairs_of_codes() -> CtrExamples:
    """Rows whose label says whether two codes are the same, with a number beside them."""
    rng = np.random.default_rng(2)
    codes = rng.integers(1, 5, (200, 3))
    numbers = rng.standard_normal((200, 2))
    return CtrExamples.of(codes, codes[:, 0] == codes[:, 1], numbers=numbers)


def _fit_table(model: Any, checkpoint: Path | None, report: Report | None) -> Any:
    return model.fit(pairs_of_codes(), checkpoint=checkpoint, report=report)


def _labels_right(model: Any) -> float:
    data = pairs_of_codes()
    assert data.labels is not None
    return float(((model.predict(data) > 0.5) == (data.labels > 0.5)).mean())


def _nan_number(model: Any) -> None:
    data = pairs_of_codes()
    model.fit(CtrExamples.of(data.codes, data.labels, numbers=np.full((200, 2), np.nan)))


SMALL = {DCN: DcnConfig(cross_rank=None, deep=(32,)), DLRM: DlrmConfig(bottom=(8,), top=(32,))}


def _table_case(kind: type[Any]) -> ModelCase:
    def on(seed: int, epochs: int, device: str) -> Any:
        training = CtrFitConfig(epochs=epochs, batch_rows=32, learning_rate=1e-2)
        return kind(8, config=SMALL[kind], training=training, seed=seed, device=device)

    return ModelCase(
        name=kind.__name__,
        make=lambda seed, epochs: on(seed, epochs, "cpu"),
        fit=_fit_table,
        overfit=_labels_right,
        scores=lambda model: model.predict(pairs_of_codes())[:, 0],
        load=kind.load,
        refuses=_nan_number,
        on=on,
        overfit_epochs=20,
    )


def _fit_ring(model: Any, checkpoint: Path | None, report: Report | None) -> Any:
    return model.fit(ring(), checkpoint=checkpoint, report=report)


def _bag_is_first(model: Any) -> float:
    """Return the share of each user's items among as many best ones."""
    data = ring()
    found = model.recommend(data.contexts(range(USERS)), STEPS, exclude_seen=False).numbers
    own = data.items.reshape(USERS, STEPS)
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(own, found, strict=True)]))


def _nan_vector(model: Any) -> None:
    events = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "y"]})
    vectors = {"text": np.array([[1.0, np.nan], [0.0, 1.0]], np.float32)}
    model.fit(dataset_from_frames(events, vectors=vectors))


def _two_tower(history: str) -> ModelCase:
    config = TwoTowerConfig(history=history, heads=2, hidden=16, bag_dropout=0.2)  # type: ignore[arg-type]

    def on(seed: int, epochs: int, device: str) -> TwoTower:
        fit = TwoTowerFitConfig(epochs=epochs, learning_rate=1e-2, batch_windows=8, batch_users=8)
        return TwoTower(16, config=config, training=fit, seed=seed, device=device)

    return ModelCase(
        name=f"TwoTower-{history}",
        make=lambda seed, epochs: on(seed, epochs, "cpu"),
        fit=_fit_ring,
        overfit=next_is_first if history == "attention" else _bag_is_first,
        scores=vector_scores,
        load=TwoTower.load,
        refuses=_nan_vector,
        on=on,
        overfit_epochs=25,
    )


def _nan_weight(model: Any) -> None:
    model.fit(ring(), weights=np.full(len(ring()), np.nan, np.float32))


def _factorization(loss: str) -> ModelCase:
    fits: dict[str, Any] = {
        "ials": lambda epochs: IalsFitConfig(epochs=epochs),
        "bpr": lambda epochs: BprFitConfig(epochs=epochs, learning_rate=0.2),
    }
    config = MatrixFactorizationConfig(k=16, loss=loss, regularisation=0.001)  # type: ignore[arg-type]
    return ModelCase(
        name=f"MatrixFactorization-{loss}",
        make=lambda seed, epochs: MatrixFactorization(
            config=config, training=fits[loss](epochs), seed=seed
        ),
        fit=_fit_ring,
        overfit=_bag_is_first,
        scores=vector_scores,
        load=MatrixFactorization.load,
        refuses=_nan_weight,
    )


def _bert4rec() -> ModelCase:
    config = BERT4RecConfig(dim=32, hidden=32, max_len=STEPS, dropout=0.0)

    def on(seed: int, epochs: int, device: str) -> BERT4Rec:
        training = BERT4RecFitConfig(
            epochs=epochs, batch_sequences=16, learning_rate=5e-3, last_share=0.8, last_events=4
        )
        return BERT4Rec(config=config, training=training, seed=seed, device=device)

    return ModelCase(
        name="BERT4Rec",
        make=lambda seed, epochs: on(seed, epochs, "cpu"),
        fit=_fit_ring,
        overfit=next_is_first,
        scores=vector_scores,
        load=BERT4Rec.load,
        on=on,
        overfit_epochs=40,
    )


VECTOR_MODELS: list[ModelCase] = [
    _factorization("ials"),
    _factorization("bpr"),
    _two_tower("attention"),
    _two_tower("mean"),
    _bert4rec(),
]
"""Retrieval models: `corerec.engines.protocols.VectorModel`."""
TABLE_MODELS: list[ModelCase] = [_table_case(kind) for kind in (DCN, DLRM)]
"""Ranking models over tables of features."""
