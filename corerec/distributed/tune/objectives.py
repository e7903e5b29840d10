"""What a trial trains: one objective a model, a whole training that tells each epoch's score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from corerec.config import build_config
from corerec.distributed.tune.space import nested
from corerec.engines.checkpoint import load_checkpoint
from corerec.errors import ConfigError, NotFound
from corerec.pipelines.config import PRESETS, TrainConfig, merge

Heard = Callable[[int, float], None]
"""Called with the epoch, from 1, and its validation score, higher is better."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How one model is tuned."""

    metric: str
    """What the scores are."""
    tables: tuple[str, ...]
    """The tables of TrainConfig that decide this model."""
    epochs: str
    """Dotted field with the most epochs of a trial."""
    fixed: Mapping[str, Any]
    """Dotted fields that `epochs` asked for by name sets besides, so that nothing takes it back."""
    space: Mapping[str, Mapping[str, Any]]
    """The search space where none is given."""
    run: Callable[[Path, TrainConfig, Path, Heard, Any], None]
    """Trains on a data set folder with a config, its checkpoint at a path, and what is shared."""
    shared: Callable[[Path, TrainConfig, Path], Any] | None = None
    """Makes once, of data, base and a folder to work in, what all trials are given."""


def _two_tower(
    data: Path, config: TrainConfig, checkpoint: Path, heard: Heard, shared: Any
) -> None:
    from corerec.data.dataset import load_dataset
    from corerec.pipelines.parts import prepare
    from corerec.pipelines.tower import train_tower

    scores = _earlier(checkpoint, "validation", heard)

    def one(score: float) -> None:
        scores.append(score)
        heard(len(scores), score)

    parts = prepare(load_dataset(data, unknown_items=config.unknown_items), config)
    train_tower(parts, config, checkpoint=checkpoint, heard=one)


def _vector_model(
    kind: str, data: Path, config: TrainConfig, checkpoint: Path | None, heard: Heard
) -> None:
    from corerec.data.dataset import load_dataset
    from corerec.pipelines.parts import prepare
    from corerec.pipelines.sources import new_model
    from corerec.pipelines.tower import recall, validation_cases

    scores = _earlier(checkpoint, "validation", heard) if checkpoint is not None else []
    parts = prepare(load_dataset(data, unknown_items=config.unknown_items), config)
    cases, k = validation_cases(parts, config), config.evaluation.tower_recall_at

    def validate(model: Any) -> float:
        scores.append(recall(cases, parts, model, k))
        heard(len(scores), scores[-1])
        return scores[-1]

    new_model(kind, config).fit(parts.events.sequences(), validate=validate, checkpoint=checkpoint)


def _bert4rec(data: Path, config: TrainConfig, checkpoint: Path, heard: Heard, shared: Any) -> None:
    _vector_model("bert4rec", data, config, checkpoint, heard)


def _matrix_factorization(
    data: Path, config: TrainConfig, checkpoint: Path, heard: Heard, shared: Any
) -> None:
    # It takes seconds: a trial that was killed begins again.
    _vector_model("matrix_factorization", data, config, None, heard)


def _mined(data: Path, config: TrainConfig, work: Path) -> dict[str, Any]:
    """Train retrieval as the base has it and return the ranker's cases and features."""
    from corerec.data.dataset import load_dataset
    from corerec.pipelines.parts import prepare
    from corerec.pipelines.progress import Steps
    from corerec.pipelines.train import ranker_arguments, train_retrieval
    from corerec.pipelines.write import Own

    parts = prepare(load_dataset(data, unknown_items=config.unknown_items), config)
    sources, core = train_retrieval(parts, config, Own(), work=work, steps=Steps())
    return ranker_arguments(parts, sources, core, config, Steps())


def _ranker(
    data: Path, config: TrainConfig, checkpoint: Path, heard: Heard, shared: dict[str, Any]
) -> None:
    from corerec.ranking.train import train_ranker

    scores = _earlier(checkpoint, "ndcg_10", heard)

    def one(score: float) -> None:
        scores.append(score)
        heard(len(scores), score)

    own = {"config": config.ranking, "fit": config.ranker_fit, "seed": config.seed}
    train_ranker(**{**shared, **own}, checkpoint=checkpoint, heard=one)


