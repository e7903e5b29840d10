"""TrainConfig: everything that decides a training, with presets for size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from corerec.cf_engine import BprFitConfig, IalsFitConfig, MatrixFactorizationConfig
from corerec.config import build_config, load_config, read_toml
from corerec.engines.bert4rec_config import BERT4RecConfig, BERT4RecFitConfig
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.errors import ConfigError
from corerec.pipelines.mining import MiningConfig
from corerec.pipelines.precision import PrecisionConfig
from corerec.pipelines.slices import SliceConfig
from corerec.ranking.fit_config import RankerFitConfig
from corerec.ranking.model import RankingModelConfig
from corerec.retrieval.index import IndexConfig
from corerec.retrieval.options import KINDS, RetrievalOptions


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How much of the data the release is measured on."""

    cases: int = 1_500
    """Most test cases, drawn at random."""
    tower_cases: int = 2_000
    """Most validation cases that stop the training of a source."""
    tower_recall_at: int = 100
    """The k of the recall that stops the training of a source."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training, besides the data."""

    seed: int = 0
    """The same seed, data and machine give the same release."""
    threads: int = 0
    """Cores to use; 0 is all that the process may use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models are trained."""
    unknown_items: Literal["fail", "drop"] = "fail"
    """What happens to interactions with items that the catalogue does not have."""
    ranker_history: int = 50
    """Newest events of a user that the ranker looks at."""
    slices: SliceConfig = field(default_factory=SliceConfig)
    sources: tuple[str, ...] = ("two_tower",)
    """Models that retrieval asks: two_tower, bert4rec, matrix_factorization."""
    two_tower: TwoTowerConfig = field(default_factory=TwoTowerConfig)
    two_tower_fit: TwoTowerFitConfig = field(default_factory=TwoTowerFitConfig)
    bert4rec: BERT4RecConfig = field(default_factory=BERT4RecConfig)
    bert4rec_fit: BERT4RecFitConfig = field(default_factory=BERT4RecFitConfig)
    matrix_factorization: MatrixFactorizationConfig = field(
        default_factory=MatrixFactorizationConfig
    )
    matrix_factorization_fit: IalsFitConfig = field(default_factory=IalsFitConfig)
    matrix_factorization_bpr: BprFitConfig = field(default_factory=BprFitConfig)
    """In the place of `matrix_factorization_fit` when `matrix_factorization.loss` is bpr."""
    index: IndexConfig = field(default_factory=IndexConfig)
    mining: MiningConfig = field(default_factory=MiningConfig)
    ranking: RankingModelConfig = field(default_factory=RankingModelConfig)
    ranker_fit: RankerFitConfig = field(default_factory=RankerFitConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    retrieval: RetrievalOptions = field(default_factory=RetrievalOptions)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name, least in (("seed", 0), ("threads", 0), ("ranker_history", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if wrong := [kind for kind in self.sources if kind not in KINDS]:
            raise ConfigError(f"sources must be among {list(KINDS)}, got {wrong}")
        if len(set(self.sources)) < len(self.sources):
            raise ConfigError(f"sources must each be named once, got {list(self.sources)}")

    @classmethod
    def tiny(cls) -> TrainConfig:
        """Return a training of seconds for a world of hundreds, for tests."""
        return cls(
            threads=1,
            ranker_history=20,
            two_tower=TwoTowerConfig(dim=16, heads=2, history_length=20, hidden=32),
            two_tower_fit=TwoTowerFitConfig(epochs=3, learning_rate=1e-2),
            mining=MiningConfig(max_cases=1_000, validation_cases=200, hard=8, sampled=4),
            ranker_fit=RankerFitConfig(epochs=1, batch_cases=64),
            precision=PrecisionConfig(cases=100),
            evaluation=EvaluationConfig(cases=100, tower_cases=200),
        )

    @classmethod
    def quality(cls) -> TrainConfig:
        """Return a longer training with longer histories, for the best lists."""
        own = cls()
        return replace(
            own,
            two_tower=replace(own.two_tower, history_length=100, dropout=0.2),
            two_tower_fit=replace(
                own.two_tower_fit,
                epochs=20,
                max_examples=50_000_000,
                batch_windows=32,
                uniform_negatives=512,
                batch_negatives=1024,
                patience=3,
            ),
            mining=replace(own.mining, max_cases=200_000, hard=40, sampled=8),
            ranker_fit=replace(own.ranker_fit, epochs=6, patience=2),
            evaluation=replace(own.evaluation, cases=10_000),
        )


PRESETS = {"default": TrainConfig, "quality": TrainConfig.quality, "tiny": TrainConfig.tiny}


def read_config(
    path: Path | None = None,
    *,
    preset: str = "default",
    seed: int | None = None,
    epochs: int | None = None,
    threads: int | None = None,
    shards: int | None = None,
) -> TrainConfig:
    """Return a preset with the fields of a TOML file, then the arguments, in their places.

    Raises:
        ConfigError: for an unknown preset or key, or a value out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
    values = asdict(PRESETS[preset]())
    if path is not None:
        # Read alone first, so that a mistake is reported with its file and line.
        load_config(TrainConfig, path)
        merge(values, read_toml(path))
    given = {"seed": seed, "threads": threads}
    values |= {name: value for name, value in given.items() if value is not None}
    if shards is not None:
        values["index"] |= {"shards": shards}
    if epochs is not None:
        # Asked for by name, so the limit on examples must not take them back.
        values["two_tower_fit"] |= {"epochs": epochs, "max_examples": 10**12}
    return build_config(TrainConfig, values, source=path or "arguments")


def merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put `changes` in the place of what `values` holds, table by table."""
    for key, value in changes.items():
        if isinstance(value, Mapping):
            merge(values[key], value)
        else:
            values[key] = value
