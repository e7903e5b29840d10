"""An address names a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from corerec.errors import InvalidArgument, Unavailable
from corerec.store import SqliteStore, open_store
from corerec.store.redis import RedisStore
from tests.redis_server import RedisServer


def test_a_path_is_a_file_and_a_url_is_a_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    for address in (tmp_path / "s.db", str(tmp_path / "new folder" / "s.db")):
        store = open_store(address, busy_seconds=1)
        assert isinstance(store, SqliteStore)
        assert store.path == Path(address)
        store.close()
    store = open_store(redis_server.url, prefix="open", busy_seconds=1)
    assert isinstance(store, RedisStore)
    assert store.address == redis_server.url
    store.close()


def test_what_names_no_store_is_refused_without_telling_its_password(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArgument, match=r"path of a file or redis://.*, got postgres://\.\.\.$"
    ):
        open_store("postgres://me:secret@host/db")
    with pytest.raises(Unavailable, match="see that redis-server runs there") as caught:
        open_store("redis://me:secret@127.0.0.1:1/0")
    assert "secret" not in str(caught.value)
    with pytest.raises(TypeError):
        open_store(tmp_path / "s.db", durability="always")
