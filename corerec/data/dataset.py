"""A data set in memory, and the loader that refuses what is broken with file, line and rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corerec.data.spec import (
    FILE_NAME,
    DatasetSpec,
    InteractionsSpec,
    ItemsSpec,
    UsersSpec,
    load_spec,
)
from corerec.data.tables import Table, read_table
from corerec.data.vectors import load_vectors
from corerec.errors import DataError

UnknownItems = Literal["fail", "drop"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Interactions, items and users, checked, with item numbers and user rows in place of ids."""

    root: Path
    name: str
    items: pl.DataFrame
    """Row i has item number i: item_number i64, item_id, title, category, creator (null allowed),
    born_micros i64 (null allowed), then the attribute columns by their own names."""
    users: pl.DataFrame
    """Row i is user row i: user_id, then attributes. Users of interactions without a row of their
    own come last, with nulls."""
    interactions: pl.DataFrame
    """user_row i32, item_number i32, time_micros i64, optional event_type and rating f32. Sorted
    by time; without times time_micros is 0, 1, 2.. per user and the order is user, then that."""
    has_times: bool
    item_categorical: tuple[str, ...] = ()
    item_multi: tuple[str, ...] = ()
    item_numeric: tuple[str, ...] = ()
    user_categorical: tuple[str, ...] = ()
    user_numeric: tuple[str, ...] = ()
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Name of a vector set -> (items, d)."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> interactions left out, such as unknown_item."""


def load_dataset(root: Path, *, unknown_items: UnknownItems = "fail") -> Dataset:
    """Return the data set of a folder, fully checked.

    `unknown_items` says whether interactions with items outside the catalogue are refused or
    dropped and counted.

    Raises:
        ConfigError: dataset.toml is wrong.
        DataError: a table or vector file is wrong; names file, line, column, rule and value.
    """
    spec = load_spec(root)
    if not spec.interactions.file:
        rule = "the folder holds a catalogue without interactions: interactions.file is missing"
        raise DataError(rule, file=root / FILE_NAME)
    items = read_table(root / spec.items.file, item_columns(spec.items))
    users = None
    if spec.users.file:
        users = read_table(root / spec.users.file, user_columns(spec.users))
    return assemble(
        spec,
        interactions=read_table(
            root / spec.interactions.file, interaction_columns(spec.interactions)
        ),
        items=items,
        users=users,
        vectors=load_vectors(root, spec.vectors, items.frame.height),
        root=root,
        unknown_items=unknown_items,
    )


def assemble(
    spec: DatasetSpec,
    *,
    interactions: Table,
    items: Table,
    users: Table | None,
    vectors: Mapping[str, NDArray[np.float32]],
    root: Path,
    unknown_items: UnknownItems,
) -> Dataset:
    """Return the data set of tables whose columns a spec describes. Raises DataError."""
    catalogue = _items_of(items, spec.items)
    known = _users_of(users, spec.users)
    events, dropped = _events_of(
        interactions, spec.interactions, catalogue["item_id"], unknown_items
    )
    everyone = _all_users(known, events["user_id"])
    has_times = bool(spec.interactions.time)
    return Dataset(
        root=root,
        name=spec.name,
        items=catalogue,
        users=everyone,
        interactions=_in_order(events, everyone["user_id"], has_times),
        has_times=has_times,
        item_categorical=spec.items.categorical,
        item_multi=spec.items.multi,
        item_numeric=spec.items.numeric,
        user_categorical=spec.users.categorical,
        user_numeric=spec.users.numeric,
        vectors=vectors,
        dropped=dropped,
    )


def load_items(root: Path) -> tuple[pl.DataFrame, dict[str, NDArray[np.float32]]]:
    """Return the catalogue and its vectors alone, also of a folder without interactions.

    Raises:
        ConfigError, DataError: as load_dataset.
    """
    spec = load_spec(root)
    table = read_table(root / spec.items.file, item_columns(spec.items))
    items = _items_of(table, spec.items)
    return items, load_vectors(root, spec.vectors, items.height)


def item_columns(spec: ItemsSpec) -> list[str]:
    """Return the columns that a catalogue's table must have."""
    named = filter(None, [spec.title, spec.category, spec.creator, spec.born])
    return [spec.id, *named, *spec.categorical, *spec.multi, *spec.numeric]


def user_columns(spec: UsersSpec) -> list[str]:
    """Return the columns that a table of users must have."""
    return [spec.id, *spec.categorical, *spec.numeric]


def interaction_columns(spec: InteractionsSpec) -> list[str]:
    """Return the columns that a table of interactions must have."""
    extra = filter(None, [spec.rating, spec.event_type])
    return [spec.user, spec.item, spec.time or spec.order, *extra]


