"""Sources: what retrieval asks for candidates. A model's vectors behind an index, or your own list.

A candidate's score is the weighted sum of all vector sources' dot products, whoever brought it, so
scores compare; the weights are chosen when a release is trained.
"""

# B users, D width, N items, n candidates

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from corerec.engines.protocols import Retriever
from corerec.errors import InvalidArgument, ReleaseError
from corerec.features import FeatureSchema
from corerec.live.snapshot import read_position
from corerec.release import OpenRelease, Release
from corerec.retrieval.index import ItemIndex
from corerec.retrieval.options import KINDS
from corerec.retrieval.source_files import mean_of, read_index, read_vectors
from corerec.stages import Float32s, Int64s, Source, UserContext

Encode = Callable[[Sequence[UserContext]], Float32s]

_HOMES = {
    "two_tower": ("corerec.engines.two_tower", "TwoTower"),
    "bert4rec": ("corerec.engines.bert4rec", "BERT4Rec"),
    "matrix_factorization": ("corerec.cf_engine", "MatrixFactorization"),
}


class RetrievalSource(Protocol):
    """What RetrievalCore asks of a source."""

    @property
    def kind(self) -> str:
        """Its name in quotas and timings."""
        ...

    @property
    def source(self) -> Source:
        """What its candidates are marked with."""
        ...

    @property
    def encode(self) -> Encode:
        """Users to queries (B, D); a user whose query is not finite is not asked about."""
        ...

    def search(
        self, users: Sequence[UserContext], queries: Float32s, k: int, seen: Sequence[Int64s]
    ) -> Int64s:
        """Return (B, k) item numbers, best first, each once, none seen, padded with -1."""
        ...


@dataclass(frozen=True, kw_only=True)
class UserEncoder:
    """The users' side of a model: what the front asks."""

    kind: str
    source: Source
    encode: Encode
    weight: float = 1.0
    """Weight of its dot product in a candidate's score, >= 0."""
    extend: Callable[[Int64s, Float32s], None] | None = None
    """Lets items (n,) count in histories by their content (n, D); None where a model cannot."""


@dataclass(frozen=True, kw_only=True)
class IndexedVectors:
    """The items' side of a model: what a shard asks."""

    kind: str
    source: Source
    vectors: Float32s
    """(N, D), of any length: row i is item number i * shards + shard."""
    index: ItemIndex
    model_id: str
    weight: float = 1.0
    """Weight of its dot product in a candidate's score, >= 0."""
    shard: int = 0
    shards: int = 1
    mean: Float32s | None = None
    """(D,) mean vector of the items of all shards; a whole source computes its own."""

    def mean_vector(self) -> Float32s:
        """Return the mean vector (D,) of the items of all shards, of a sample of many."""
        return mean_of(self.vectors) if self.mean is None else self.mean


@dataclass(frozen=True, kw_only=True)
class VectorSource(IndexedVectors):
    """A model whose dot products an index ranks: both sides, over all items."""

    encode: Encode
    extend: Callable[[Int64s, Float32s], None] | None = None
    """See UserEncoder."""

    def search(
        self, users: Sequence[UserContext], queries: Float32s, k: int, seen: Sequence[Int64s]
    ) -> Int64s:
        """Return the k items of highest dot product of each query; see RetrievalSource."""
        return self.index.search(queries, k, seen, model_id=self.model_id)[0]


