"""A release small enough to read in a test, and one way to make each kind of store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
import pytest

from corerec.release import Release, ReleaseWriter, write_catalogue
from corerec.store import Item, Store
from corerec.store import open_store as open_store_at
from corerec.store.catalogue import pack_item
from tests.redis_server import RedisServer, find_redis_server

MakeRelease = Callable[..., Release]
OpenStore = Callable[[], Store]

USERS: Mapping[str, Mapping[str, str | None]] = {
    "ann": {"age": "25", "city": "Bonn"},
    "bob": {"age": None, "city": "Ulm"},
}
# (user, item number, time): out of order in the file, on purpose.
HISTORIES: Sequence[tuple[str, int, int]] = [
    ("ann", 2, 30),
    ("ann", 0, 10),
    ("eve", 1, 5),
    ("ann", 1, 20),
]


@pytest.fixture
def make_release(tmp_path: Path) -> MakeRelease:
    """Return a function that writes and opens a release."""

    def make(
        ids: Sequence[str] = ("i0", "i1", "i2"),
        users: Mapping[str, Mapping[str, str | None]] = USERS,
        histories: Sequence[tuple[str, int, int]] = HISTORIES,
        live: Sequence[tuple[int, str, int, bool, str]] = (),
        position: int | None = None,
    ) -> Release:
        with ReleaseWriter(tmp_path / "releases") as writer:
            write_catalogue(writer.path("catalogue.parquet"), pl.DataFrame({"item_id": list(ids)}))
            schema = {"user_id": pl.String, "age": pl.Int32, "city": pl.String}
            rows = [
                {"user_id": u, "age": a["age"] and int(a["age"]), "city": a["city"]}
                for u, a in users.items()
            ]
            pl.DataFrame(rows, schema).write_parquet(writer.path("users.parquet"))
            columns = {
                "user_id": pl.String,
                "item_number": pl.Int64,
                "event_time_micros": pl.Int64,
            }
            frame = pl.DataFrame(list(histories), columns, orient="row")
            frame.write_parquet(writer.path("histories.parquet"))
            if not live:
                return Release.open(writer.commit({}))
            # (number, id, position, deleted, title) of each live item of a rebuilt release.
            columns = [list(column) for column in zip(*live, strict=True)]
            payloads = [
                b"" if gone else pack_item(Item(item_id=item_id, title=title))
                for _, item_id, _, gone, title in live
            ]
            names = ("number", "item_id", "position", "deleted")
            rows = dict(zip(names, columns[:4], strict=True))
            frame = pl.DataFrame({**rows, "payload": payloads})
            frame.write_parquet(writer.path("live_items.parquet"))
            newest = max(row[2] for row in live)
            info = {"catalogue_position": newest if position is None else position}
            return Release.open(writer.commit(info))

    return make


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real redis-server, for all tests of a session; each uses keys of its own."""
    server = RedisServer(find_redis_server(), tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Return a function that opens the store of this test, as each process of a cluster would."""
    if request.param == "redis":
        url, prefix = request.getfixturevalue("redis_server").url, tmp_path.name
        address, options = url, {"prefix": prefix}
    else:
        address, options = str(tmp_path / "store.db"), {"busy_seconds": 0.2}
    opened: list[Store] = []

    def open_it() -> Store:
        opened.append(open_store_at(address, **options))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore, make_release: MakeRelease) -> Store:
    """Return a store that is seeded with the small release."""
    store = open_store()
    assert store.seed(make_release())
    return store