def _items_of(table: Table, spec: ItemsSpec) -> pl.DataFrame:
    named = {"title": spec.title, "category": spec.category, "creator": spec.creator}
    ids = table.unique_ids(spec.id)
    columns = [pl.Series("item_number", np.arange(len(ids)), pl.Int64), ids.rename("item_id")]
    for name, source in named.items():
        text = (
            table.text(source) if source else pl.repeat(None, len(ids), dtype=pl.String, eager=True)
        )
        columns.append(text.rename(name))
    if spec.born:
        born = table.micros(spec.born, spec.born_unit, nulls=True)
    else:
        born = pl.repeat(None, len(ids), dtype=pl.Int64, eager=True)
    columns.append(born.rename("born_micros"))
    columns += _attributes(table, spec.categorical, spec.numeric)
    columns += [table.words(name, spec.multi_separator) for name in spec.multi]
    return pl.DataFrame(columns)


def _attributes(
    table: Table, categorical: tuple[str, ...], numeric: tuple[str, ...]
) -> list[pl.Series]:
    words = [table.text(name).rename(name) for name in categorical]
    return words + [table.numbers(name).rename(name) for name in numeric]


def _users_of(table: Table | None, spec: UsersSpec) -> pl.DataFrame:
    if table is None:
        return pl.DataFrame(schema={"user_id": pl.String})
    ids = table.unique_ids(spec.id).rename("user_id")
    return pl.DataFrame([ids, *_attributes(table, spec.categorical, spec.numeric)])


def _events_of(
    table: Table, spec: InteractionsSpec, item_ids: pl.Series, unknown_items: UnknownItems
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return user_id, item_number, at (time or order) and the optional columns, in file order."""
    columns = [
        table.ids(spec.user).rename("user_id"),
        _item_numbers(table, spec.item, item_ids, unknown_items),
    ]
    if spec.time:
        columns.append(table.micros(spec.time, spec.time_unit).rename("at"))
    else:
        at = table.numbers(spec.order).rename("at")
        table.refuse(at.is_null(), "a position must not be empty", spec.order)
        again = ~pl.DataFrame([columns[0], at]).to_struct().is_first_distinct()
        table.refuse(again, "a position must occur once in a user's history", spec.order)
        columns.append(at)
    if spec.event_type:
        columns.append(table.text(spec.event_type).rename("event_type"))
    if spec.rating:
        columns.append(table.numbers(spec.rating).cast(pl.Float32).rename("rating"))
    events = pl.DataFrame(columns)
    known = events.filter(pl.col("item_number") >= 0)
    if known.height == 0:
        raise table.error("no interaction has an item of the catalogue", column=spec.item)
    lost = events.height - known.height
    return known, ({"unknown_item": lost} if lost else {})


def _item_numbers(
    table: Table, column: str, item_ids: pl.Series, unknown_items: UnknownItems
) -> pl.Series:
    """Return the item number of each row, -1 where the item is unknown and may be."""
    catalogue = pl.DataFrame(
        {"id": item_ids, "item_number": np.arange(len(item_ids), dtype=np.int32)}
    )
    asked = table.ids(column).rename("id").to_frame()
    numbers = asked.join(catalogue, on="id", how="left", maintain_order="left")["item_number"]
    if unknown_items == "fail":
        rule = "an interaction must be with an item of the catalogue (or drop unknown items)"
        table.refuse(numbers.is_null(), rule, column)
    return numbers.fill_null(-1)


def _all_users(known: pl.DataFrame, seen: pl.Series) -> pl.DataFrame:
    others = (
        seen.unique(maintain_order=True)
        .to_frame()
        .join(known, on="user_id", how="anti", maintain_order="left")
    )
    return pl.concat([known, others], how="diagonal")


def _in_order(events: pl.DataFrame, user_ids: pl.Series, has_times: bool) -> pl.DataFrame:
    rows = pl.DataFrame({"user_id": user_ids, "user_row": np.arange(len(user_ids), dtype=np.int32)})
    events = events.join(rows, on="user_id", how="left", maintain_order="left").drop("user_id")
    if has_times:
        events = events.sort("at", maintain_order=True)
    else:
        events = events.sort("user_row", "at", maintain_order=True)
        user = events["user_row"].to_numpy()
        starts = np.flatnonzero(np.diff(user, prepend=-1))
        lengths = np.diff(np.append(starts, len(user)))
        place = np.arange(len(user)) - np.repeat(starts, lengths)
        events = events.with_columns(pl.Series("at", place, pl.Int64))
    optional = [name for name in ("event_type", "rating") if name in events.columns]
    return events.select("user_row", "item_number", pl.col("at").alias("time_micros"), *optional)
