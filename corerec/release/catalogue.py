"""Catalogue: what is shown of each item, by item number, and the way from id to number."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corerec.errors import InvalidArgument, ReleaseError

_TEXTS = ("item_id", "title", "category", "creator")
_COLUMNS = (*_TEXTS, "born_micros")


class Catalogue:
    """The items of a release; row i is item number i. Lists are built at first use."""

    def __init__(self, items: pl.DataFrame) -> None:
        """Wrap a frame with the columns of `read_catalogue`, which checks them."""
        self._items = items

    def __len__(self) -> int:
        return self._items.height

    @cached_property
    def ids(self) -> list[str]:
        """The caller's id of each item."""
        return self._items["item_id"].to_list()

    @cached_property
    def titles(self) -> list[str]:
        """Title of each item, "" when it has none."""
        return self._items["title"].to_list()

    @cached_property
    def categories(self) -> list[str]:
        """Category of each item, "" when it has none."""
        return self._items["category"].to_list()

    @cached_property
    def creators(self) -> list[str]:
        """Creator of each item, "" when it has none."""
        return self._items["creator"].to_list()

    @cached_property
    def born_micros(self) -> NDArray[np.int64]:
        """(N,) when each item came to be, microseconds since 1970; -1 when unknown."""
        return self._items["born_micros"].to_numpy()

    @cached_property
    def category_names(self) -> list[str]:
        """The distinct categories, sorted; `category_codes` indexes it."""
        return _names(self._items["category"])

    @cached_property
    def creator_names(self) -> list[str]:
        """The distinct creators, sorted; `creator_codes` indexes it."""
        return _names(self._items["creator"])

    @cached_property
    def category_codes(self) -> NDArray[np.int32]:
        """(N,) row of each item's category in `category_names`; -1 when it has none."""
        return _codes(self._items["category"], self.category_names)

    @cached_property
    def creator_codes(self) -> NDArray[np.int32]:
        """(N,) row of each item's creator in `creator_names`; -1 when it has none."""
        return _codes(self._items["creator"], self.creator_names)

    def number_of(self, item_id: str) -> int | None:
        """Return the item number of an id, None when the catalogue does not have it."""
        return self._numbers.get(item_id)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return dict(zip(self.ids, range(len(self)), strict=True))


def write_catalogue(path: Path, items: pl.DataFrame) -> None:
    """Write the catalogue of `items`, a data set's item frame: row i is item number i.

    Raises:
        InvalidArgument: an id is missing, empty or double, or `item_number` is not the row.
    """
    missing = [name for name in ("item_id",) if name not in items.columns]
    if missing:
        raise InvalidArgument(f"items must have the columns {missing}, got {items.columns}")
    if "item_number" in items.columns:
        numbers = items["item_number"].to_numpy()
        if not np.array_equal(numbers, np.arange(items.height)):
            raise InvalidArgument("item_number of row i must be i")
    texts = [
        (pl.col(name).cast(pl.String) if name in items.columns else pl.lit(None, pl.String))
        .fill_null("")
        .alias(name)
        for name in _TEXTS
    ]
    born = (
        pl.col("born_micros").cast(pl.Int64)
        if "born_micros" in items.columns
        else pl.lit(None, pl.Int64)
    )
    frame = items.select(*texts, born.fill_null(-1).alias("born_micros"))
    if problem := _problem(frame):
        raise InvalidArgument(f"items: {problem}")
    frame.write_parquet(path, compression="zstd")


def read_catalogue(path: Path) -> Catalogue:
    """Return the catalogue in the Parquet file `path`.

    Raises:
        ReleaseError: the file is not readable, lacks a column or holds an id twice.
    """
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ReleaseError(f"{path}: not a readable Parquet file: {error}") from None
    wanted = dict.fromkeys(_TEXTS, pl.String()) | {"born_micros": pl.Int64()}
    if dict(frame.schema) != wanted:
        raise ReleaseError(f"{path}: columns must be {list(wanted)}, got {dict(frame.schema)}")
    if problem := _problem(frame):
        raise ReleaseError(f"{path}: {problem}")
    return Catalogue(frame)


def _problem(frame: pl.DataFrame) -> str:
    if any(frame[name].null_count() for name in _COLUMNS):
        return "a value is missing"
    if (frame["item_id"] == "").any():
        row = int((frame["item_id"] == "").arg_max() or 0)
        return f"item_id must not be empty, it is in row {row}"
    if frame["item_id"].n_unique() != frame.height:
        double = frame["item_id"].filter(frame["item_id"].is_duplicated())[0]
        return f"item_id must be unique, got {double!r} more than once"
    return ""


def _names(texts: pl.Series) -> list[str]:
    return texts.filter(texts != "").unique().sort().to_list()


def _codes(texts: pl.Series, names: list[str]) -> NDArray[np.int32]:
    if not names:
        return np.full(len(texts), -1, np.int32)
    known = texts.replace({"": None}).cast(pl.Enum(names))
    return known.to_physical().cast(pl.Int32).fill_null(-1).to_numpy()
