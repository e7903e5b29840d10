"""QueryCache: the queries of users who asked a moment ago, so that paging and retries are cheap."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping

from corerec.errors import ConfigError
from corerec.stages import Float32s, UserContext

MOST = 10_000
"""Users whose queries are kept."""

Queries = Mapping[str, Float32s]


class QueryCache:
    """Queries by everything that they are made of; belongs to one release, as its models do.

    The moment counts by its bucket of so many seconds. An item of the history that changes is seen
    after as many seconds. Anonymous users are kept too, by what they bring.
    """

    def __init__(self, seconds: float, *, most: int = MOST) -> None:
        """Keep queries for `seconds`; 0 keeps none. Raises ConfigError when it is negative."""
        if seconds < 0:
            raise ConfigError(f"cache_seconds must be at least 0, got {seconds}")
        self.seconds, self._most = seconds, most
        self._kept: OrderedDict[bytes, tuple[float, Queries]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, user: UserContext) -> bytes:
        """Return what tells the queries of a user at a moment from others."""
        digest = hashlib.blake2b(digest_size=16)
        bucket = int(user.now // (self.seconds * 1e6)) if self.seconds else user.now
        told = (bucket, len(user.items), user.user_id, sorted(user.attributes.items()))
        digest.update(repr(told).encode("utf-8", "surrogatepass"))
        digest.update(user.items.tobytes())
        digest.update(user.times.tobytes())
        return digest.digest()

    def get(self, key: bytes) -> Queries | None:
        """Return the queries of a key that are young enough, and count the look-up."""
        kept = self._kept.get(key)
        if kept is None or time.monotonic() - kept[0] >= self.seconds:
            self.misses += 1
            return None
        self.hits += 1
        return kept[1]

    def put(self, key: bytes, queries: Queries) -> None:
        """Keep the queries of a key; the oldest go where there are too many."""
        if not self.seconds:
            return
        self._kept[key] = time.monotonic(), queries
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
