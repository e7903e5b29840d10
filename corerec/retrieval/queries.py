"""UserQueries: users to the queries of each model, kept for a moment; later items count too."""

# B users, D width of a model's space

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from corerec.live.content import KIND, ContentSide, EncodedItems
from corerec.retrieval.cache import QueryCache
from corerec.retrieval.changes import encode_changes
from corerec.retrieval.check import is_finite
from corerec.retrieval.sources import UserEncoder
from corerec.stages import Float32s, Int64s, UserContext
from corerec.store.catalogue import ItemChange


class UserQueries:
    """The users' sides of a release's models."""

    def __init__(
        self,
        encoders: Sequence[UserEncoder],
        item_count: int,
        *,
        content: ContentSide | None = None,
        cache_seconds: float = 0.0,
    ) -> None:
        """Join encoders of `item_count` items; without `content` later items count nowhere."""
        self.encoders = tuple(encoders)
        self.cache = QueryCache(cache_seconds)
        self.position = 0
        """Position of the newest change that was applied."""
        self._item_count, self._content = item_count, content
        self._later = set[int]()

    def encode(
        self, users: Sequence[UserContext]
    ) -> tuple[list[dict[str, Float32s]], dict[str, int]]:
        """Return each user's queries (D,) by kind, and the microseconds of each encoder.

        A query that is not finite is left out.
        """
        keys = [self.cache.key(user) for user in users] if self.cache.seconds else []
        kept = [self.cache.get(key) for key in keys] or [None] * len(users)
        found = [{} if own is None else dict(own) for own in kept]
        new = [row for row, own in enumerate(kept) if own is None]
        micros = dict.fromkeys((encoder.kind for encoder in self.encoders), 0)
        for encoder in self.encoders if new else ():
            start = time.perf_counter_ns()
            rows = np.ascontiguousarray(encoder.encode([users[row] for row in new]), np.float32)
            micros[encoder.kind] = (time.perf_counter_ns() - start) // 1000
            for row, query in zip(new, rows, strict=True):
                if is_finite(query):
                    # A copy, or a kept query would keep the whole batch.
                    found[row][encoder.kind] = query.copy() if keys else query
        for row in new if keys else ():
            self.cache.put(keys[row], found[row])
        return found, micros

    def knows(self, items: Int64s) -> bool:
        """Say whether any item of a history is known, of the training or later."""
        if len(items) and 0 <= items[-1] < self._item_count:
            return True
        known = bool(((items >= 0) & (items < self._item_count)).any())
        return known or not self._later.isdisjoint(items.tolist())

    def apply(self, changes: Sequence[ItemChange], encoded: EncodedItems | None = None) -> None:
        """Let changed items count in histories by their content; see Front."""
        fresh = [change for change in changes if change.position > self.position]
        if fresh:
            self._take(fresh, encoded)
            self.position = fresh[-1].position

    def _take(self, changes: Sequence[ItemChange], encoded: EncodedItems | None) -> None:
        if self._content is None or not self._content.has_tower:
            return
        if encoded is None:
            encoded = encode_changes(self._content, changes)
        for encoder in self.encoders:
            if encoder.kind == KIND and encoder.extend is not None:
                encoder.extend(encoded.numbers, encoded.base)
                self._later.update(encoded.numbers.tolist())
