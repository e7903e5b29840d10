"""Data sets of tables in memory: the same as from files, and the same refusals."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corerec.data import dataset_from_frames, load_dataset
from corerec.errors import ConfigError, DataError

EVENTS = pl.DataFrame(
    {"user_id": ["b", "a", "b", "c"], "item_id": [7, 9, 9, 7], "at": [30, 10, 20, 5]}
)
ITEMS = pl.DataFrame(
    {
        "item_id": [9, 7, 8],
        "name": ["nine", "seven", None],
        "tags": [["x", "y"], [], None],
        "price": [1.0, None, 3.0],
    }
)
USERS = pl.DataFrame({"user_id": ["a", "z"], "age": [30, 40]})


def test_frames_give_what_the_same_files_give(tmp_path: Path) -> None:
    EVENTS.write_parquet(tmp_path / "e.parquet")
    ITEMS.write_parquet(tmp_path / "i.parquet")
    USERS.write_parquet(tmp_path / "u.parquet")
    vectors = np.arange(6, dtype=np.float64).reshape(3, 2)
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "dataset.toml").write_text(
        'format = 1\nname = "x"\n[interactions]\nfile = "e.parquet"\ntime = "at"\n'
        '[items]\nfile = "i.parquet"\ntitle = "name"\nmulti = ["tags"]\nnumeric = ["price"]\n'
        '[users]\nfile = "u.parquet"\nnumeric = ["age"]\n[vectors]\npicture = "v.npy"\n'
    )
    files = load_dataset(tmp_path)
    frames = dataset_from_frames(
        EVENTS,
        ITEMS,
        USERS,
        vectors={"picture": vectors},
        time="at",
        title="name",
        item_multi=["tags"],
        item_numeric=["price"],
        user_numeric=["age"],
    )
    for table in ("items", "users", "interactions"):
        assert getattr(files, table).equals(getattr(frames, table)), table
    assert np.array_equal(files.vectors["picture"], frames.vectors["picture"])
    assert frames.vectors["picture"].dtype == np.float32
    assert (files.has_times, files.item_multi) == (frames.has_times, frames.item_multi)


def test_without_items_and_times_the_rows_tell_both() -> None:
    data = dataset_from_frames(EVENTS)
    assert data.items["item_id"].to_list() == ["7", "9"]
    assert data.users["user_id"].to_list() == ["b", "a", "c"]
    assert not data.has_times
    own = data.interactions.filter(pl.col("user_row") == 0)
    assert own["item_number"].to_list() == [0, 1]
    assert own["time_micros"].to_list() == [0, 1]


def test_an_order_column_and_temporal_times_are_understood() -> None:
    assert dataset_from_frames(EVENTS, order="at").interactions["item_number"].to_list() == [
        1, 0, 1, 0,
    ]  # fmt: skip
    moments = EVENTS.with_columns(
        pl.Series("at", [datetime(2026, 1, day, tzinfo=UTC) for day in (4, 2, 3, 1)])
    )
    data = dataset_from_frames(moments, time="at")
    assert data.has_times
    assert data.interactions["user_row"].to_list() == [2, 1, 0, 0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"interactions": EVENTS.head(0)}, DataError, "interactions: a table must have at least"),
        ({"user": "who"}, DataError, "interactions, column 'who': the column is missing"),
        (
            {"interactions": EVENTS.with_columns(pl.Series("item_id", [7, None, 9, 7]))},
            DataError,
            "interactions:2, column 'item_id': an id must not be empty",
        ),
        ({"items": ITEMS.head(1)}, DataError, "interactions:1, column 'item_id': an interaction"),
        ({"items": pl.concat([ITEMS, ITEMS])}, DataError, "items:4, column 'item_id': an id must"),
        ({"time": "at", "order": "at"}, ConfigError, "exactly one of time and order"),
        ({"item_numeric": ["price", "price"]}, ConfigError, "must name each column once"),
        ({"users": USERS, "user_numeric": ["height"]}, DataError, "users, column 'height'"),
        (
            {"vectors": {"picture": np.zeros((2, 4))}},
            DataError,
            "vectors 'picture': vectors must have one row for each of the 3 items, got 2",
        ),
        (
            {"vectors": {"picture": np.array([[0.0], [np.nan], [1.0]])}},
            DataError,
            "row 2 dimension 0 is not, got nan",
        ),
        ({"vectors": {"picture": np.zeros((3, 4), int)}}, DataError, "must be float16, float32"),
    ],
)
def test_what_is_wrong_is_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"interactions": EVENTS, "items": ITEMS} | change
    with pytest.raises(error, match=message):
        dataset_from_frames(**arguments)


def test_unknown_items_may_be_dropped() -> None:
    data = dataset_from_frames(EVENTS, ITEMS.head(1), unknown_items="drop")
    assert len(data.interactions) == 2
    assert data.dropped == {"unknown_item": 2}
