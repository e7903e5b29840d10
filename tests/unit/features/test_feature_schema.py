from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corerec.errors import ConfigError, InvalidArgument
from corerec.features import FeatureSchema, ItemFeatures, UserIndex
from corerec.features import encode as encoding
from corerec.features.encode import title_tokens
from corerec.features.schema import CategoricalFeature


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What FeatureSchema.fit reads of a Dataset."""

    items: pl.DataFrame
    users: pl.DataFrame
    has_times: bool = True
    item_categorical: tuple[str, ...] = ("studio",)
    item_multi: tuple[str, ...] = ("genres",)
    item_numeric: tuple[str, ...] = ("price",)
    user_categorical: tuple[str, ...] = ("sex",)
    user_numeric: tuple[str, ...] = ("age",)

    @property
    def vectors(self) -> dict[str, np.ndarray]:
        return {"image": np.arange(8, dtype=np.float32).reshape(4, 2)}


@pytest.fixture
def tables() -> Tables:
    return Tables(
        items=pl.DataFrame(
            {
                "item_number": [0, 1, 2, 3],
                "title": ["The Red Shoe", "red HAT", None, ""],
                "category": ["shoes", "hats", None, "shoes"],
                "creator": pl.Series([None] * 4, dtype=pl.String),
                "born_micros": [5, None, 7, 8],
                "studio": ["a", "b", "b", "b"],
                "genres": [["x", "y"], ["y"], None, []],
                "price": [1.0, 3.0, None, 2.0],
            }
        ),
        users=pl.DataFrame({"user_id": ["u", "v"], "sex": ["F", "M"], "age": [20, 40]}),
    )


def encode(tables: Tables) -> tuple[FeatureSchema, ItemFeatures]:
    schema = FeatureSchema.fit(tables)
    return schema, schema.encode_items(tables.items, tables.vectors)


def test_codes_come_from_the_vocabulary_and_zero_is_missing(tables: Tables) -> None:
    schema, items = encode(tables)
    assert [f.name for f in schema.item_categorical] == ["category", "creator", "studio"]
    assert schema.item_categorical[0].vocabulary == ("shoes", "hats")
    np.testing.assert_array_equal(items.categorical, [[1, 0, 2], [2, 0, 1], [0, 0, 1], [1, 0, 1]])
    assert schema.item_multi[0].vocabulary == ("y", "x")
    np.testing.assert_array_equal(items.multi[:, 0, :2], [[2, 1], [1, 0], [0, 0], [0, 0]])


def test_numbers_are_standardised_and_missing_ones_are_the_mean(tables: Tables) -> None:
    _, items = encode(tables)
    std = np.std([1, 3, 2])
    np.testing.assert_allclose(items.numeric[:, 0], [-1 / std, 1 / std, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(items.born_micros, [5, -1, 7, 8])
    np.testing.assert_allclose(np.linalg.norm(items.vectors, axis=1), 1, rtol=1e-6)


def test_titles_hash_by_word_without_case(tables: Tables) -> None:
    _, items = encode(tables)
    red = items.title_tokens[0, 1]
    assert red == items.title_tokens[1, 0] > 0
    assert items.title_tokens[2:].sum() == 0
    # Golden value: a release's titles must hash alike on every machine and version.
    assert title_tokens(pl.Series(["red"]), buckets=20_000, length=3).tolist() == [[5456, 0, 0]]


def test_new_items_and_values_are_encoded_with_the_same_schema(tables: Tables) -> None:
    schema, _ = encode(tables)
    one = tables.items.head(1).with_columns(
        category=pl.lit("never seen"), genres=pl.Series([["never", "y"]])
    )
    items = schema.encode_items(one, {"image": np.ones((1, 2), np.float32)})
    assert items.categorical[0, 0] == 0
    assert items.multi[0, 0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def test_schema_and_items_survive_their_files(tables: Tables, tmp_path: Path) -> None:
    schema, items = encode(tables)
    schema.save(tmp_path / "schema.json")
    assert FeatureSchema.load(tmp_path / "schema.json") == schema
    items.save(tmp_path / "items.safetensors")
    again = ItemFeatures.load(tmp_path / "items.safetensors")
    for field in fields(ItemFeatures):
        before, after = getattr(items, field.name), getattr(again, field.name)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


def test_an_unknown_key_in_the_file_is_refused(tables: Tables, tmp_path: Path) -> None:
    schema, _ = encode(tables)
    path = tmp_path / "schema.json"
    schema.save(path)
    path.write_text(path.read_text().replace('"has_times"', '"has_tims"'))
    with pytest.raises(ConfigError, match="has_tims"):
        FeatureSchema.load(path)


def test_nan_and_wrong_shapes_are_refused(tables: Tables) -> None:
    schema, _ = encode(tables)
    nan = tables.items.with_columns(price=pl.Series([1.0, float("nan"), 2.0, None]))
    with pytest.raises(InvalidArgument, match="'price' must be finite, row 1 is nan"):
        schema.encode_items(nan, tables.vectors)
    bad = tables.vectors["image"]
    bad[2, 0] = np.inf
    with pytest.raises(InvalidArgument, match="must be finite, row 2"):
        schema.encode_items(tables.items, {"image": bad})
    with pytest.raises(InvalidArgument, match=r"must have shape \(4, 2\)"):
        schema.encode_items(tables.items, {"image": np.ones((4, 3), np.float32)})
    with pytest.raises(InvalidArgument, match="columns"):
        schema.encode_items(tables.items.drop("genres"), tables.vectors)


def test_users_of_requests_equal_users_of_the_table(tables: Tables) -> None:
    schema, _ = encode(tables)
    table = schema.encode_user_table(tables.users)
    asked = schema.encode_users(
        ["v", "stranger", ""],
        [{"sex": "M", "age": "40", "shoe_size": "9"}, {"sex": "?"}, {}],
        UserIndex(tables.users["user_id"].to_list()),
    )
    expected = table.take(np.array([2, 0, 0]))
    np.testing.assert_array_equal(asked.row, expected.row)
    np.testing.assert_array_equal(asked.categorical, expected.categorical)
    np.testing.assert_array_equal(asked.numeric, expected.numeric)


@pytest.mark.parametrize("age", ["old", "nan", "inf"])
def test_an_attribute_that_is_not_a_number_is_refused(tables: Tables, age: str) -> None:
    schema, _ = encode(tables)
    with pytest.raises(InvalidArgument, match="'age' must be a finite number"):
        schema.check_attributes({"age": age})


def test_no_items_and_no_users_give_empty_arrays(tables: Tables) -> None:
    schema, _ = encode(tables)
    none = schema.encode_items(tables.items.head(0), {"image": np.empty((0, 2), np.float32)})
    assert none.categorical.shape == (0, 3)
    assert none.multi.shape == (0, 1, 8)
    assert len(schema.encode_users([], [], UserIndex([]))) == 0


def test_a_few_rows_are_encoded_as_many_are(monkeypatch: pytest.MonkeyPatch) -> None:
    feature = CategoricalFeature(name="c", vocabulary=("b", "a", "1"))
    column = pl.Series(["a", None, "zz", "b", "1"])
    few = encoding._codes(column, feature)
    monkeypatch.setattr(encoding, "FEW_ROWS", 0)
    many = encoding._codes(column, feature)
    assert few.tolist() == many.tolist() == [2, 0, 0, 1, 3]
    assert few.dtype == many.dtype


@pytest.mark.parametrize("odd", ["plain", "Überschuh & \u0301mark", "İstanbul"])
def test_every_array_of_a_few_rows_is_that_of_many(tables: Tables, odd: str) -> None:
    schema = FeatureSchema.fit(tables)
    titles = ["The Red-Shoe's 2nd, of_all", None, odd, ""]
    lists = [["y", "new", "x"] * 5, None, [], ["x"]]
    columns = {
        "title": pl.Series(titles),
        "genres": pl.Series(lists, dtype=pl.List(pl.String)),
        "price": pl.Series([1e9, None, -3.5, 2.0]),
    }
    few = tables.items.with_columns(**columns)
    times = 1 + encoding.FEW_ROWS // len(few)
    many = pl.concat([few] * times)
    found = schema.encode_items(few, tables.vectors)
    vectors = {name: np.tile(own, (times, 1)) for name, own in tables.vectors.items()}
    expected = schema.encode_items(many, vectors)
    for own in fields(ItemFeatures):
        array, other = getattr(found, own.name), getattr(expected, own.name)[: len(few)]
        np.testing.assert_array_equal(array, other)
        assert array.dtype == other.dtype
