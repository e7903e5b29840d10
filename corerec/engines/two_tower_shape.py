"""Sizes that data gives the two-tower, and the tables that its towers read, as tensors."""

# B users, N items, C columns, M list columns, K values, W words, F numbers, V vector width

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corerec.features import FeatureSchema, ItemFeatures, UserFeatures, VectorSet

CONTEXT_WIDTH = 4


@dataclass(frozen=True, kw_only=True)
class TwoTowerShape:
    """Sizes that the data gives."""

    items: int
    users: int
    item_categorical: tuple[int, ...]
    item_multi: tuple[int, ...]
    title_buckets: int
    item_numeric: int
    item_vectors: tuple[VectorSet, ...]
    """Vector sets in the order of their columns."""
    user_categorical: tuple[int, ...]
    user_dense: int
    has_times: bool

    @classmethod
    def of(cls, schema: FeatureSchema) -> TwoTowerShape:
        """Return the sizes that a schema declares."""
        return cls(
            items=schema.item_count,
            users=schema.user_count,
            item_categorical=tuple(f.cardinality for f in schema.item_categorical),
            item_multi=tuple(f.cardinality for f in schema.item_multi),
            title_buckets=schema.title_buckets + 1,
            item_numeric=len(schema.item_numeric),
            item_vectors=schema.vector_sets,
            user_categorical=tuple(f.cardinality for f in schema.user_categorical),
            user_dense=len(schema.user_numeric),
            has_times=schema.has_times,
        )

    @property
    def vector_width(self) -> int:
        """V, of all vector sets together."""
        return sum(own.width for own in self.item_vectors)


@dataclass(frozen=True)
class ItemContent:
    """What the item tower reads besides ids, as tensors by item number."""

    categorical: Tensor  # (N, C)
    multi: Tensor  # (N, M, K)
    title: Tensor  # (N, W)
    numeric: Tensor  # (N, F)
    vectors: Tensor  # (N, V)

    @classmethod
    def of(cls, features: ItemFeatures, device: torch.device | str = "cpu") -> ItemContent:
        """Return the tensors of a table of item features."""
        arrays = (
            features.categorical,
            features.multi,
            features.title_tokens,
            features.numeric,
            features.vectors,
        )
        return cls(*(torch.from_numpy(np.array(array)).to(device) for array in arrays))


@dataclass(frozen=True)
class UserInputs:
    """What the user tower reads besides the history."""

    row: Tensor  # (B,) 0 is an unknown user
    categorical: Tensor  # (B, Cu)
    numeric: Tensor  # (B, Fu)

    @classmethod
    def of(cls, users: UserFeatures, device: torch.device | str = "cpu") -> UserInputs:
        """Return the tensors of users' features."""
        arrays = (users.row, users.categorical, users.numeric)
        return cls(*(torch.from_numpy(np.array(array)).to(device) for array in arrays))
