"""FeatureSchema: which attributes the models see and how each value becomes a code or a number.

It is fitted once on a data set, written to the release as JSON, and used by training and serving.
Turning tables into arrays is in `encode.py`; counts of interactions are in `popularity.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corerec.config import build_config
from corerec.errors import InvalidArgument
from corerec.features import encode
from corerec.features.items import ItemFeatures
from corerec.features.users import UserFeatures, UserIndex

if TYPE_CHECKING:
    from corerec.data.dataset import Dataset

FORMAT = 1
MAX_VOCABULARY = 200_000
TITLE_BUCKETS = 20_000
TITLE_LENGTH = 12


@dataclass(frozen=True, kw_only=True)
class CategoricalFeature:
    """A column whose values become codes: place in `vocabulary` + 1; 0 is missing or unknown."""

    name: str
    vocabulary: tuple[str, ...]

    @property
    def cardinality(self) -> int:
        """Return the number of codes, the 0 included."""
        return len(self.vocabulary) + 1

    @cached_property
    def codes(self) -> Mapping[str, int]:
        """Return the code of every known value."""
        return {value: code for code, value in enumerate(self.vocabulary, 1)}


@dataclass(frozen=True, kw_only=True)
class MultiFeature(CategoricalFeature):
    """A column of lists of values; the first 8 known ones of each row are kept."""


@dataclass(frozen=True, kw_only=True)
class NumericFeature:
    """A column of numbers, standardised with this mean and deviation; a missing value is 0."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class VectorSet:
    """One vector per item, L2-normalised; a vector of zeros stays zero."""

    name: str
    width: int


@dataclass(frozen=True, kw_only=True)
class FeatureSchema:
    """What the models of a release see of users, items and the moment."""

    format: int = FORMAT
    history_length: int = 50
    """Newest events of a user that the models look at, >= 1."""
    has_times: bool
    """False: events have only an order; hour, weekday, gaps and recent popularity do not exist."""
    item_count: int
    user_count: int
    item_categorical: tuple[CategoricalFeature, ...]
    """`category` and `creator` always come first, at places 0 and 1."""
    item_multi: tuple[MultiFeature, ...]
    item_numeric: tuple[NumericFeature, ...]
    user_categorical: tuple[CategoricalFeature, ...]
    user_numeric: tuple[NumericFeature, ...]
    vector_sets: tuple[VectorSet, ...]
    title_buckets: int = TITLE_BUCKETS
    """Words of titles hash into codes 1..title_buckets."""
    title_length: int = TITLE_LENGTH
    """First words of a title that are kept."""

    @classmethod
    def fit(
        cls, dataset: Dataset, *, history_length: int = 50, max_vocabulary: int = MAX_VOCABULARY
    ) -> FeatureSchema:
        """Return the schema of a data set, from its item and user tables only.

        No interaction is read, so nothing of the validation or test period can be in it.

        Raises:
            InvalidArgument: for a NaN or infinite number, naming column and row.
        """
        if history_length < 1:
            raise InvalidArgument(f"history_length must be >= 1, got {history_length}")
        implicit = ("category", "creator")
        categorical = (*implicit, *(n for n in dataset.item_categorical if n not in implicit))

        def vocabulary(table: pl.DataFrame, name: str) -> tuple[str, ...]:
            return encode.vocabulary(table[name], max_vocabulary)

        def numeric(table: pl.DataFrame, name: str) -> NumericFeature:
            mean, std = encode.moments(table[name])
            return NumericFeature(name=name, mean=mean, std=std)

        items, users = dataset.items, dataset.users
        return cls(
            history_length=history_length,
            has_times=dataset.has_times,
            item_count=len(items),
            user_count=len(users),
            item_categorical=tuple(
                CategoricalFeature(name=n, vocabulary=vocabulary(items, n)) for n in categorical
            ),
            item_multi=tuple(
                MultiFeature(name=n, vocabulary=vocabulary(items, n)) for n in dataset.item_multi
            ),
            item_numeric=tuple(numeric(items, n) for n in dataset.item_numeric),
            user_categorical=tuple(
                CategoricalFeature(name=n, vocabulary=vocabulary(users, n))
                for n in dataset.user_categorical
            ),
            user_numeric=tuple(numeric(users, n) for n in dataset.user_numeric),
            vector_sets=tuple(
                VectorSet(name=name, width=int(matrix.shape[1]))
                for name, matrix in sorted(dataset.vectors.items())
            ),
        )

    @property
    def vector_width(self) -> int:
        """Return the width of all vector sets together."""
        return sum(vector.width for vector in self.vector_sets)

    def save(self, path: Path) -> None:
        """Write the schema as JSON."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> FeatureSchema:
        """Return the schema in a JSON file.

        Raises:
            ConfigError: when a key is missing, unknown or of the wrong type.
        """
        return cls.from_dict(json.loads(path.read_text()), source=path.name)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "schema") -> FeatureSchema:
        """Return the schema that `values`, parsed JSON, describe. Raises ConfigError."""
        schema = build_config(cls, values, source=source)
        if schema.format != FORMAT:
            raise InvalidArgument(f"{source}: format must be {FORMAT}, got {schema.format}")
        return schema

    def encode_items(
        self, items: pl.DataFrame, vectors: Mapping[str, NDArray[np.float32]]
    ) -> ItemFeatures:
        """Return the arrays of a table of items, in its order.

        Raises:
            InvalidArgument: for a missing column or vector set, a wrong width, NaN or infinity.
        """
        return encode.encode_items(self, items, vectors)

    def encode_users(
        self,
        user_ids: Sequence[str],
        attributes: Sequence[Mapping[str, str]],
        index: UserIndex,
    ) -> UserFeatures:
        """Return the arrays of the users of requests; unknown users and values get code 0.

        Raises:
            InvalidArgument: when a numeric attribute is not a finite number.
        """
        return encode.encode_users(self, user_ids, attributes, index)

    def encode_user_table(self, users: pl.DataFrame) -> UserFeatures:
        """Return the arrays of all users of training: row 0 is the unknown user, row i + 1 user i.

        Index its arrays with `UserFeatures.row` values, or use `UserFeatures.take(rows)`.
        """
        return encode.encode_user_table(self, users)

    def check_attributes(self, attributes: Mapping[str, str]) -> None:
        """Raise InvalidArgument when a numeric attribute is not a finite number."""
        for feature in self.user_numeric:
            encode.standardised(feature, attributes.get(feature.name))
