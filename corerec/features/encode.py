"""Turns tables and attributes into the arrays that a FeatureSchema declares. Pure functions."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corerec.errors import InvalidArgument
from corerec.features.items import ItemFeatures
from corerec.features.users import UserFeatures, UserIndex

if TYPE_CHECKING:
    from corerec.features.schema import (
        CategoricalFeature,
        FeatureSchema,
        MultiFeature,
        NumericFeature,
    )

MAX_DEVIATIONS = 10.0
"""Standardised numbers are clipped here: one absurd price must not drown a request."""
MAX_VALUES = 8
"""Most values of a list column that are kept per item."""
FEW_ROWS = 1024
"""Up to so many rows are encoded one by one: an expression on a column costs more than they do."""
_WORDS = re.compile(r"\w+", re.ASCII)


def vocabulary(column: pl.Series, limit: int) -> tuple[str, ...]:
    """Return the distinct values, most frequent first, ties by name, at most `limit`."""
    values = column.explode() if isinstance(column.dtype, pl.List) else column
    counted = (
        pl.DataFrame({"value": values.cast(pl.String)})
        .filter(pl.col("value").is_not_null() & (pl.col("value") != ""))
        .group_by("value")
        .len()
        .sort(["len", "value"], descending=[True, False])
    )
    return tuple(counted["value"].head(limit).to_list())


def moments(column: pl.Series) -> tuple[float, float]:
    """Return mean and deviation of the values that are there; a constant column has deviation 1."""
    values = _numbers(column)
    present = values[~np.isnan(values)]
    if not len(present):
        return 0.0, 1.0
    std = float(present.std())
    return float(present.mean()), std if std > 0 else 1.0


def _numbers(column: pl.Series) -> NDArray[np.float64]:
    """Return float64 with NaN for null. Raises InvalidArgument when the column has NaN itself."""
    if len(column) <= FEW_ROWS and column.dtype == pl.Float64:
        values = column.to_list()
        if all(value is None or isfinite(value) for value in values):
            return np.array([nan if value is None else value for value in values], np.float64)
    numbers = column.cast(pl.Float64)
    bad = (numbers.is_not_null() & ~numbers.is_finite()).fill_null(False)
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise InvalidArgument(
            f"numbers of column {column.name!r} must be finite, row {row} is {numbers[row]}"
        )
    return numbers.fill_null(float("nan")).to_numpy()


def _standardise(column: pl.Series, feature: NumericFeature) -> NDArray[np.float32]:
    scaled = np.nan_to_num((_numbers(column) - feature.mean) / feature.std, nan=0.0)
    return np.clip(scaled, -MAX_DEVIATIONS, MAX_DEVIATIONS).astype(np.float32)


def standardised(feature: NumericFeature, value: str | None) -> float:
    """Return one attribute's number, 0 when it is missing. Raises InvalidArgument."""
    if value is None or value == "":
        return 0.0
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise InvalidArgument(f"attribute {feature.name!r} must be a finite number, got {value!r}")
    return min(max((number - feature.mean) / feature.std, -MAX_DEVIATIONS), MAX_DEVIATIONS)


def _codes(column: pl.Series, feature: CategoricalFeature) -> NDArray[np.int32]:
    if not feature.vocabulary:
        return np.zeros(len(column), np.int32)
    if len(column) <= FEW_ROWS:  # a table of codes is not built anew for a few live items
        texts = (column if column.dtype == pl.String else column.cast(pl.String)).to_list()
        return np.array([feature.codes.get(text, 0) for text in texts], np.int32)
    known = pl.Series(feature.vocabulary)
    codes = pl.Series(np.arange(1, len(known) + 1, dtype=np.int32))
    mapped = column.cast(pl.String).replace_strict(known, codes, default=0, return_dtype=pl.Int32)
    return mapped.fill_null(0).to_numpy()


