"""A world where the next item is always the last one plus one, and a release of a ranker on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save_file

from corerec.engines.dcn import DcnConfig
from corerec.features import (
    CategoricalFeature,
    FeatureSchema,
    ItemFeatures,
    MultiFeature,
    NumericFeature,
    PopularityTimeline,
    UserFeatures,
    VectorSet,
)
from corerec.ranking.examples import RankingExamples
from corerec.ranking.files import save_ranker
from corerec.ranking.model import RankingModel, RankingModelConfig
from corerec.ranking.tables import ItemTables
from corerec.ranking.transitions import TransitionTable

ITEMS, USERS, LENGTH, TOWER = 40, 30, 8, 6
HOUR = 3_600_000_000
START = 1_700_000_000_000_000
CONFIG = RankingModelConfig(
    item_width=6,
    user_width=3,
    code_width=3,
    title_width=2,
    vector_width=4,
    attended=4,
    dcn=DcnConfig(cross_layers=3, cross_rank=4, deep=(12, 8)),
)


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that a ranker is trained on."""

    schema: FeatureSchema
    items: ItemFeatures
    users: UserFeatures
    user_ids: list[str]
    tower: np.ndarray
    events: tuple[np.ndarray, np.ndarray, np.ndarray]  # user rows, item numbers, times
    transitions: TransitionTable
    popularity: PopularityTimeline
    examples: RankingExamples
    validation: RankingExamples

    def tables(self) -> ItemTables:
        return ItemTables.build(self.schema, self.items, self.tower, self.transitions)

    def model(self, seed: int = 0) -> RankingModel:
        """A model whose every weight matters."""
        torch.manual_seed(seed)
        model = RankingModel(self.schema, CONFIG, TOWER)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "history.weight" not in name and ".weight" in name:
                    weight.add_(torch.randn_like(weight) * 0.2)
            for layer in model.dcn.cross:
                layer.bias.normal_(std=0.3)
                layer.u.normal_(std=0.3)
            model.pair_mean.normal_()
            model.pair_std.uniform_(0.5, 2)
            model.calibration.copy_(torch.tensor([0.7, -0.4]))
        return model.eval()


def make_world(*, has_times: bool = True) -> World:
    rng = np.random.default_rng(0)
    schema = FeatureSchema(
        history_length=LENGTH,
        has_times=has_times,
        item_count=ITEMS,
        user_count=USERS,
        item_categorical=(
            CategoricalFeature(name="category", vocabulary=("a", "b", "c")),
            CategoricalFeature(name="creator", vocabulary=tuple("defgh")),
        ),
        item_multi=(MultiFeature(name="tags", vocabulary=tuple("tuvwxyz")),),
        item_numeric=(NumericFeature(name="price", mean=2, std=1),),
        user_categorical=(CategoricalFeature(name="sex", vocabulary=("F", "M")),),
        user_numeric=(NumericFeature(name="age", mean=30, std=10),),
        vector_sets=(VectorSet(name="image", width=3),),
        title_buckets=20,
        title_length=3,
    )
    multi = np.zeros((ITEMS, 1, 8), np.int32)
    multi[:, 0, :2] = rng.integers(0, 8, (ITEMS, 2))
    multi[:, 0].sort(axis=1)
    multi = multi[..., ::-1].copy()  # values first, padding last
    items = ItemFeatures(
        categorical=np.stack([rng.integers(0, 4, ITEMS), rng.integers(0, 6, ITEMS)], 1).astype(
            "i4"
        ),
        multi=multi,
        title_tokens=rng.integers(0, 20, (ITEMS, 3)).astype(np.int32),
        numeric=rng.standard_normal((ITEMS, 1)).astype(np.float32),
        vectors=rng.standard_normal((ITEMS, 3)).astype(np.float32),
        born_micros=np.where(
            rng.random(ITEMS) < 0.3, -1, START - rng.integers(0, 99, ITEMS) * HOUR
        ),
    )
    user_ids = [f"user{u}" for u in range(USERS)]
    users = schema.encode_user_table(
        pl.DataFrame(
            {"user_id": user_ids, "sex": ["F", "M", None] * 10, "age": [*range(20, 50)]},
        )
    )
    tower = rng.standard_normal((ITEMS, TOWER)).astype(np.float32)
    tower /= np.linalg.norm(tower, axis=1, keepdims=True)
    start = rng.integers(0, ITEMS, USERS)
    steps = np.arange(14)
    numbers = (start[:, None] + steps) % ITEMS  # (U, 14)
    times = START + (steps * HOUR)[None] + np.arange(USERS)[:, None] * 1000
    early = numbers[:, :8].ravel(), times[:, :8].ravel(), np.repeat(np.arange(USERS), 8)
    return World(
        schema=schema,
        items=items,
        users=users,
        user_ids=user_ids,
        tower=tower,
        events=(np.repeat(np.arange(USERS), 14), numbers.ravel(), times.ravel()),
        transitions=TransitionTable.fit(early[2], early[0], ITEMS),
        popularity=PopularityTimeline(early[0], early[1] if has_times else None, ITEMS),
        examples=_cases(numbers, times, range(8, 12), rng),
        validation=_cases(numbers, times, range(12, 14), rng),
    )


def _cases(
    numbers: np.ndarray, times: np.ndarray, places: range, rng: np.random.Generator
) -> RankingExamples:
    parts = []
    for place in places:
        wrong = (numbers[:, place, None] + rng.integers(1, ITEMS, (USERS, 6))) % ITEMS
        candidates = np.concatenate([numbers[:, place, None], wrong], axis=1)
        parts.append(
            (
                np.arange(1, USERS + 1),
                numbers[:, place - LENGTH : place],
                times[:, place - LENGTH : place],
                times[:, place],
                candidates,
            )
        )
    rows, history, when, now, candidates = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return RankingExamples(
        user_row=rows,
        history=history,
        history_times=when,
        now=now,
        candidates=candidates,
        retrieval_scores=rng.random(candidates.shape, np.float32),
        retrieved=rng.random(candidates.shape) < 0.8,
    )


class Folder:
    """What RankingCore needs of a release, in any folder."""

    def __init__(self, root: Path, end: int) -> None:
        self.root, self.id = root, "test-release"
        self.info: dict[str, Any] = {"data_end_micros": end}

    @property
    def names(self) -> list[str]:
        return [path.name for path in self.root.iterdir()]

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()

    def file(self, name: str) -> Path:
        return self.root / name


def write_release(world: World, model: RankingModel, root: Path) -> Folder:
    world.schema.save(root / "schema.json")
    world.items.save(root / "item_features.safetensors")
    save_file({"vectors": world.tower}, root / "item_vectors.safetensors")
    world.transitions.save(root / "transitions.safetensors")
    end = int(world.events[2].max())
    world.popularity.snapshot(end).save(root / "popularity.safetensors")
    pl.DataFrame({"user_id": world.user_ids}).write_parquet(root / "users.parquet")
    save_ranker(model, root / "ranker.safetensors", root / "ranker.json")
    return Folder(root, end)
