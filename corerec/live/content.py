"""ContentSide: what a release's models make of an item's content, whether they were trained on it.

All three stages use it: retrieval for its index and queries, ranking and rerank for their vectors.
"""

# n items, N items of the training, D width

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Generator, Tensor

from corerec.config import build_config
from corerec.engines.two_tower_config import TwoTowerConfig
from corerec.engines.two_tower_files import TwoTowerHeader
from corerec.engines.two_tower_item import ItemTower
from corerec.engines.two_tower_layers import item_space
from corerec.engines.two_tower_shape import ItemContent, TwoTowerShape
from corerec.errors import FailedPrecondition, InvalidArgument, ReleaseError
from corerec.features import FeatureSchema, ItemFeatures
from corerec.live.encoders import ContentEncoders
from corerec.live.rows import item_table, item_vectors
from corerec.release import OpenRelease
from corerec.stages import Float32s, Int64s
from corerec.store.catalogue import Item

KIND = "two_tower"
FEATURES = "item_features.safetensors"


@dataclass(frozen=True, kw_only=True)
class EncodedItems:
    """n items as the models see them."""

    numbers: Int64s
    """(n,)"""
    items: Sequence[Item]
    features: ItemFeatures
    base: Float32s
    """(n, D) two-tower vectors before normalisation, for `QueryEncoder.extend`."""
    vectors: Float32s
    """(n, D) as they are scored by: what an index holds."""
    refused: Sequence[InvalidArgument] = ()
    """Why items were left out, one each."""


