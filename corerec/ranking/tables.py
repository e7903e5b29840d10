"""What the ranker knows of items apart from its weights, as tensors on one device; scratch space.

Row i < N is item number i of the training and row N is "no item", all zeros, so that padding needs
no masks. Rows after it are items that came later: number i has row i + 1. What was trained by item
(ids, followers) has N + 1 rows; there a later item reads the blank one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.engines.memory import roomy
from corerec.errors import InvalidArgument
from corerec.features import CategoricalFeature, FeatureSchema, ItemFeatures
from corerec.ranking.transitions import TransitionTable

COLUMNS = (
    "categorical", "multi", "multi_share", "values", "title_tokens", "numeric", "vectors", "tower",
    "born_micros",
)  # fmt: skip
"""Fields of ItemTables with a row for every item."""


@dataclass(kw_only=True)
class ItemTables:
    """The arrays of N items as tensors with a blank row N and R - N - 1 rows of room after it."""

    schema: FeatureSchema
    categorical: Tensor
    """(R, C) int32"""
    multi: Tensor
    """(R, M, K) int32, K the most values that an item of the training has"""
    multi_share: Tensor
    """(R, M) 1 / number of values, 0 where there are none"""
    values: Tensor
    """(R, J) int32: category, creator and list values as codes of one space, 0 is missing"""
    value_count: int
    """Codes of that space"""
    title_tokens: Tensor
    """(R, T) int32"""
    numeric: Tensor
    """(R, F)"""
    vectors: Tensor
    """(R, V) content vectors"""
    tower: Tensor
    """(R, D) item vectors of the release's two-tower, L2-normalised"""
    born_micros: Tensor
    """(R,) int64, -1 unknown"""
    follower_starts: Tensor
    """(N + 2,) int64: the blank row has no followers"""
    followers: Tensor
    """(nnz,) int32; of none at all, a zero that no start leads to"""
    follower_weights: Tensor
    """(nnz,)"""
    most_followers: int
    """Followers that an item has at most, and at least 1"""
    used: int
    """Most values of a list column that an item of the training has: of more, the first count."""
    version: int = field(init=False, default=0)
    """How often rows were put."""
    changed: NDArray[np.int64] = field(init=False)
    """(R,) version in which each row was put last, 0 before any"""

    @classmethod
    def build(
        cls,
        schema: FeatureSchema,
        items: ItemFeatures,
        item_vectors: NDArray[np.float32],
        transitions: TransitionTable,
        device: torch.device | str = "cpu",
        room: int = 0,
    ) -> ItemTables:
        """Return the tables with room for so many later items, which costs memory as it is used.

        Raises InvalidArgument when parts are of different catalogues.
        """
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
        used = max(1, int((items.multi > 0).any(axis=(0, 1)).sum())) if items.multi.size else 0
        arrays = _arrays(schema, items, item_vectors, used)
        return cls(
            schema=schema,
            value_count=1 + sum(f.cardinality - 1 for f in _joined(schema)),
            used=used,
            **{name: _with_room(array, room, name, on) for name, array in arrays.items()},
            follower_starts=torch.from_numpy(
                np.append(transitions.starts, transitions.starts[-1])
            ).to(on),
            followers=_tensor(_or_zero(transitions.followers)).to(on),
            follower_weights=_tensor(_or_zero(transitions.weights)).to(on),
            most_followers=max(1, int(np.diff(transitions.starts).max(initial=0))),
        )

    def __post_init__(self) -> None:
        """Begin with every row as it was built."""
        self.changed = np.zeros(len(self.born_micros), np.int64)

    @property
    def device(self) -> torch.device:
        """Return the device that the tables are on."""
        return self.tower.device

    @property
    def room(self) -> int:
        """R, the rows that there are."""
        return len(self.born_micros)

    def __len__(self) -> int:
        """N: items of the training, and the number of the blank row."""
        return self.schema.item_count

    def trained(self, rows: Tensor) -> Tensor:
        """Return rows for what was trained by item: the blank one for items that came later."""
        return rows.clamp(max=len(self))

    def put(self, rows: NDArray[np.int64], items: ItemFeatures, tower: NDArray[np.float32]) -> None:
        """Replace rows (n,), which are not the blank one, by these items; makes room for them."""
        if not len(rows):
            return
        self._grow(int(rows.max()) + 1)
        self.version += 1
        self.changed[rows] = self.version
        at = torch.from_numpy(rows).to(self.device)
        for name, array in _arrays(self.schema, items, tower, self.used).items():
            table: Tensor = getattr(self, name)
            table.index_copy_(0, at, _tensor(array).to(self.device))

    def _grow(self, rows: int) -> None:
        if rows <= self.room:
            return
        more = max(rows - self.room, self.room // 4)
        self.changed = np.pad(self.changed, (0, more))
        for name in COLUMNS:
            setattr(self, name, wider(getattr(self, name), more, _BLANKS.get(name, 0)))


_BLANKS = {"born_micros": -1}


def wider(table: Tensor, more: int, blank: int = 0) -> Tensor:
    """Return a copy of a table with so many rows more."""
    found = roomy((len(table) + more, *table.shape[1:]), table.dtype, table.device)
    found[: len(table)] = table
    if blank:
        found[len(table) :] = blank
    return found


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Return an array as a tensor, copied where torch could not write to it."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _or_zero(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array if len(array) else np.zeros(1, array.dtype)


def _with_room(array: NDArray[np.generic], room: int, name: str, device: torch.device) -> Tensor:
    """Return a tensor with a blank row and more after the rows of an array."""
    count = len(array)
    source = _tensor(array)
    found = roomy((count + 1 + room, *source.shape[1:]), source.dtype, device)
    found[:count] = source
    if blank := _BLANKS.get(name, 0):
        found[count:] = blank
    return found


def _arrays(
    schema: FeatureSchema, items: ItemFeatures, tower: NDArray[np.float32], used: int
) -> dict[str, NDArray[np.generic]]:
    """Return the columns of n items, by name of COLUMNS."""
    multi = items.multi
    if multi.size:
        multi = multi[:, :, :used]
    sizes = (multi > 0).sum(axis=2)
    return {
        "categorical": items.categorical,
        "multi": multi,
        "multi_share": (1 / np.maximum(sizes, 1) * (sizes > 0)).astype(np.float32),
        "values": _joined_codes(schema, items.categorical, multi),
        "title_tokens": items.title_tokens,
        "numeric": items.numeric,
        "vectors": items.vectors,
        "tower": tower,
        "born_micros": items.born_micros,
    }


def _joined(schema: FeatureSchema) -> list[CategoricalFeature]:
    """Return the columns whose codes share one space."""
    return [*schema.item_categorical[:2], *schema.item_multi]


def _joined_codes(
    schema: FeatureSchema, categorical: NDArray[np.int32], multi: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return (n, J) codes that no two columns share; 0 stays missing."""
    parts, above = [], 0
    columns = [categorical[:, :1], categorical[:, 1:2]]
    columns += [multi[:, m] for m in range(len(schema.item_multi))]
    for feature, codes in zip(_joined(schema), columns, strict=True):
        parts.append(np.where(codes > 0, codes + above, 0))
        above += feature.cardinality - 1
    return np.concatenate(parts, axis=1).astype(np.int32)


def pick(table: Tensor, rows: Tensor) -> Tensor:
    """Return table[rows]. Shapes: table (N, ...), rows any. Several times faster than indexing."""
    return table.index_select(0, rows.reshape(-1)).view(*rows.shape, *table.shape[1:])


class Scratch:
    """A vector of zeros that joins weighted codes with queries, and is zeros again afterwards.

    Joining by scatter and gather costs a few microseconds a request where comparing every
    candidate with every history item costs hundreds. Not thread-safe: one scratch a thread.
    """

    def __init__(self, device: torch.device | str = "cpu", size: int = 0) -> None:
        """Have room for `size` sums: of S at once, over B cases and W codes, S B W."""
        self._zeros = torch.zeros(size, device=device)

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
