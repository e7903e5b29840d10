"""The catalogue: rows are item numbers, and what is missing is "" or -1."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from corerec.errors import InvalidArgument, ReleaseError
from corerec.release import read_catalogue, write_catalogue

ITEMS = pl.DataFrame(
    {
        "item_number": [0, 1, 2],
        "item_id": ["b", "a", "c"],
        "title": ["Bé", None, "C"],
        "category": ["z", None, "y"],
        "creator": pl.Series([None, None, None], dtype=pl.String),
        "born_micros": [5, None, -3],
        "genres": [["x"], [], None],
    }
)


def test_a_catalogue_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.parquet"
    write_catalogue(path, ITEMS)
    catalogue = read_catalogue(path)
    assert len(catalogue) == 3
    assert catalogue.ids == ["b", "a", "c"]
    assert catalogue.titles == ["Bé", "", "C"]
    assert catalogue.categories == ["z", "", "y"]
    assert catalogue.creators == ["", "", ""]
    assert catalogue.born_micros.tolist() == [5, -1, -3]
    assert catalogue.category_names == ["y", "z"]
    assert catalogue.category_codes.tolist() == [1, -1, 0]
    assert catalogue.creator_codes.tolist() == [-1, -1, -1]
    assert catalogue.category_codes.dtype == catalogue.creator_codes.dtype == "int32"
    assert [catalogue.number_of(i) for i in ("a", "b", "c", "d")] == [1, 0, 2, None]


def test_an_empty_catalogue_and_bare_ids_are_fine(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "a", ITEMS.head(0))
    assert len(read_catalogue(tmp_path / "a")) == 0
    write_catalogue(tmp_path / "b", pl.DataFrame({"item_id": ["x"]}))
    assert read_catalogue(tmp_path / "b").titles == [""]


@pytest.mark.parametrize(
    ("items", "rule"),
    [
        ({"title": ["x"]}, "must have the columns"),
        ({"item_id": ["x", "x"]}, "must be unique, got 'x'"),
        ({"item_id": ["x", ""]}, "must not be empty, it is in row 1"),
        ({"item_id": ["x", "y"], "item_number": [1, 0]}, "item_number of row i must be i"),
    ],
)
def test_a_wrong_catalogue_is_not_written(tmp_path: Path, items: dict, rule: str) -> None:
    with pytest.raises(InvalidArgument, match=rule):
        write_catalogue(tmp_path / "a", pl.DataFrame(items))
    assert not (tmp_path / "a").exists()


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ReleaseError, match=r"catalogue\.parquet: not a readable Parquet"):
        read_catalogue(path)
    pl.DataFrame({"item_id": ["a"]}).write_parquet(path)
    with pytest.raises(ReleaseError, match=r"catalogue\.parquet: columns must be"):
        read_catalogue(path)