def _earlier(checkpoint: Path, key: str, heard: Heard) -> list[float]:
    """Tell, and return, the scores of the epochs that a checkpoint has behind it."""
    found = load_checkpoint(checkpoint)
    scores = [float(entry[key]) for entry in found[1]["epochs"]] if found is not None else []
    for epoch, score in enumerate(scores, 1):
        heard(epoch, score)
    return scores


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "two_tower": Objective(
            metric="validation recall",
            tables=("two_tower", "two_tower_fit"),
            epochs="two_tower_fit.epochs",
            fixed={"two_tower_fit.max_examples": 10**12},
            space={
                "two_tower": {
                    "dim": {"choice": [32, 64, 128]},
                    "history_length": {"choice": [20, 50, 100]},
                    "temperature": {"log_uniform": [0.03, 0.15]},
                    "dropout": {"uniform": [0.0, 0.3]},
                    "id_dropout": {"uniform": [0.0, 0.3]},
                },
                "two_tower_fit": {"learning_rate": {"log_uniform": [1e-3, 1e-2]}},
            },
            run=_two_tower,
        ),
        "bert4rec": Objective(
            metric="validation recall",
            tables=("bert4rec", "bert4rec_fit"),
            epochs="bert4rec_fit.epochs",
            fixed={},
            space={
                "bert4rec": {
                    "dim": {"choice": [32, 64, 128]},
                    "layers": {"choice": [1, 2, 3]},
                    "max_len": {"choice": [50, 100, 200]},
                    "dropout": {"uniform": [0.0, 0.4]},
                },
                "bert4rec_fit": {
                    "learning_rate": {"log_uniform": [5e-4, 5e-3]},
                    "mask_share": {"uniform": [0.15, 0.6]},
                },
            },
            run=_bert4rec,
        ),
        "matrix_factorization": Objective(
            metric="validation recall",
            tables=("matrix_factorization", "matrix_factorization_fit"),
            epochs="matrix_factorization_fit.epochs",
            fixed={},
            space={
                "matrix_factorization": {
                    "k": {"choice": [32, 64, 128, 192]},
                    "regularisation": {"log_uniform": [1e-4, 1e-1]},
                    "unobserved_weight": {"log_uniform": [0.01, 1.0]},
                    "frequency_power": {"uniform": [0.0, 1.0]},
                },
            },
            run=_matrix_factorization,
        ),
        "dcn": Objective(
            metric="validation NDCG@10",
            tables=("ranking", "ranker_fit"),
            epochs="ranker_fit.epochs",
            fixed={},
            space={
                "ranking": {
                    "item_width": {"choice": [16, 32, 64]},
                    "user_unknown": {"uniform": [0.0, 0.4]},
                },
                "ranker_fit": {
                    "learning_rate": {"log_uniform": [5e-4, 5e-3]},
                    "id_decay": {"log_uniform": [1.0, 30.0]},
                    "listwise": {"uniform": [0.5, 1.0]},
                },
            },
            run=_ranker,
            shared=_mined,
        ),
    }
)


def objective_of(model: str) -> Objective:
    """Return how a model is tuned. Raises NotFound naming those that can be."""
    if model not in OBJECTIVES:
        raise NotFound(f"a model to tune must be one of {sorted(OBJECTIVES)}, got {model!r}")
    return OBJECTIVES[model]


def base_config(
    objective: Objective,
    *,
    preset: str = "default",
    epochs: int | None = None,
    threads: int | None = None,
) -> TrainConfig:
    """Return what the trials of an objective share: a preset with the arguments in its place.

    Raises:
        ConfigError: for an unknown preset or a value out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
    values = asdict(PRESETS[preset]())
    if threads is not None:
        values["threads"] = threads
    if epochs is not None:
        merge(values, nested({objective.epochs: epochs, **objective.fixed}))
    return build_config(TrainConfig, values, source="arguments")
