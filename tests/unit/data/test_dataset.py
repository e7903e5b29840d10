"""The loader keeps what is right and refuses what is broken, naming file, line, column and rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corerec.data import load_dataset
from corerec.data.dataset import load_items
from corerec.errors import ConfigError, DataError

Change = Callable[[str, str, str], None]


def test_ids_become_numbers_and_rows_and_interactions_are_in_the_order_of_time(small: Path) -> None:
    data = load_dataset(small)
    assert data.items["item_id"].to_list() == ["a", "b", "c"]
    assert data.items["item_number"].to_list() == [0, 1, 2]
    assert data.items["title"].to_list() == ['A "fine" lamp', "Two\nlines", "Chair"]
    assert data.items["category"].to_list() == ["Lamps", None, "Chairs"]
    assert data.items["creator"].to_list() == [None] * 3
    assert data.items["tags"].to_list() == [["red", "small"], [], ["wood"]]
    assert data.items["price"].to_list() == [9.5, None, 20.0]
    assert data.users["user_id"].to_list() == ["bob", "ann", "dan", "cid"]
    assert data.users["country"].to_list() == ["FR", "DE", "DE", None]
    assert data.interactions.rows() == [
        (0, 0, 10_000_000),
        (1, 0, 20_000_000),
        (1, 1, 30_000_000),
        (3, 2, 40_000_000),
    ]
    assert data.interactions.dtypes == [pl.Int32, pl.Int32, pl.Int64]
    assert data.has_times
    assert data.vectors["image"].shape == (3, 4)
    assert isinstance(data.vectors["image"], np.memmap)


def test_parquet_tables_give_the_same_data_set_as_csv_tables(small: Path, change: Change) -> None:
    before = load_dataset(small)
    for name in ("interactions", "items", "users"):
        pl.read_csv(small / f"{name}.csv").write_parquet(small / f"{name}.parquet")
        change("dataset.toml", f"{name}.csv", f"{name}.parquet")
    after = load_dataset(small)
    assert after.items.equals(before.items)
    assert after.users.equals(before.users)
    assert after.interactions.equals(before.interactions)


def test_an_order_per_user_replaces_times(small: Path, change: Change) -> None:
    change("dataset.toml", 'time = "timestamp"', 'order = "timestamp"')
    data = load_dataset(small)
    assert not data.has_times
    assert data.interactions.rows() == [(0, 0, 0), (1, 0, 0), (1, 1, 1), (3, 2, 0)]


@pytest.mark.parametrize(
    ("unit", "value", "micros"),
    [
        ("s", "30.5", 30_500_000),
        ("ms", "30", 30_000),
        ("us", "30", 30),
        ("iso", "1970-01-01T00:00:30Z", 30_000_000),
        ("iso", "1970-01-02", 86_400_000_000),
        ("iso", "1970-01-01 02:00:00+01:00", 3_600_000_000),
    ],
)
def test_time_units(small: Path, change: Change, unit: str, value: str, micros: int) -> None:
    change("dataset.toml", 'time = "timestamp"', f'time = "timestamp"\ntime_unit = "{unit}"')
    rows = f"user_id,item_id,timestamp\nann,b,{value}\n"
    (small / "interactions.csv").write_text(rows)
    assert load_dataset(small).interactions["time_micros"].to_list() == [micros]


def test_unknown_items_can_be_dropped_and_are_counted(small: Path, change: Change) -> None:
    change("interactions.csv", "cid,c", "cid,zebra")
    data = load_dataset(small, unknown_items="drop")
    assert data.dropped == {"unknown_item": 1}
    assert data.interactions.height == 3
    assert "cid" not in data.users["user_id"]


# file, what is replaced, by what, and everything that the error's text must contain
BROKEN = [
    ("interactions.csv", "timestamp", "timestmap", ["interactions.csv:1", "'timestamp'",
     "the column is missing", "did you mean 'timestmap'?"]),
    ("items.csv", "item_id,title", "nr,title", ["items.csv:1", "'item_id'", "missing",
     "the file has"]),
    ("users.csv", "user_id,country", "user_id,user_id", ["users.csv:1", "must occur once"]),
    ("interactions.csv", ",20", ",soon", ["interactions.csv:4", "'timestamp'", "readable", "soon"]),
    ("interactions.csv", ",20", ",-20", ["interactions.csv:4", "'timestamp'", "negative", "-20"]),
    ("interactions.csv", ",20", ",nan", ["interactions.csv:4", "'timestamp'", "finite", "nan"]),
    ("interactions.csv", ",20", ",", ["interactions.csv:4", "'timestamp'", "empty"]),
    ("interactions.csv", ",20", ",999999999999999", ["interactions.csv:4", "year 10000", "unit"]),
    ("interactions.csv", "ann,a", ",a", ["interactions.csv:4", "'user_id'", "empty"]),
    ("interactions.csv", "ann,a", "ann,", ["interactions.csv:4", "'item_id'", "empty"]),
    ("interactions.csv", "cid,c", "cid,zebra", ["interactions.csv:5", "'item_id'", "catalogue",
     "zebra"]),
    ("interactions.csv", "bob,a,10", "bob,a,10,7", ["interactions.csv:3", "3 fields", "4"]),
    ("interactions.csv", "bob,a,10", "bob,a", ["interactions.csv:3", "3 fields", "2"]),
    ("users.csv", "dan,DE", "dan", ["users.csv:4", "2 fields", "got 1"]),
    ("items.csv", "c,Chair,Chairs,wood,20", "c,Chair", ["items.csv:5", "5 fields", "got 2"]),
    ("items.csv", "c,Chair", "a,Chair", ["items.csv:5", "'item_id'", "once", "line 2", "'a'"]),
    ("items.csv", ",20", ",dear", ["items.csv:5", "'price'", "readable", "dear"]),
    ("items.csv", ",20", ",inf", ["items.csv:5", "'price'", "finite", "inf"]),
    ("users.csv", "dan", "bob", ["users.csv:4", "'user_id'", "once", "line 2", "'bob'"]),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "said"), BROKEN)
def test_what_is_broken_is_refused_with_its_place(
    small: Path, change: Change, file: str, old: str, new: str, said: list[str]
) -> None:
    change(file, old, new)
    with pytest.raises(DataError) as caught:
        load_dataset(small)
    for part in said:
        assert part in str(caught.value)


def test_bad_utf_8_is_refused_with_line_and_byte(small: Path) -> None:
    content = (small / "users.csv").read_bytes()
    (small / "users.csv").write_bytes(content.replace(b"ann,DE", b"ann,\xff"))
    with pytest.raises(DataError, match=r"users\.csv:3: text must be UTF-8, byte 27 is not"):
        load_dataset(small)


def test_bad_utf_8_beyond_one_block_and_a_cut_sequence_are_found(small: Path) -> None:
    rows = b"user_id,country\n" + b"\xc3\xa9" * (3 << 20) + b"1,DE\nann,\xe2\x82"
    (small / "users.csv").write_bytes(rows)
    with pytest.raises(DataError, match=f"users.csv:3: text must be UTF-8, byte {len(rows) - 2}"):
        load_dataset(small)


@pytest.mark.parametrize("text", ["", "user_id,item_id,timestamp\n", "\n"])
def test_empty_tables_are_refused(small: Path, text: str) -> None:
    (small / "interactions.csv").write_text(text)
    with pytest.raises(DataError, match=r"interactions.csv"):
        load_dataset(small)


def test_a_missing_file_is_named(small: Path) -> None:
    (small / "items.csv").unlink()
    with pytest.raises(DataError, match=r"items.csv: the file does not exist"):
        load_dataset(small)


def test_a_file_that_is_not_parquet_is_refused(small: Path, change: Change) -> None:
    change("dataset.toml", "items.csv", "items.parquet")
    (small / "items.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"items.parquet: the file is not readable as Parquet"):
        load_dataset(small)


def test_a_parquet_error_counts_rows_from_one(small: Path, change: Change) -> None:
    change("dataset.toml", "users.csv", "users.parquet")
    frame = pl.DataFrame({"user_id": ["x", "y", "x"], "country": ["DE"] * 3})
    frame.write_parquet(small / "users.parquet")
    with pytest.raises(DataError, match=r"users.parquet:3, column 'user_id'.*line 1"):
        load_dataset(small)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(small: Path, value: float) -> None:
    vectors = np.zeros((3, 4), np.float32)
    vectors[1, 2] = value
    np.save(small / "image.npy", vectors)
    with pytest.raises(DataError, match=r"image.npy:2: .*finite, row 2 dimension 2"):
        load_dataset(small)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.zeros((2, 4), np.float32), "one row for each of the 3 items, got 2"),
        (np.zeros(3, np.float32), "shape"),
        (np.zeros((3, 0), np.float32), "shape"),
        (np.zeros((3, 4), np.int64), "float32"),
    ],
)
def test_vectors_of_another_shape_or_kind_are_refused(
    small: Path, vectors: np.ndarray, said: str
) -> None:
    np.save(small / "image.npy", vectors)
    with pytest.raises(DataError, match=r"image.npy") as caught:
        load_dataset(small)
    assert said in str(caught.value)


def test_pickled_vectors_are_never_loaded(small: Path) -> None:
    np.save(small / "image.npy", np.array([{"a": 1}] * 3, object), allow_pickle=True)
    with pytest.raises(DataError, match=r"image.npy: the file is not readable"):
        load_dataset(small)


def test_a_position_may_not_repeat_in_a_history(small: Path, change: Change) -> None:
    change("dataset.toml", 'time = "timestamp"', 'order = "timestamp"')
    change("interactions.csv", ",20", ",30")
    with pytest.raises(DataError, match=r"interactions.csv:4, column 'timestamp'.*once"):
        load_dataset(small)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "title"', 'titel = "title"', "did you mean 'title'?"),
        ('time = "timestamp"', "", "exactly one of time and order"),
        ('categorical = ["country"]', 'categorical = ["user_id"]', "reserved name 'user_id'"),
        ('multi = ["tags"]', 'multi = ["price"]', "'price' twice"),
        ("users.csv", "../users.csv", "inside the data set folder"),
        ("format = 1", "format = 2", "format"),
    ],
)
def test_a_wrong_dataset_toml_is_refused(
    small: Path, change: Change, old: str, new: str, said: str
) -> None:
    change("dataset.toml", old, new)
    with pytest.raises(ConfigError, match=r"dataset\.toml") as caught:
        load_dataset(small)
    assert said in str(caught.value)


def test_a_catalogue_alone_loads_as_items_but_not_as_a_data_set(small: Path) -> None:
    (small / "dataset.toml").write_text('format = 1\nname = "c"\n[items]\nfile = "items.csv"\n')
    items, vectors = load_items(small)
    assert items.height == 3
    assert vectors == {}
    with pytest.raises(DataError, match=r"without interactions"):
        load_dataset(small)


def test_empty_lines_at_the_end_are_harmless_and_in_the_middle_are_not(
    small: Path, change: Change
) -> None:
    with (small / "interactions.csv").open("a") as file:
        file.write("\n\n")
    assert load_dataset(small).interactions.height == 4
    change("interactions.csv", "ann,a", "\nann,a")
    with pytest.raises(DataError, match=r"interactions.csv:4, column 'user_id'"):
        load_dataset(small)