def _padded_lists(
    lengths: NDArray[np.int64], values: NDArray[np.int32], width: int
) -> NDArray[np.int32]:
    """Return (N, width): row i has its first values, then zeros. Values come row after row."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = place < width
    out = np.zeros((len(lengths), width), np.int32)
    out[row[kept], place[kept]] = values[kept]
    return out


def _multi(items: pl.DataFrame, features: Sequence[MultiFeature]) -> NDArray[np.int32]:
    columns = []
    for feature in features:
        column = items[feature.name]
        if len(items) <= FEW_ROWS and column.dtype == pl.List(pl.String):
            columns.append(_few_lists(column.to_list(), feature))
            continue
        lists = items.select(
            pl.int_range(pl.len(), dtype=pl.Int64).alias("row"), pl.col(feature.name)
        )
        exploded = lists.explode(feature.name)
        codes = _codes(exploded[feature.name], feature)
        known = codes > 0  # unknown values must not take a place
        lengths = np.bincount(exploded["row"].to_numpy()[known], minlength=len(items))
        columns.append(_padded_lists(lengths.astype(np.int64), codes[known], MAX_VALUES))
    if not columns:
        return np.zeros((len(items), 0, MAX_VALUES), np.int32)
    return np.stack(columns, axis=1)  # (N, M, K)


def _few_lists(lists: Sequence[Sequence[str] | None], feature: MultiFeature) -> NDArray[np.int32]:
    out = np.zeros((len(lists), MAX_VALUES), np.int32)
    for row, own in enumerate(lists):
        codes = (feature.codes.get(value, 0) for value in own or ())
        known = [code for code in codes if code][:MAX_VALUES]
        out[row, : len(known)] = known
    return out


def _few_titles(titles: Sequence[str], buckets: int, length: int) -> NDArray[np.int32]:
    out = np.zeros((len(titles), length), np.int32)
    for row, title in enumerate(titles):
        words = _WORDS.findall(title.lower())[:length]
        out[row, : len(words)] = [zlib.crc32(word.encode()) % buckets + 1 for word in words]
    return out


def title_tokens(titles: pl.Series, *, buckets: int, length: int) -> NDArray[np.int32]:
    """Return (N, length) codes of the first words of titles; CRC-32, the same on every machine."""
    if len(titles) <= FEW_ROWS and titles.dtype == pl.String:
        texts = [title or "" for title in titles.to_list()]
        if all(text.isascii() for text in texts):  # elsewhere polars says what a word is
            return _few_titles(texts, buckets, length)
    words = titles.cast(pl.String).fill_null("").str.to_lowercase().str.extract_all(r"\w+")
    words = words.list.head(length)
    lengths = words.list.len().cast(pl.Int64).to_numpy()
    flat = words.explode().drop_nulls()
    unique = flat.unique()
    hashed = {word: zlib.crc32(word.encode()) % buckets + 1 for word in unique.to_list()}
    codes = np.fromiter((hashed[word] for word in flat.to_list()), np.int32, len(flat))
    return _padded_lists(lengths, codes, length)


def _vectors(
    schema: FeatureSchema, vectors: Mapping[str, NDArray[np.float32]], count: int
) -> NDArray[np.float32]:
    parts = []
    for declared in schema.vector_sets:
        if declared.name not in vectors:
            raise InvalidArgument(f"vectors {declared.name!r} are missing")
        matrix = np.asarray(vectors[declared.name], np.float32)
        if matrix.shape != (count, declared.width):
            raise InvalidArgument(
                f"vectors {declared.name!r} must have shape {(count, declared.width)}, "
                f"got {matrix.shape}"
            )
        if not np.isfinite(matrix).all():
            row = int(np.argmin(np.isfinite(matrix).all(axis=1)))
            raise InvalidArgument(f"vectors {declared.name!r} must be finite, row {row} is not")
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        parts.append(matrix / np.where(norms > 0, norms, 1))
    if not parts:
        return np.zeros((count, 0), np.float32)
    return np.concatenate(parts, axis=1).astype(np.float32, copy=False)


def _side_by_side(columns: Sequence[NDArray[np.generic]], count: int, dtype: type) -> NDArray:  # type: ignore[type-arg]
    return np.stack(columns, axis=1).astype(dtype) if columns else np.zeros((count, 0), dtype)


def encode_items(
    schema: FeatureSchema, items: pl.DataFrame, vectors: Mapping[str, NDArray[np.float32]]
) -> ItemFeatures:
    """Return the arrays of a table of items; see `FeatureSchema.encode_items`."""
    categorical = (*schema.item_categorical, *schema.item_multi)
    declared = [f.name for f in categorical] + [f.name for f in schema.item_numeric]
    if missing := [name for name in declared if name not in items.columns]:
        raise InvalidArgument(f"items must have the columns {missing}, got {items.columns}")
    count = len(items)
    return ItemFeatures(
        categorical=_side_by_side(
            [_codes(items[f.name], f) for f in schema.item_categorical], count, np.int32
        ),
        multi=_multi(items, schema.item_multi),
        title_tokens=title_tokens(
            items["title"], buckets=schema.title_buckets, length=schema.title_length
        ),
        numeric=_side_by_side(
            [_standardise(items[f.name], f) for f in schema.item_numeric], count, np.float32
        ),
        vectors=_vectors(schema, vectors, count),
        born_micros=_born(items["born_micros"]),
    )


def _born(column: pl.Series) -> NDArray[np.int64]:
    if column.dtype != pl.Int64 or column.has_nulls():
        column = column.cast(pl.Int64).fill_null(-1)
    return column.to_numpy()


def encode_users(
    schema: FeatureSchema,
    user_ids: Sequence[str],
    attributes: Sequence[Mapping[str, str]],
    index: UserIndex,
) -> UserFeatures:
    """Return the arrays of the users of requests; see `FeatureSchema.encode_users`."""
    if len(user_ids) != len(attributes):
        raise InvalidArgument(
            f"attributes must be {len(user_ids)}, one a user id, got {len(attributes)}"
        )
    codes = [[f.codes.get(own.get(f.name, ""), 0) for f in schema.user_categorical]
             for own in attributes]  # fmt: skip
    numbers = [[standardised(f, own.get(f.name)) for f in schema.user_numeric]
               for own in attributes]  # fmt: skip
    count = len(user_ids)
    return UserFeatures(
        row=index.rows(user_ids),
        categorical=np.array(codes, np.int32).reshape(count, len(schema.user_categorical)),
        numeric=np.array(numbers, np.float32).reshape(count, len(schema.user_numeric)),
    )


def encode_user_table(schema: FeatureSchema, users: pl.DataFrame) -> UserFeatures:
    """Return the arrays of all users, the unknown one first; see the schema's method."""
    count = len(users)
    categorical = _side_by_side(
        [_codes(users[f.name], f) for f in schema.user_categorical], count, np.int32
    )
    numeric = _side_by_side(
        [_standardise(users[f.name], f) for f in schema.user_numeric], count, np.float32
    )
    return UserFeatures(
        row=np.arange(count + 1, dtype=np.int64),
        categorical=np.pad(categorical, ((1, 0), (0, 0))),
        numeric=np.pad(numeric, ((1, 0), (0, 0))),
    )
