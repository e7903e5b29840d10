"""What the ranker knows of items apart from its weights, as tensors on one device; scratch space.

Every table has one more row than there are items: row N is "no item", all zeros, so that padding
needs no masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.errors import InvalidArgument
from corerec.features import FeatureSchema, ItemFeatures
from corerec.ranking.transitions import TransitionTable


def _with_blank(array: NDArray[np.generic], device: torch.device) -> Tensor:
    padded = np.pad(array, ((0, 1), *[(0, 0)] * (array.ndim - 1)))
    return torch.from_numpy(np.ascontiguousarray(padded)).to(device)


@dataclass(frozen=True, kw_only=True)
class ItemTables:
    """The arrays of N items as tensors with a blank row N."""

    schema: FeatureSchema
    categorical: Tensor
    """(N + 1, C) int32"""
    multi: Tensor
    """(N + 1, M, K) int32"""
    multi_share: Tensor
    """(N + 1, M) 1 / number of values, 0 where there are none"""
    values: Tensor
    """(N + 1, J) int32: category, creator and list values as codes of one space, 0 is missing"""
    value_count: int
    """Codes of that space"""
    title_tokens: Tensor
    """(N + 1, T) int32"""
    numeric: Tensor
    """(N + 1, F)"""
    vectors: Tensor
    """(N + 1, V) content vectors"""
    tower: Tensor
    """(N + 1, D) item vectors of the release's two-tower, L2-normalised"""
    born_micros: Tensor
    """(N + 1,) int64, -1 unknown"""
    follower_starts: Tensor
    """(N + 2,) int64: the blank row has no followers"""
    followers: Tensor
    """(nnz,) int64"""
    follower_weights: Tensor
    """(nnz,)"""

    @classmethod
    def build(
        cls,
        schema: FeatureSchema,
        items: ItemFeatures,
        item_vectors: NDArray[np.float32],
        transitions: TransitionTable,
        device: torch.device | str = "cpu",
    ) -> ItemTables:
        """Return the tables. Raises InvalidArgument when parts are of different catalogues."""
        count, on = schema.item_count, torch.device(device)
        for name, part in (
            ("features", items),
            ("vectors", item_vectors),
            ("transitions", transitions),
        ):
            if len(part) != count:
                raise InvalidArgument(f"item {name} must have {count} rows, got {len(part)}")
        if not np.isfinite(item_vectors).all():
            raise InvalidArgument("item vectors must be finite")
        sizes = (items.multi > 0).sum(axis=2)
        values, value_count = _joined_codes(schema, items)
        return cls(
            schema=schema,
            categorical=_with_blank(items.categorical, on),
            multi=_with_blank(items.multi, on),
            multi_share=_with_blank(
                (1 / np.maximum(sizes, 1) * (sizes > 0)).astype(np.float32), on
            ),
            values=_with_blank(values, on),
            value_count=value_count,
            title_tokens=_with_blank(items.title_tokens, on),
            numeric=_with_blank(items.numeric, on),
            vectors=_with_blank(items.vectors, on),
            tower=_with_blank(item_vectors, on),
            born_micros=torch.from_numpy(np.append(items.born_micros, -1)).to(on),
            follower_starts=torch.from_numpy(
                np.append(transitions.starts, transitions.starts[-1])
            ).to(on),
            followers=torch.from_numpy(transitions.followers.astype(np.int64)).to(on),
            follower_weights=torch.from_numpy(transitions.weights).to(on),
        )

    @property
    def device(self) -> torch.device:
        """Return the device that the tables are on."""
        return self.tower.device

    def __len__(self) -> int:
        return len(self.born_micros) - 1


def _joined_codes(schema: FeatureSchema, items: ItemFeatures) -> tuple[NDArray[np.int32], int]:
    """Return (N, J) codes that no two columns share, and how many there are; 0 stays missing."""
    used = max(1, int((items.multi > 0).any(axis=(0, 1)).sum())) if items.multi.size else 0
    parts, above = [], 0
    declared = [*schema.item_categorical[:2], *schema.item_multi]
    columns = [items.categorical[:, :1], items.categorical[:, 1:2]]
    columns += [items.multi[:, m, :used] for m in range(len(schema.item_multi))]
    for feature, codes in zip(declared, columns, strict=True):
        parts.append(np.where(codes > 0, codes + above, 0))
        above += feature.cardinality - 1
    return np.concatenate(parts, axis=1).astype(np.int32), above + 1


def pick(table: Tensor, rows: Tensor) -> Tensor:
    """Return table[rows]. Shapes: table (N, ...), rows any. Several times faster than indexing."""
    return table.index_select(0, rows.reshape(-1)).view(*rows.shape, *table.shape[1:])


class Scratch:
    """A vector of zeros that joins weighted codes with queries, and is zeros again afterwards.

    Joining by scatter and gather costs a few microseconds a request where comparing every
    candidate with every history item, or searching sorted keys, costs hundreds. Not thread-safe:
    one scratch a thread.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._zeros = torch.zeros(0, device=device)

    def join(
        self, cases: Tensor, codes: Tensor, weights: Tensor, asked: Tensor, width: int
    ) -> Tensor:
        """Return, for every code asked for in a case, the sum of the weights given for it there.

        Shapes: cases, codes (E,), cases in [0, B), codes in [0, width); weights (S, E), S sums at
        once; asked (B, ...) codes; result (S, B, ...).
        """
        sums, count = len(weights), len(asked)
        space = count * width
        if len(self._zeros) < sums * space:
            self._zeros = torch.zeros(sums * space, device=weights.device)
        zeros = self._zeros[: sums * space].view(sums, space)
        places = cases * width + codes
        zeros.scatter_add_(1, places.expand(sums, -1), weights)
        offset = torch.arange(0, space, width, device=asked.device)
        wanted = asked + offset.view(-1, *[1] * (asked.dim() - 1))
        found = torch.stack([torch.take(row, wanted) for row in zeros.unbind(0)])
        zeros.index_fill_(1, places, 0.0)
        return found