class ContentSide:
    """Encodes items by their content; an item of the training keeps its trained id too."""

    def __init__(
        self,
        schema: FeatureSchema,
        tower: ItemTower | None,
        config: TwoTowerConfig,
        *,
        known: Path | None = None,
        encoders: ContentEncoders | None = None,
        leads: bool = True,
    ) -> None:
        """Take the parts of a release; `load` reads them."""
        self.schema = schema
        self._tower = None if tower is None else tower.eval()
        self._config, self._known = config, known
        self._encoders = encoders or ContentEncoders({})
        self._leads = leads
        self._among: ItemContent | None = None
        if tower is not None and config.neighbours and known is not None:
            self._among = ItemContent.of(ItemFeatures.load(known))

    @classmethod
    def load(cls, release: OpenRelease) -> ContentSide:
        """Return the content side of a release, on the CPU. Its weights stay on disk as a map.

        Raises:
            ReleaseError: when a file is missing or does not belong to the others.
        """
        schema = FeatureSchema.load(release.file("schema.json"))
        encoders = ContentEncoders.load(release)
        known = release.file(FEATURES)
        if not release.has(f"{KIND}.json"):
            return cls(schema, None, TwoTowerConfig(), known=known, encoders=encoders, leads=False)
        header = _header(release.file(f"{KIND}.json"))
        tower = _tower(header, release.file(f"{KIND}.safetensors"))
        # Ranking and rerank compare items in the space of the release's first model.
        leads = next(iter(release.info.get("models", {})), KIND) == KIND
        return cls(schema, tower, header.config, known=known, encoders=encoders, leads=leads)

    @property
    def item_count(self) -> int:
        """N: numbers below have a trained id."""
        return self.schema.item_count

    @property
    def has_tower(self) -> bool:
        """Whether the release has a two-tower; without one there are no vectors of new items."""
        return self._tower is not None

    @property
    def dim(self) -> int:
        """D, 0 without a two-tower."""
        return self._config.dim if self._tower is not None else 0

    def features(self, items: Sequence[Item], numbers: Int64s | None = None) -> ItemFeatures:
        """Return the features of items, row i those of items[i].

        A vector set that an item does not bring is what it was in training, where `numbers` (n,)
        say that it was there; else it is computed, where the release has its encoder; else zeros.

        Raises:
            InvalidArgument: naming item, column, rule and value.
        """
        table = item_table(self.schema, items)
        vectors = item_vectors(self.schema, items, self._missing(items, numbers))
        return self.schema.encode_items(table, vectors)

    def vectors(self, numbers: Int64s, items: Sequence[Item]) -> Float32s:
        """Return two-tower vectors (n, D) of items as they are scored by. Raises as `encode`."""
        return self.encode(numbers, items).vectors

    def encode(self, numbers: Int64s, items: Sequence[Item]) -> EncodedItems:
        """Return features and vectors of items; vectors of no width without a two-tower.

        Shapes: numbers (n,), one an item.

        Raises:
            InvalidArgument: naming item, column, rule and value.
        """
        features = self.features(items, numbers)
        base = self._base(numbers, features)
        vectors = self._scored(base)
        return EncodedItems(
            numbers=np.asarray(numbers, np.int64),
            items=items,
            features=features,
            base=base.numpy(),
            vectors=vectors.numpy(),
        )

    def encode_good(self, numbers: Int64s, items: Sequence[Item]) -> EncodedItems:
        """Do what `encode` does, without the items that it would refuse; `refused` says why."""
        try:
            return self.encode(numbers, items)
        except InvalidArgument:
            pass
        good: list[int] = []
        refused: list[InvalidArgument] = []
        for row, item in enumerate(items):
            try:
                item_table(self.schema, [item])
                good.append(row)
            except InvalidArgument as error:
                refused.append(error)
        kept = self.encode(np.asarray(numbers, np.int64)[good], [items[row] for row in good])
        return replace(kept, refused=tuple(refused))

    def space(self, encoded: EncodedItems, width: int) -> Float32s:
        """Return unit vectors (n, width) by which ranking and rerank compare items.

        They are zeros, unlike everything, where the release compares by another model.
        """
        if not self._leads or width != self.dim:
            return np.zeros((len(encoded.numbers), width), np.float32)
        unit: Float32s = F.normalize(torch.from_numpy(encoded.vectors), dim=1).numpy()
        return unit

    @torch.inference_mode()
    def _base(self, numbers: Int64s, features: ItemFeatures) -> Tensor:
        if self._tower is None:
            return torch.zeros(len(features), 0)
        rows = np.asarray(numbers, np.int64)
        if len(rows) != len(features):
            raise InvalidArgument(f"{len(features)} items need as many numbers, got {len(rows)}")
        own = np.where((rows >= 0) & (rows < self.item_count), rows, self.item_count)
        content = ItemContent.of(features)
        return self._tower.described(torch.from_numpy(own), content, self._among)

    @torch.inference_mode()
    def _scored(self, base: Tensor) -> Tensor:
        if self._tower is None:
            return base
        return item_space(base, self._config.temperature if self._config.bias else 0.0)

    def _missing(self, items: Sequence[Item], numbers: Int64s | None) -> Mapping[str, Float32s]:
        """Return (n, d) by vector set for items that do not bring theirs."""
        found: dict[str, Float32s] = {}
        first = 0
        for declared in self.schema.vector_sets:
            lacking = [row for row, item in enumerate(items) if declared.name not in item.vectors]
            columns = slice(first, first + declared.width)
            first += declared.width
            if not lacking:
                continue
            matrix = np.zeros((len(items), declared.width), np.float32)
            computed = self._encoders.encode(declared.name, [items[row] for row in lacking])
            if computed is not None and computed.shape[1] == declared.width:
                matrix[lacking] = computed
            if numbers is not None:
                own = np.asarray(numbers, np.int64)
                old = [row for row in lacking if 0 <= own[row] < self.item_count]
                empty = [row for row in old if not matrix[row].any()]
                if empty:
                    matrix[empty] = self._trained(own[empty], columns)
            found[declared.name] = matrix
        return found

    def _trained(self, numbers: Int64s, columns: slice) -> Float32s:
        """Return content vectors that items had in training, read row by row."""
        if self._known is None:
            raise FailedPrecondition("content vectors of the training were not given")
        with safe_open(self._known, framework="numpy") as file:
            rows = file.get_slice("vectors")
            return np.stack([rows[int(number), columns] for number in numbers])


def _header(path: Path) -> TwoTowerHeader:
    try:
        values = json.loads(path.read_text())
        return build_config(TwoTowerHeader, values["header"], source=path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{path}: must describe a two-tower: {error}") from None


def _tower(header: TwoTowerHeader, path: Path) -> ItemTower:
    """Return the item tower alone; its table of ids is mapped, not read."""
    shape: TwoTowerShape = replace(header.shape, items=0)
    tower = ItemTower(header.config, shape, Generator().manual_seed(0))
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith("item.")]  # noqa: SIM118
            own = {name.removeprefix("item."): file.get_tensor(name) for name in names}
        ids = own["id.weight"]
        if ids.shape != (header.shape.items + 1, header.config.dim):
            raise ReleaseError(
                f"{path}: ids must be of {header.shape.items} items, got {ids.shape}"
            )
        tower.id = torch.nn.Embedding(len(ids), header.config.dim, _weight=ids)
        tower.start = header.shape.items
        tower.load_state_dict(own, assign=True)
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise ReleaseError(f"{path}: must hold the weights of an item tower: {error}") from None
    return tower.requires_grad_(False)
