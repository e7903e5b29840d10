"""Content neighbours, against plain loops, and in the two-tower that learns through them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Generator, Tensor

from corerec.data import Dataset, dataset_from_frames
from corerec.engines import TwoTower
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.errors import ConfigError
from corerec.multimodal import neighbours
from corerec.multimodal.neighbours import content_neighbours, nearest_among, neighbour_mean


@pytest.fixture
def vectors() -> Tensor:
    """Thirty vectors, three of them missing."""
    found = torch.randn(30, 5, generator=Generator().manual_seed(0))
    found[[3, 17, 29]] = 0
    return found


def test_neighbours_are_those_of_plain_loops(
    vectors: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = content_neighbours(vectors, 4)
    lengths = vectors.norm(dim=1)
    for item in range(30):
        if lengths[item] == 0:
            assert found[item].tolist() == [-1] * 4
            continue
        cosines = {
            other: float(vectors[item] @ vectors[other] / lengths[item] / lengths[other])
            for other in range(30)
            if other != item and lengths[other] > 0
        }
        assert found[item].tolist() == sorted(cosines, key=lambda other: -cosines[other])[:4]
    monkeypatch.setattr(neighbours, "_SCORES", 70)  # two rows at once
    assert torch.equal(content_neighbours(vectors, 4), found)


def test_where_there_are_too_few_the_rest_is_empty() -> None:
    found = content_neighbours(torch.eye(3), 5)
    assert found.shape == (3, 5)
    assert sorted(found[0, :2].tolist()) == [1, 2]
    assert (found[:, 2:] == -1).all()
    assert content_neighbours(torch.zeros(0, 3), 2).shape == (0, 2)
    assert content_neighbours(torch.ones(1, 3), 2).tolist() == [[-1, -1]]


def test_the_mean_leaves_out_what_is_not_there() -> None:
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0], [float(2**20)] * 2])
    near = torch.tensor([[0, 1], [1, -1], [-1, -1]])
    found = neighbour_mean(table[near.clamp(min=0)], near)
    assert found.tolist() == [[2, 3], [3, 4], [0, 0]]


@pytest.fixture(scope="module")
def twins() -> Dataset:
    """Two circles of items; every item but the last two of each has events, all have vectors."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 6)
    items = np.concatenate([rng.choice(18, 6, replace=False) + 20 * (u % 2) for u in range(60)])
    looks = np.concatenate([np.tile([1.0, 0.0], (20, 1)), np.tile([0.0, 1.0], (20, 1))])
    return dataset_from_frames(
        pl.DataFrame({"user_id": users, "item_id": items}),
        pl.DataFrame({"item_id": np.arange(40)}),
        vectors={"image": (looks + 0.1 * rng.normal(size=(40, 2))).astype(np.float32)},
    )


def model(strategy: str, near: int = 5) -> TwoTower:
    config = TwoTowerConfig(
        dim=8, heads=1, history="mean", fusion=strategy, neighbours=near, id_dropout=0.0
    )
    return TwoTower(config=config, training=TwoTowerFitConfig(epochs=6), device="cpu")


def test_an_item_that_nobody_met_lies_with_those_that_look_like_it(twins: Dataset) -> None:
    vectors = model("concat").fit(twins).encode_items()
    near = vectors @ vectors.T
    for cold in (18, 19, 38, 39):
        own = slice(0, 18) if cold < 20 else slice(20, 38)
        other = slice(20, 38) if cold < 20 else slice(0, 18)
        assert near[cold, own].mean() > near[cold, other].mean() + 0.2


def test_saved_and_loaded_it_scores_the_same_bits(twins: Dataset, tmp_path: Path) -> None:
    fitted = model("gated").fit(twins)
    fitted.save(tmp_path)
    loaded = TwoTower.load(tmp_path)
    assert np.array_equal(loaded.encode_items(), fitted.encode_items())
    assert loaded.config.neighbours == 5
    fusion = fitted.net.item.fusion
    assert fusion is not None
    assert fusion.names == ("id", "image", "image neighbours")


def test_training_that_first_looks_at_all_items_still_learns(
    twins: Dataset, tmp_path: Path
) -> None:
    training = TwoTowerFitConfig(epochs=3, hard_negatives=2, hard_pool=5)
    whole = TwoTower(config=model("concat").config, training=training, device="cpu").fit(twins)
    calls = 0

    def stop(_: TwoTower) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return float(calls)

    again = TwoTower(config=whole.config, training=training, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        again.fit(twins, validate=stop, checkpoint=tmp_path / "checkpoint")
    again = TwoTower(config=whole.config, training=training, device="cpu")
    # Hard negatives are mined before the first step of the resumed run.
    again.fit(twins, validate=lambda _: float(calls), checkpoint=tmp_path / "checkpoint")
    assert np.isfinite(again.encode_items()).all()


def test_neighbours_without_a_fusion_are_refused() -> None:
    with pytest.raises(ConfigError, match="neighbours need a fusion other than 'sum', got 3"):
        TwoTowerConfig(neighbours=3)
    with pytest.raises(ConfigError, match="neighbours must be at least 0, got -1"):
        replace(TwoTowerConfig(), neighbours=-1)


def test_others_find_their_neighbours_among_the_same_items(vectors: Tensor) -> None:
    asked = torch.cat([vectors[:5], torch.zeros(1, 5), vectors[7:8] * 3])
    own = torch.tensor([0, 1, 2, 3, 4, 30, 30])
    found = nearest_among(asked, vectors, 4, own)
    assert torch.equal(found[:5], content_neighbours(vectors, 4)[:5])
    assert found[5].tolist() == [-1] * 4
    assert found[6, 0] == 7  # a new twin has its twin as neighbour
    assert torch.equal(found[6, 1:], content_neighbours(vectors, 4)[7, :3])
    assert nearest_among(asked[:0], vectors, 4, own[:0]).shape == (0, 4)
