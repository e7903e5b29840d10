"""open_store: the store that an address names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corerec.errors import InvalidArgument
from corerec.store.base import Store
from corerec.store.sqlite import SqliteStore

REDIS_SCHEMES = ("redis://", "rediss://")


def open_store(address: str | Path, **options: Any) -> Store:
    """Open the store of an address: a path is a SQLite file, `redis://host:port/db` a Redis.

    `options` are those of `SqliteStore` or `RedisStore`; both take `busy_seconds`.

    Raises:
        InvalidArgument: the address is an URL of another kind.
        Unavailable: it cannot be opened; the text says what to do.
    """
    if isinstance(address, str) and address.startswith(REDIS_SCHEMES):
        from corerec.store.redis import RedisStore  # whoever has one file needs no Redis

        return RedisStore(address, **options)
    if isinstance(address, str) and "://" in address:
        scheme = address.partition("://")[0]  # what follows may have a password
        raise InvalidArgument(
            f"store must be the path of a file or redis://host:port/db, got {scheme}://..."
        )
    return SqliteStore(Path(address), **options)
