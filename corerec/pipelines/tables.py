"""Writes the tables of a release besides its catalogue: attributes, users, histories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from corerec.data.dataset import Dataset
from corerec.pipelines.slices import Events
from corerec.stages import MAX_HISTORY


def user_attributes(dataset: Dataset) -> list[Mapping[str, str]]:
    """Return the attributes of each user row as text, as a store would give them."""
    names = [*dataset.user_categorical, *dataset.user_numeric]
    if not names:
        return [{} for _ in range(len(dataset.users))]
    texts = dataset.users.select(pl.col(name).cast(pl.String) for name in names)
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in texts.iter_rows()
    ]


def write_attributes(path: Path, dataset: Dataset) -> None:
    """Write every column of the items as the data set has it; row i is item number i."""
    dataset.items.drop("item_number", strict=False).write_parquet(path, compression="zstd")


def write_users(path: Path, dataset: Dataset) -> None:
    """Write user_id and attributes, row i for user row i."""
    names = [*dataset.user_categorical, *dataset.user_numeric]
    dataset.users.select("user_id", *names).write_parquet(path)


def write_histories(path: Path, dataset: Dataset, events: Events) -> None:
    """Write each user's newest 1000 events, oldest first, user after user."""
    left = events.offsets[events.users + 1] - np.arange(len(events.users))
    kept = left <= MAX_HISTORY
    users, items = events.users[kept], events.items[kept]
    table = pl.DataFrame(
        {
            "user_id": dataset.users["user_id"].gather(users),
            "item_number": items,
            "item_id": dataset.items["item_id"].gather(items),
            "event_time_micros": events.times[kept],
        }
    )
    if "event_type" in dataset.interactions.columns:
        kinds = dataset.interactions["event_type"].cast(pl.String).fill_null("")
        table = table.with_columns(kinds.gather(events.order[kept]).alias("event_type"))
    else:
        table = table.with_columns(pl.lit("").alias("event_type"))
    table.write_parquet(path)
