"""What a two-tower model reads besides weights and events: the schema and the tables it encodes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from corerec.engines.sequences import Sequences
from corerec.errors import ReleaseError
from corerec.features import (
    CategoricalFeature,
    FeatureSchema,
    ItemFeatures,
    UserFeatures,
    UserIndex,
)

if TYPE_CHECKING:
    from corerec.data.dataset import Dataset

SCHEMA, ITEMS, USERS = "schema.json", "item_features.safetensors", "users.parquet"


@dataclass(frozen=True, kw_only=True)
class TwoTowerInputs:
    """The schema, the items' features and the users of a training, as a release keeps them."""

    schema: FeatureSchema
    items: ItemFeatures
    users: pl.DataFrame
    """user_id and the attributes of the schema; row i is user row i."""

    @classmethod
    def of(cls, data: Dataset | Sequences, *, history_length: int) -> TwoTowerInputs:
        """Return the inputs that a data set gives; of sequences only ids are known.

        Users of sequences have no ids of their own: the id of user row i is its number, "i".

        Raises:
            InvalidArgument: for a NaN or infinite number, naming column and row.
        """
        if isinstance(data, Sequences):
            return cls.of_counts(data.user_count, data.item_count, history_length=history_length)
        schema = FeatureSchema.fit(data, history_length=history_length)
        return cls.of_schema(data, schema, schema.encode_items(data.items, data.vectors))

    @classmethod
    def of_schema(cls, data: Dataset, schema: FeatureSchema, items: ItemFeatures) -> TwoTowerInputs:
        """Return the inputs of a data set whose items have been encoded already."""
        names = [f.name for f in schema.user_categorical] + [f.name for f in schema.user_numeric]
        return cls(schema=schema, items=items, users=data.users.select("user_id", *names))

    @classmethod
    def of_counts(cls, users: int, items: int, *, history_length: int = 50) -> TwoTowerInputs:
        """Return the inputs of items and users of which only their numbers are known."""
        schema = FeatureSchema(
            history_length=history_length,
            has_times=False,
            item_count=items,
            user_count=users,
            item_categorical=tuple(
                CategoricalFeature(name=name, vocabulary=()) for name in ("category", "creator")
            ),
            item_multi=(),
            item_numeric=(),
            user_categorical=(),
            user_numeric=(),
            vector_sets=(),
            title_buckets=0,
            title_length=0,
        )
        features = ItemFeatures(
            categorical=np.zeros((items, 2), np.int32),
            multi=np.zeros((items, 0, 0), np.int32),
            title_tokens=np.zeros((items, 0), np.int32),
            numeric=np.zeros((items, 0), np.float32),
            vectors=np.zeros((items, 0), np.float32),
            born_micros=np.full(items, -1, np.int64),
        )
        ids = pl.int_range(users, eager=True).cast(pl.String).alias("user_id")
        return cls(schema=schema, items=features, users=ids.to_frame())

    @cached_property
    def index(self) -> UserIndex:
        """From user id to embedding row."""
        return UserIndex(self.users["user_id"].to_list())

    @cached_property
    def user_table(self) -> UserFeatures:
        """The features of all users, row 0 unknown."""
        return self.schema.encode_user_table(self.users)

    def save(self, folder: Path) -> None:
        """Write schema.json, item_features.safetensors and users.parquet into a folder."""
        self.schema.save(folder / SCHEMA)
        self.items.save(folder / ITEMS)
        self.users.write_parquet(folder / USERS)

    @classmethod
    def load(cls, folder: Path) -> TwoTowerInputs:
        """Return what `save` wrote. Raises ReleaseError naming a file that is missing."""
        for name in (SCHEMA, ITEMS, USERS):
            if not (folder / name).is_file():
                raise ReleaseError(f"{folder / name}: no such file")
        return cls(
            schema=FeatureSchema.load(folder / SCHEMA),
            items=ItemFeatures.load(folder / ITEMS),
            users=pl.read_parquet(folder / USERS),
        )
