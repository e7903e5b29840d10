"""A release of a ranker with random weights, and requests; speed depends on no weight.

The world has the usual attributes and density. Candidates are drawn evenly, so that each is read
from memory anew; histories are of popular items, which have the most followers: the costly cases.
"""

from __future__ import annotations

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
    PopularitySnapshot,
    VectorSet,
)
from corerec.ranking.files import save_ranker
from corerec.ranking.model import RankingModel, RankingModelConfig
from corerec.ranking.transitions import TransitionTable
from corerec.stages import Candidates, RankEntry, Source, UserContext

CANDIDATES, HISTORY, TOWER = 500, 50, 64
LARGE = DcnConfig(cross_layers=3, cross_rank=64, deep=(256, 128))
END = 1_700_000_000_000_000
HOUR = 3_600_000_000


class Folder:
    """A folder with the files that RankingCore reads."""

    def __init__(self, root: Path) -> None:
        self.root, self.id = root, "benchmark"
        self.info: dict[str, Any] = {"data_end_micros": END}

    @property
    def names(self) -> list[str]:
        return [path.name for path in self.root.iterdir()]

    def has(self, name: str) -> bool:
        return (self.root / name).exists()

    def file(self, name: str) -> Path:
        return self.root / name


def write_release(
    root: Path, items: int, users: int, rng: np.random.Generator, *, large: bool = False
) -> Folder:
    def vocabulary(name: str, size: int) -> tuple[str, ...]:
        return tuple(f"{name}{i}" for i in range(size))

    schema = FeatureSchema(
        has_times=True,
        item_count=items,
        user_count=users,
        item_categorical=tuple(
            CategoricalFeature(name=name, vocabulary=vocabulary(name, size))
            for name, size in (("category", 100), ("creator", items // 20))
        ),
        item_multi=(MultiFeature(name="tags", vocabulary=vocabulary("tag", 200)),),
        item_numeric=(),
        user_categorical=(CategoricalFeature(name="sex", vocabulary=("F", "M")),),
        user_numeric=(),
        vector_sets=(VectorSet(name="image", width=32),),
    )
    schema.save(root / "schema.json")
    multi = np.zeros((items, 1, 8), np.int32)
    multi[:, 0, :3] = rng.integers(1, 201, (items, 3))
    ItemFeatures(
        categorical=np.stack(
            [rng.integers(1, 101, items), rng.integers(1, items // 20 + 1, items)], axis=1
        ).astype(np.int32),
        multi=multi,
        title_tokens=rng.integers(1, 20_000, (items, 12)).astype(np.int32),
        numeric=np.zeros((items, 0), np.float32),
        vectors=rng.standard_normal((items, 32)).astype(np.float32),
        born_micros=END - rng.integers(0, 1000, items) * 24 * HOUR,
    ).save(root / "item_features.safetensors")
    tower = rng.standard_normal((items, TOWER)).astype(np.float32)
    tower /= np.linalg.norm(tower, axis=1, keepdims=True)
    save_file({"vectors": tower}, root / "item_vectors.safetensors")
    draws = np.minimum(rng.zipf(1.3, 1_000_000) - 1, items - 1)
    TransitionTable.fit(np.repeat(np.arange(20_000), 50), draws, items).save(
        root / "transitions.safetensors"
    )
    counts = np.bincount(draws, minlength=items).astype(np.float32)
    PopularitySnapshot(total=counts, recent=counts / 10).save(root / "popularity.safetensors")
    pl.DataFrame({"user_id": [f"u{i}" for i in range(users)]}).write_parquet(root / "users.parquet")
    torch.manual_seed(0)
    model = RankingModel(
        schema, RankingModelConfig(dcn=LARGE) if large else RankingModelConfig(), TOWER
    )
    save_ranker(model, root / "ranker.safetensors", root / "ranker.json")
    return Folder(root)


def make_entries(
    count: int, items: int, rng: np.random.Generator, candidates: int = CANDIDATES
) -> list[RankEntry]:
    entries = []
    for number in range(count):
        numbers = rng.permutation(np.unique(rng.integers(0, items, 3 * candidates)))[:candidates]
        history = np.minimum(rng.zipf(1.3, HISTORY) - 1, items - 1).astype(np.int64)
        entries.append(
            RankEntry(
                user=UserContext(
                    user_id=f"u{number}",
                    attributes={"sex": "F"},
                    items=history,
                    times=END - np.arange(HISTORY, 0, -1) * HOUR,
                ),
                candidates=Candidates(
                    numbers=numbers,
                    scores=np.sort(rng.random(len(numbers), np.float32))[::-1].copy(),
                    sources=np.full(len(numbers), Source.TWO_TOWER, np.uint8),
                ),
                k=100,
            )
        )
    return entries
