"""Makes a data set of tables in memory, with the checks that files get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corerec.data.dataset import (
    Dataset,
    UnknownItems,
    assemble,
    interaction_columns,
    item_columns,
    user_columns,
)
from corerec.data.spec import (
    DatasetSpec,
    InteractionsSpec,
    ItemsSpec,
    TimeUnit,
    UsersSpec,
    check_spec,
)
from corerec.data.tables import Table, frame_table
from corerec.data.vectors import checked_vectors

_PLACE = "place in the frame"
"""Column of each row's place in its user's history, where neither time nor order is given."""


def dataset_from_frames(
    interactions: pl.DataFrame,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    *,
    vectors: Mapping[str, NDArray[np.floating]] | None = None,
    user: str = "user_id",
    item: str = "item_id",
    time: str = "",
    time_unit: TimeUnit = "s",
    order: str = "",
    rating: str = "",
    event_type: str = "",
    title: str = "",
    category: str = "",
    creator: str = "",
    born: str = "",
    item_categorical: Sequence[str] = (),
    item_multi: Sequence[str] = (),
    item_numeric: Sequence[str] = (),
    user_categorical: Sequence[str] = (),
    user_numeric: Sequence[str] = (),
    unknown_items: UnknownItems = "fail",
    name: str = "frames",
) -> Dataset:
    """Return a data set of tables in memory, checked as `load_dataset` checks files.

    `user` and `item` are columns of every table that has users or items; ids of any type become
    text. `time` is the column of moments, numbers in `time_unit` or temporal values; without it
    `order` is the column of places in a user's history, and without both the rows are in order.
    Without `items` the catalogue is the items of the interactions, in the order they appear. The
    other arguments name columns as in `dataset.toml`.

    Shapes: vectors, by name, (items, d) of the rows of `items`.

    Raises:
        ConfigError: a column is named twice, or both time and order are given.
        DataError: a table or vector is wrong; names table, row, column, rule and value.
    """
    if not time and not order:
        _ = frame_table("interactions", interactions, [user, item])
        interactions = interactions.with_columns(pl.int_range(pl.len()).over(user).alias(_PLACE))
        order = _PLACE
    if items is None:
        _ = frame_table("interactions", interactions, [user, item])
        items = interactions.select(item).drop_nulls().unique(maintain_order=True)
    spec = DatasetSpec(
        format=1,
        name=name,
        interactions=InteractionsSpec(
            file="interactions",
            user=user,
            item=item,
            time=time,
            time_unit=time_unit,
            order=order,
            rating=rating,
            event_type=event_type,
        ),
        items=ItemsSpec(
            file="items",
            id=item,
            title=title,
            category=category,
            creator=creator,
            born=born,
            born_unit=time_unit,
            categorical=tuple(item_categorical),
            multi=tuple(item_multi),
            numeric=tuple(item_numeric),
        ),
        users=UsersSpec(
            file="" if users is None else "users",
            id=user,
            categorical=tuple(user_categorical),
            numeric=tuple(user_numeric),
        ),
    )
    check_spec(spec, Path("dataset_from_frames"))
    people: Table | None = None
    if users is not None:
        people = frame_table("users", users, user_columns(spec.users))
    return assemble(
        spec,
        interactions=frame_table(
            "interactions", interactions, interaction_columns(spec.interactions)
        ),
        items=frame_table("items", items, item_columns(spec.items)),
        users=people,
        vectors={
            own: checked_vectors(array, items.height, f"vectors {own!r}")
            for own, array in (vectors or {}).items()
        },
        root=Path(name),
        unknown_items=unknown_items,
    )
