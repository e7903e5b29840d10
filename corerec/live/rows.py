"""Items of the live catalogue as the tables that a FeatureSchema encodes, checked on the way.

Without torch, so that whoever takes an item in can refuse it before it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from corerec.errors import InvalidArgument
from corerec.features import FeatureSchema
from corerec.stages import Float32s
from corerec.store.catalogue import Item, finite_number

OWN = ("category", "creator")
"""Columns of the schema that are fields of an item and no attributes."""


def check_columns(schema: FeatureSchema, item: Item) -> None:
    """Raise InvalidArgument, naming item and column, unless the models can read the item.

    What the schema does not name is not looked at: it may serve conditions.
    """
    for feature in schema.item_numeric:
        text = item.attributes.get(feature.name, "")
        if text and finite_number(text) is None:
            raise _error(item, feature.name, "must be a finite number", repr(text))
    single = [f.name for f in schema.item_categorical] + [f.name for f in schema.item_numeric]
    for name in single:
        if name in item.lists:
            raise _error(item, name, "must be one value in attributes", "a list")
    for multi in schema.item_multi:
        if multi.name in item.attributes:
            raise _error(item, multi.name, "must be a list in lists", "an attribute")
    for declared in schema.vector_sets:
        vector = item.vectors.get(declared.name)
        if vector is None:
            continue
        if vector.shape != (declared.width,):
            rule = f"must be a vector of {declared.width} numbers"
            raise _error(item, declared.name, rule, f"shape {vector.shape}")
        if not np.isfinite(vector).all():
            raise _error(item, declared.name, "must be finite", "NaN or Inf")


def item_table(schema: FeatureSchema, items: Sequence[Item]) -> pl.DataFrame:
    """Return the columns that `FeatureSchema.encode_items` reads. Raises as `check_columns`."""
    for item in items:
        check_columns(schema, item)
    columns: dict[str, pl.Series] = {
        "title": pl.Series([item.title for item in items], dtype=pl.String),
        "category": pl.Series([item.category for item in items], dtype=pl.String),
        "creator": pl.Series([item.creator for item in items], dtype=pl.String),
        "born_micros": pl.Series([item.born_micros for item in items], dtype=pl.Int64),
    }
    for feature in schema.item_categorical:
        if feature.name not in OWN:
            columns[feature.name] = _attribute(items, feature.name)
    for numeric in schema.item_numeric:
        columns[numeric.name] = _number(items, numeric.name)
    for multi in schema.item_multi:
        values = [list(item.lists.get(multi.name, ())) for item in items]
        columns[multi.name] = pl.Series(values, dtype=pl.List(pl.String))
    return pl.DataFrame(columns)


def item_vectors(
    schema: FeatureSchema, items: Sequence[Item], missing: Mapping[str, Float32s]
) -> dict[str, Float32s]:
    """Return (n, d) by vector set: an item's own vector, or its row of `missing`, (n, d)."""
    found = {}
    for declared in schema.vector_sets:
        matrix = np.zeros((len(items), declared.width), np.float32)
        if declared.name in missing:
            matrix[:] = missing[declared.name]
        for row, item in enumerate(items):
            if (own := item.vectors.get(declared.name)) is not None:
                matrix[row] = own
        found[declared.name] = matrix
    return found


def items_of(table: pl.DataFrame, vectors: Mapping[str, Float32s] | None = None) -> list[Item]:
    """Return the items of a data set's table, or of a release's `attributes.parquet`.

    Shapes: vectors, (n, d) by vector set; a row of zeros is a missing one.
    """
    fixed = {"item_number", "item_id", "title", "category", "creator", "born_micros"}
    lists = [name for name in table.columns if table[name].dtype.is_nested()]
    single = [name for name in table.columns if name not in fixed and name not in lists]
    found = []
    for number, row in enumerate(table.iter_rows(named=True)):
        own = {name: matrix[number] for name, matrix in (vectors or {}).items()}
        found.append(
            Item(
                item_id=row["item_id"],
                title=row["title"] or "",
                category=row["category"] or "",
                creator=row["creator"] or "",
                born_micros=-1 if row["born_micros"] is None else row["born_micros"],
                attributes={name: str(row[name]) for name in single if row[name] is not None},
                lists={name: tuple(row[name]) for name in lists if row[name]},
                vectors={name: vector for name, vector in own.items() if vector.any()},
            )
        )
    return found


def _attribute(items: Sequence[Item], name: str) -> pl.Series:
    return pl.Series([item.attributes.get(name) or None for item in items], dtype=pl.String)


def _number(items: Sequence[Item], name: str) -> pl.Series:
    texts = (item.attributes.get(name) for item in items)
    return pl.Series([float(text) if text else None for text in texts], dtype=pl.Float64)


def _error(item: Item, column: str, rule: str, got: str) -> InvalidArgument:
    return InvalidArgument(f"item {item.item_id!r}, column {column!r}: {rule}, got {got}")
