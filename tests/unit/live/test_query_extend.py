"""Histories with later items: the encoder reads them by what their content gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corerec.data import Dataset, load_dataset
from corerec.engines import TwoTower
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.engines.two_tower_query import ROOM
from corerec.stages import UserContext


@pytest.fixture(scope="module")
def data(tiny_data: Path) -> Dataset:
    return load_dataset(tiny_data)


@pytest.fixture(scope="module", params=["attention", "mean"])
def folder(
    request: pytest.FixtureRequest, data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    config = TwoTowerConfig(dim=16, heads=2, history=request.param, history_length=20, hidden=32)
    root = tmp_path_factory.mktemp("model")
    TwoTower(config=config, training=TwoTowerFitConfig(epochs=1)).fit(data).save(root)
    return root


def _queries(model: TwoTower, *histories: list[int]) -> np.ndarray:
    return model.encode_users([UserContext(items=np.array(h, np.int64)) for h in histories])


def _base(model: TwoTower) -> np.ndarray:
    assert model._content is not None
    return model.net.item_base(model._content).numpy()


def test_a_later_twin_counts_as_its_twin_does(folder: Path) -> None:
    model = TwoTower.load(folder)
    count, base = model.item_count, _base(model)
    without = _queries(model, [3, 4, count + 1])
    assert np.array_equal(without, _queries(model, [3, 4]))
    model.extend(np.array([count + 1]), base[5:6])
    found, twin = _queries(model, [3, 4, count + 1, 9]), _queries(model, [3, 4, 5, 9])
    np.testing.assert_allclose(found, twin, atol=1e-6)  # other matrices, other last bits
    assert np.abs(found - _queries(model, [3, 4, 9])).max() > 1e-3
    assert np.array_equal(_queries(model, [count, 3]), _queries(model, [3]))  # a gap


def test_a_changed_item_counts_as_what_it_became_and_others_keep_every_bit(folder: Path) -> None:
    model = TwoTower.load(folder)
    base, before = _base(model), _queries(model, [3, 4], [])
    model.extend(np.array([7]), base[8:9])
    np.testing.assert_allclose(_queries(model, [3, 7]), _queries(model, [3, 8]), atol=1e-6)
    assert np.array_equal(_queries(model, [3, 4], []), before)


def test_the_table_grows_beyond_its_room(folder: Path) -> None:
    model = TwoTower.load(folder)
    count, base = model.item_count, _base(model)[:-1]
    later = np.arange(2 * (ROOM + count))
    for start in range(0, len(later), 301):
        part = later[start : start + 301]
        model.extend(part + count, base[part % count])
    model.extend(np.empty(0, np.int64), base[:0])
    for place in (0, ROOM, len(later) - 1):
        np.testing.assert_allclose(
            _queries(model, [2, count + place]), _queries(model, [2, place % count]), atol=1e-6
        )
