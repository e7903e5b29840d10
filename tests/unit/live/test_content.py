"""ContentSide against the tower itself: what it makes of an item is what training made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from corerec.data import Dataset, load_dataset
from corerec.engines import TwoTower
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.errors import InvalidArgument
from corerec.live.content import ContentSide
from corerec.live.rows import items_of
from corerec.release import Release, ReleaseWriter
from corerec.store.catalogue import Item

PLAIN = TwoTowerConfig(dim=16, heads=2, history_length=20, hidden=32)


@pytest.fixture(scope="module")
def data(tiny_data: Path) -> Dataset:
    return load_dataset(tiny_data)


@pytest.fixture(
    scope="module",
    params=[PLAIN, replace(PLAIN, bias=True), replace(PLAIN, fusion="attention", neighbours=3)],
    ids=["plain", "bias", "neighbours"],
)
def trained(
    request: pytest.FixtureRequest, data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TwoTower, Release]:
    fit = TwoTowerFitConfig(epochs=1, learning_rate=1e-2)
    model = TwoTower(config=request.param, training=fit, device="cpu").fit(data)
    with ReleaseWriter(tmp_path_factory.mktemp("releases")) as writer:
        model.save(writer.path("two_tower.json").parent)
        return model, Release.open(writer.commit({"models": {"two_tower": model.model_id}}))


@pytest.fixture(scope="module")
def items(data: Dataset) -> list[Item]:
    return items_of(data.items, data.vectors)


def _numbers(items: Sequence[Item]) -> np.ndarray:
    return np.arange(len(items))


def test_items_of_the_training_get_the_vectors_that_they_have(
    trained: tuple[TwoTower, Release], items: list[Item]
) -> None:
    model, release = trained
    side = ContentSide.load(release)
    found = side.encode(_numbers(items), items)
    np.testing.assert_allclose(found.vectors, model.encode_items(), atol=2e-6)
    for field in fields(found.features):
        own, told = getattr(found.features, field.name), getattr(model.inputs.items, field.name)
        np.testing.assert_allclose(own, told, atol=1e-6, err_msg=field.name)


def test_a_new_item_is_its_content_alone(
    trained: tuple[TwoTower, Release], items: list[Item]
) -> None:
    model, release = trained
    side = ContentSide.load(release)
    new = np.arange(4) + side.item_count
    cold = side.vectors(new, items[:4])
    assert np.abs(cold - model.encode_items()[:4]).max() > 1e-3
    np.testing.assert_allclose(cold, side.vectors(new[::-1].copy(), items[:4]), atol=1e-6)
    for row in range(4):  # no item of a batch depends on another
        alone = side.vectors(new[row : row + 1], items[row : row + 1])
        np.testing.assert_allclose(alone[0], cold[row], atol=1e-6)


def test_an_item_that_brings_no_vector_keeps_the_one_of_the_training(
    trained: tuple[TwoTower, Release], items: list[Item]
) -> None:
    _, release = trained
    side = ContentSide.load(release)
    bare = [replace(item, vectors={}) for item in items[:5]]
    kept = side.features(bare, _numbers(bare))
    np.testing.assert_allclose(kept.vectors, side.features(items[:5]).vectors, atol=1e-6)
    assert side.schema.vector_sets
    assert not side.features(bare).vectors.any()


def test_nothing_gives_nothing(trained: tuple[TwoTower, Release]) -> None:
    side = ContentSide.load(trained[1])
    assert side.vectors(np.empty(0, np.int64), []).shape == (0, side.dim)


def _broken(schema_item: Item, side: ContentSide) -> list[tuple[Item, str]]:
    numeric = side.schema.item_numeric[0].name
    vectors = side.schema.vector_sets[0]
    multi = side.schema.item_multi[0].name
    wide = np.zeros(vectors.width + 1, np.float32)
    bad = np.full(vectors.width, np.nan, np.float32)
    own = dict(schema_item.attributes)
    return [
        (replace(schema_item, attributes={**own, numeric: "dear"}), f"column '{numeric}'"),
        (replace(schema_item, attributes={**own, numeric: "inf"}), "must be a finite number"),
        (replace(schema_item, attributes={**own, multi: "a"}), "must be a list in lists"),
        (replace(schema_item, lists={numeric: ("1",)}), "must be one value in attributes"),
        (replace(schema_item, vectors={vectors.name: wide}), f"{vectors.width} numbers"),
        (replace(schema_item, vectors={vectors.name: bad}), "must be finite"),
    ]


def test_a_bad_value_is_refused_by_name_and_the_good_ones_are_encoded(
    trained: tuple[TwoTower, Release], items: list[Item]
) -> None:
    side = ContentSide.load(trained[1])
    for bad, rule in _broken(items[0], side):
        with pytest.raises(InvalidArgument, match=rule) as caught:
            side.features([items[1], bad])
        assert repr(bad.item_id) in str(caught.value)
        found = side.encode_good(np.array([900, 901]), [bad, items[1]])
        assert found.numbers.tolist() == [901]
        assert len(found.refused) == 1
        np.testing.assert_allclose(
            found.vectors, side.vectors(np.array([901]), [items[1]]), atol=1e-6
        )


def test_unknown_attributes_and_values_are_no_error(
    trained: tuple[TwoTower, Release], items: list[Item]
) -> None:
    side = ContentSide.load(trained[1])
    odd = Item(item_id="odd", category="never seen", attributes={"shelf": "7"}, lists={"a": ("b",)})
    found = side.encode(np.array([side.item_count]), [odd])
    assert found.features.categorical[0, 0] == 0
    assert np.isfinite(found.vectors).all()