class ListSource:
    """A retriever of your own: its lists, without what was seen."""

    def __init__(self, retriever: Retriever, item_count: int) -> None:
        self.kind, self.source = type(retriever).__name__, Source.UNSPECIFIED
        self._retriever, self._item_count = retriever, item_count

    def encode(self, users: Sequence[UserContext]) -> Float32s:
        """Return queries of no width: the lists come from the users themselves."""
        return np.empty((len(users), 0), np.float32)

    def search(
        self, users: Sequence[UserContext], queries: Float32s, k: int, seen: Sequence[Int64s]
    ) -> Int64s:
        """Return what the retriever brings. Raises InvalidArgument when that is no list a user."""
        found = self._retriever.retrieve(users, k)
        if len(found) != len(users):
            raise InvalidArgument(
                f"{self.kind}.retrieve must return one list a user, "
                f"got {len(found)} for {len(users)}"
            )
        out = np.full((len(users), k), -1, np.int64)
        for row, (own, known) in enumerate(zip(found, seen, strict=True)):
            numbers = np.asarray(own.numbers, np.int64)
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self._item_count:
                raise InvalidArgument(
                    f"{self.kind}.retrieve must return item numbers in [0, {self._item_count}), "
                    f"got {numbers.min()}..{numbers.max()}"
                )
            first = np.sort(np.unique(numbers, return_index=True)[1])
            numbers = numbers[first]
            numbers = numbers[~np.isin(numbers, known)][:k]
            out[row, : len(numbers)] = numbers
        return out


def load_encoder(
    release: Release, kind: str, *, weight: float = 1.0, threads: int = 1
) -> UserEncoder:
    """Return the users' side of a source of a release. Raises ReleaseError for a missing file."""
    torch.set_num_threads(threads)
    header = release.file(f"{kind}.json")
    release.file(f"{kind}.safetensors")
    model = model_class(kind).load(release.path)
    end = int(release.info["data_end_micros"])

    def encode(users: Sequence[UserContext]) -> Float32s:
        # A model ends with its training slice, a release with its data.
        found: Float32s = model.encode_users([u if u.now else replace(u, now=end) for u in users])
        return found

    read_model_id(header)
    return UserEncoder(
        kind=kind,
        source=KINDS[kind],
        encode=encode,
        weight=weight,
        extend=getattr(model, "extend", None),
    )


def load_vectors(
    release: OpenRelease,
    kind: str,
    schema: FeatureSchema,
    *,
    weight: float = 1.0,
    shard: int = 0,
    shards: int = 1,
) -> IndexedVectors:
    """Return the items' side of a source of a release, or a shard of it.

    A release in parts is read only as far as the shard's items lie in them; of a whole one the
    shard is cut.

    Raises:
        ReleaseError: when a file is missing or the parts are not of one model.
    """
    model_id = read_model_id(release.file(f"{kind}.json"))
    vectors, mean = read_vectors(release, kind, schema.item_count, shard, shards)
    index = read_index(release, kind, vectors, shard, shards, model_id=model_id)
    expected = (len(range(shard, schema.item_count, shards)), index.info.dim)
    # A release that was rebuilt has new items in its index, and deleted ones not.
    whole = index.info.count == expected[0] or read_position(release) > 0
    if vectors.shape != expected or not whole:
        raise ReleaseError(
            f"release {release.id}: index, vectors and catalogue of {kind} must agree on "
            f"{expected}, got {(index.info.count, index.info.dim)} and {vectors.shape}"
        )
    return IndexedVectors(
        kind=kind,
        source=KINDS[kind],
        vectors=vectors,
        index=index,
        model_id=model_id,
        weight=weight,
        shard=shard,
        shards=shards,
        mean=mean,
    )


def join_source(encoder: UserEncoder, indexed: IndexedVectors) -> VectorSource:
    """Return both sides of a model as one source."""
    return VectorSource(
        kind=indexed.kind,
        source=indexed.source,
        encode=encoder.encode,
        extend=encoder.extend,
        vectors=indexed.vectors,
        index=indexed.index,
        model_id=indexed.model_id,
        weight=indexed.weight,
        shard=indexed.shard,
        shards=indexed.shards,
        mean=indexed.mean,
    )


def model_class(kind: str) -> Any:
    """Return the class of a kind that loads itself from its files."""
    home, name = _HOMES[kind]
    return getattr(import_module(home), name)


def read_model_id(header: Path) -> str:
    """Return the digest of the weights that a model's JSON names."""
    try:
        return str(json.loads(header.read_text())["model_id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{header}: must name the model_id of its weights: {error}") from None
