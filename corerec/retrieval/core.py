"""RetrievalCore: users in, the few hundred items of the catalogue that each may want out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
import torch
from safetensors.numpy import load_file

from corerec.engines.two_tower_io import load_two_tower
from corerec.engines.two_tower_net import ItemContent, TwoTowerNet
from corerec.errors import CoreRecError, InvalidArgument, ReleaseError
from corerec.features import FeatureSchema, ItemFeatures, UserIndex
from corerec.release import Release
from corerec.retrieval.build import load_index
from corerec.retrieval.encoder import QueryEncoder
from corerec.retrieval.fuse import fuse
from corerec.retrieval.index import ItemIndex
from corerec.retrieval.options import RetrievalOptions
from corerec.retrieval.popular import PopularList
from corerec.stages import (
    MAX_HISTORY,
    MAX_K,
    Float32s,
    RetrieveEntry,
    RetrieveResult,
    UserContext,
)


class RetrievalCore:
    """Retrieves for batches of users from one release; safe to call from several threads."""

    def __init__(
        self,
        *,
        release: str,
        encoder: QueryEncoder,
        index: ItemIndex,
        vectors: Float32s,
        popular: PopularList,
        schema: FeatureSchema,
        users: UserIndex,
        data_end: int,
        model_id: str,
        options: RetrievalOptions | None = None,
        threads: int = 1,
    ) -> None:
        """Join the parts; `RetrievalCore.load` reads them from a release."""
        self._release, self._data_end, self._model_id = release, data_end, model_id
        self._encoder, self._index, self._vectors = encoder, index, vectors
        self._popular, self._schema, self._users = popular, schema, users
        self._options, self._threads = options or RetrievalOptions(), threads

    @classmethod
    def load(
        cls, release: Release, *, config: RetrievalOptions | None = None, threads: int = 1
    ) -> RetrievalCore:
        """Return the core of a release.

        Raises:
            ReleaseError: when a file is missing or the parts are not of one model.
        """
        model, model_id = load_two_tower(
            release.file("two_tower.safetensors"), release.file("two_tower.json")
        )
        header = release.file("index.json")
        index = load_index(release.file("index.faiss"), header, model_id=model_id)
        schema = FeatureSchema.load(release.file("schema.json"))
        features = ItemFeatures.load(release.file("item_features.safetensors"))
        vectors = load_file(release.file("item_vectors.safetensors"))["vectors"]
        expected = (model.shape.items, model.config.dim)
        if vectors.shape != expected or (index.info.count, index.info.dim) != expected:
            raise ReleaseError(
                f"{header}: index, vectors and model must agree on {expected}, got "
                f"{(index.info.count, index.info.dim)} and {vectors.shape}"
            )
        return cls(
            release=release.id,
            encoder=_encoder(model, features, threads),
            index=index,
            vectors=vectors,
            popular=PopularList.load(release.file("popular.parquet"), len(vectors)),
            schema=schema,
            users=UserIndex.read(release.file("users.parquet")),
            data_end=int(release.info["data_end_micros"]),
            model_id=model_id,
            options=config,
            threads=threads,
        )

    @property
    def release(self) -> str:
        """Id of the release that this core holds."""
        return self._release

    def check(self, entry: RetrieveEntry) -> None:
        """Raise InvalidArgument when the entry breaks a rule."""
        if not 1 <= entry.k <= MAX_K:
            raise InvalidArgument(f"k must be in [1, {MAX_K}], got {entry.k}")
        check_history(entry.user)
        self._schema.check_attributes(entry.user.attributes)

    def run(self, entries: Sequence[RetrieveEntry]) -> Sequence[RetrieveResult | CoreRecError]:
        """Return candidates, best first, for each entry; a bad entry gets its error instead."""
        self._use_threads()
        results: list[RetrieveResult | CoreRecError | None] = [self._fault(e) for e in entries]
        good = [i for i, result in enumerate(results) if result is None]
        start = time.perf_counter_ns()
        queries = self._encode([entries[i].user for i in good])
        encode = (time.perf_counter_ns() - start) // 1000
        for row, i in enumerate(good):
            if not np.isfinite(queries[row]).all():
                results[i] = CoreRecError("the two-tower gave a query that is not finite")
        for k in {entries[i].k for i in good}:
            rows = [r for r, i in enumerate(good) if entries[i].k == k and results[i] is None]
            batch = [entries[good[r]] for r in rows]
            for r, result in zip(rows, self._search(batch, queries[rows], k, encode), strict=True):
                results[good[r]] = result
        return [result for result in results if result is not None]

    def warm(self) -> None:
        """Run typical batches so that the first real one is as fast as any."""
        rng = np.random.default_rng(0)
        for size in (1, 8, 32):
            histories = rng.integers(0, max(1, self._index.count), (size, 60))
            users = [UserContext(items=h, times=np.zeros(60, np.int64)) for h in histories]
            self.run([RetrieveEntry(user=user, k=500) for user in users])

    def encode(self, users: Sequence[UserContext]) -> Float32s:
        """Return the query vectors (B, D) of users, unit length."""
        return self._encode(users)

    def _fault(self, entry: RetrieveEntry) -> CoreRecError | None:
        try:
            self.check(entry)
        except CoreRecError as error:
            return error
        return None

    def _encode(self, users: Sequence[UserContext]) -> Float32s:
        inputs = self._schema.encode_users(
            [user.user_id for user in users], [user.attributes for user in users], self._users
        )
        moments = np.fromiter((u.now or self._data_end for u in users), np.int64, len(users))
        return self._encoder.encode([user.items for user in users], inputs, moments)

    def _search(
        self, entries: Sequence[RetrieveEntry], queries: Float32s, k: int, encode: int
    ) -> list[RetrieveResult]:
        start = time.perf_counter_ns()
        none = np.empty(0, np.int64)
        seen = [entry.user.items if entry.exclude_seen else none for entry in entries]
        numbers, scores = self._index.search(queries, k, seen, model_id=self._model_id)
        candidates = [
            fuse(
                numbers[row],
                scores[row],
                popular=self._popular.numbers,
                places=int(k * self._share(entry.user)),
                seen=seen[row],
                query=queries[row],
                vectors=self._vectors,
            )
            for row, entry in enumerate(entries)
        ]
        search = (time.perf_counter_ns() - start) // 1000
        timings = {"encode": encode, "search": search}
        return [RetrieveResult(candidates=own, coverage=1.0, timings=timings) for own in candidates]

    def _share(self, user: UserContext) -> float:
        items = user.items
        cold = not len(items) or not ((items >= 0) & (items < len(self._vectors))).any()
        if cold and not self._users.rows([user.user_id])[0]:
            return self._options.cold_popular_share
        return self._options.popular_share

    def _use_threads(self) -> None:
        # OpenMP keeps its number of threads per calling thread, and an executor brings its own.
        omp: Any = faiss
        if omp.omp_get_max_threads() != self._threads:
            omp.omp_set_num_threads(self._threads)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)


def check_history(user: UserContext) -> None:
    """Raise InvalidArgument when history columns or the moment break a rule."""
    if user.items.ndim != 1 or user.items.dtype != np.int64 or user.times.dtype != np.int64:
        raise InvalidArgument(
            "history columns must be one-dimensional int64, "
            f"got {user.items.dtype} {user.items.shape} and {user.times.dtype} {user.times.shape}"
        )
    if len(user.items) > MAX_HISTORY:
        raise InvalidArgument(f"history must have at most {MAX_HISTORY} events: {len(user.items)}")
    if user.times.shape != user.items.shape:
        raise InvalidArgument(
            f"history must have one time an event, got {len(user.items)} items "
            f"and {len(user.times)} times"
        )
    if user.now < 0:
        raise InvalidArgument(f"now must be microseconds since 1970, >= 0, got {user.now}")


def _encoder(model: TwoTowerNet, features: ItemFeatures, threads: int) -> QueryEncoder:
    torch.set_num_threads(threads)
    return QueryEncoder(model, model.item_base(ItemContent.of(features)))
