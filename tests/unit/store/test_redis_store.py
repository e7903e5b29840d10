"""What is special to the Redis store: which servers it trusts, and what happens when one fails."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from corerec.errors import InvalidArgument, Unavailable
from corerec.store import Event, Item, Store, open_store
from corerec.store.redis import RedisStore
from corerec.store.redis_seed import Seeding
from tests.redis_server import RedisServer, find_redis_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test's own, to be stopped, filled and set up wrongly."""
    server = RedisServer(find_redis_server(), tmp_path)
    yield server
    server.kill()


@pytest.fixture
def raw(server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client of the same server."""
    client = redis.Redis(port=server.port)
    yield client
    client.close()


@pytest.fixture
def store(server: RedisServer, make_release) -> Iterator[Store]:
    """A seeded store on that server."""
    store = open_store(server.url, busy_seconds=0.5)
    assert store.seed(make_release())
    yield store
    store.close()


def titles(store: Store) -> list[str | None]:
    return [change.item and change.item.title for change in store.changes(0)]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("appendonly", "no", "its appendonly must be yes, got no, or it loses"),
        ("appendfsync", "everysec", "its appendfsync must be always, got everysec"),
        ("appendfsync", "no", "its appendfsync must be always, got no"),
        ("no-appendfsync-on-rewrite", "yes", "must be no, got yes, or it loses what"),
        ("maxmemory-policy", "allkeys-lru", "must be noeviction, got allkeys-lru"),
    ],
)
def test_a_server_that_would_lose_what_it_acknowledged_is_refused(
    server: RedisServer, raw: redis.Redis, store: Store, name: str, value: str, said: str
) -> None:
    raw.config_set(name, value)
    for look in (lambda: RedisStore(server.url), store.check):
        with pytest.raises(Unavailable, match=rf"^store redis://.*/0: .*{said}.*CONFIG SET {name}"):
            look()
    good = server.settings.get(name, {"maxmemory-policy": "noeviction"}.get(name, "no"))
    raw.config_set(name, good)
    store.check()
    RedisStore(server.url).close()


def test_everysec_is_taken_when_asked_for_and_positions_are_not_given_again(
    server: RedisServer, raw: redis.Redis
) -> None:
    raw.config_set("appendfsync", "everysec")
    server.settings["appendfsync"] = "everysec"
    store = RedisStore(server.url, durability="everysec")
    assert store.upsert_items([Item(item_id="a")])[0].position == 1
    time.sleep(1.5)
    server.kill()
    server.start()
    # The server may have lost the last second: a follower may have seen positions after 1.
    (change,) = store.upsert_items([Item(item_id="b")])
    assert (change.position, change.number) == (1_000_002, 1)
    assert [c.position for c in store.changes(1)] == [1_000_002]
    store.close()
    for name, value in (("durability", "no"), ("log_events", 0)):
        with pytest.raises(InvalidArgument, match=f"{name} must be"):
            RedisStore(server.url, **{name: value})


def test_a_dead_server_is_unavailable_and_the_store_goes_on_when_it_is_back(
    server: RedisServer, store: Store
) -> None:
    store.upsert_items([Item(item_id="a", title="kept")])
    store.append_events([Event("ann", "a", 3, 99)])
    server.kill()
    for call in (
        lambda: store.read_users(["ann"]),
        lambda: store.append_events([Event("ann", "a", 3, 100)]),
        lambda: store.upsert_items([Item(item_id="b")]),
        lambda: store.changes(0),
        lambda: RedisStore(server.url),
        store.position,
        store.check,
    ):
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"connection failed .*see that redis-server runs"):
            call()
        assert time.monotonic() - began < 2
    server.start()
    assert store.read_users(["ann"])[0].times.tolist() == [10, 20, 30, 99]
    assert titles(store) == ["kept"]
    assert store.append_events([Event("ann", "a", 3, 100)]) == 1


def test_a_server_that_hangs_is_unavailable_in_time(server: RedisServer, store: Store) -> None:
    server.pause(signal.SIGSTOP)
    try:
        for call in (lambda: store.read_users(["ann"]), lambda: store.delete_items(["i0"])):
            began = time.monotonic()
            with pytest.raises(Unavailable, match=r"no answer within 0\.5 s, a write may or may"):
                call()
            assert time.monotonic() - began < 2
    finally:
        server.pause(signal.SIGCONT)
    assert store.read_users(["ann"])[0].known


def test_an_emptied_or_replaced_store_is_neither_read_nor_written(
    server: RedisServer, raw: redis.Redis, store: Store, tmp_path: Path
) -> None:
    raw.flushall()
    for call in (lambda: store.upsert_items([Item(item_id="a")]), lambda: store.read_users(["a"])):
        with pytest.raises(Unavailable, match="emptied or replaced while in use"):
            call()
    assert raw.dbsize() == 0
    server.kill()
    (tmp_path / "appendonlydir").rename(tmp_path / "old")
    server.start()
    RedisStore(server.url).close()  # makes another one
    with pytest.raises(Unavailable, match="not the store that was opened, it was emptied or repl"):
        store.upsert_items([Item(item_id="a")])


def test_what_is_no_store_is_refused(server: RedisServer, raw: redis.Redis) -> None:
    raw.set("corerec:store", "corerec-store 2 abc")
    with pytest.raises(Unavailable, match="must hold a store of format 'corerec-store 1'"):
        RedisStore(server.url)
    for address, said in (("redis://h:port/0", "port"), ("redis-socket://h", "redis://")):
        with pytest.raises(InvalidArgument, match=f"store address must be redis://.*{said}"):
            RedisStore(address)


def test_a_password_is_asked_for_and_never_told(server: RedisServer, raw: redis.Redis) -> None:
    raw.config_set("requirepass", "secret")
    raw.execute_command("AUTH", "secret")
    for login in ("", ":wrong-secret@"):
        url = server.url.replace("//", f"//{login}")
        with pytest.raises(Unavailable, match="put user and password into") as caught:
            RedisStore(url)
        assert "secret" not in str(caught.value)
    RedisStore(server.url.replace("//", "//:secret@")).close()


def test_a_full_memory_refuses_writes_and_serves_reads(raw: redis.Redis, store: Store) -> None:
    raw.config_set("maxmemory", raw.info("memory")["used_memory"] + 300_000)
    kept: list[str] = []

    def fill() -> None:
        for i in range(10_000):
            store.upsert_items([Item(item_id=f"n{i}", title="t" * 1000)])
            kept.append(f"n{i}")

    with pytest.raises(Unavailable, match="nothing was written; raise its maxmemory"):
        fill()
    for write in (
        lambda: store.append_events([Event("ann", "i1", 1, 1)]),
        lambda: store.put_users([("ann", {"city": "X"})]),
        lambda: store.delete_items(["i1"]),
        store.check,
    ):
        with pytest.raises(Unavailable, match="raise its maxmemory"):
            write()
    assert [c.item_id for c in store.changes(0, 10_000)] == kept
    assert store.read_users(["ann"])[0].items.tolist() == [0, 1, 2]
    assert store.item_numbers(["i2"]) == [2]
    raw.config_set("maxmemory", 0)
    store.check()
    assert store.append_events([Event("ann", "i1", 1, 40)]) == 1


def test_scripts_that_the_server_forgot_are_sent_again(raw: redis.Redis, store: Store) -> None:
    raw.script_flush()
    assert store.read_users(["ann"])[0].known
    raw.script_flush()
    assert len(store.upsert_items([Item(item_id="a")])) == 1
    assert store.position() == 1


def test_only_the_newest_events_stay_in_the_log(server: RedisServer, make_release) -> None:
    store = RedisStore(server.url, log_events=200)
    store.seed(make_release())
    for i in range(60):
        store.append_events([Event(f"u{i % 3}", "i1", 1, 10 * i + j) for j in range(10)])
    seq, rows = store.events_after(0)
    assert seq == 600
    assert 200 <= len(rows) < 600
    assert rows[:, 1].tolist() == list(range(600 - len(rows), 600))
    assert len(store.read_users(["u0"])[0].items) == 200
    store.close()


def test_writers_of_the_same_user_on_several_connections_lose_nothing(
    server: RedisServer, make_release
) -> None:
    stores = [RedisStore(server.url, busy_seconds=10) for _ in range(4)]
    stores[0].seed(make_release())

    def write(worker: int) -> None:
        for i in range(25):
            moment = 1000 * worker + i
            stores[worker].append_events([Event("u", "i1", 1, moment, "x", str(moment))])
            stores[worker].put_users([("u", {f"k{worker}": str(i)})])

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (state,) = stores[0].read_users(["u"])
    assert state.times.tolist() == [1000 * worker + i for worker in range(4) for i in range(25)]
    assert state.attributes == {f"k{worker}": "24" for worker in range(4)}
    for store in stores:
        store.close()


def test_nothing_of_a_seed_is_seen_before_all_of_it_is(
    server: RedisServer, raw: redis.Redis, make_release
) -> None:
    store, reader = RedisStore(server.url), RedisStore(server.url)
    steps: list[str] = []

    def look(what: str, done: int, total: int) -> None:
        steps.append(what)
        assert not any(state.known for state in reader.read_users(["ann", "bob", "eve"]))
        assert reader.item_numbers(["i0", "i2"]) == [None, None]
        staged = list(raw.scan_iter("corerec:stage:*"))
        assert staged
        assert all(raw.ttl(key) > 0 for key in staged)  # gone by themselves if this process dies

    assert store.seed(make_release(), look)
    assert steps == ["items", "users", "histories"]
    assert reader.read_users(["ann"])[0].items.tolist() == [0, 1, 2]
    assert all(raw.ttl(key) == -1 for key in raw.scan_iter("*"))
    assert not list(raw.scan_iter("corerec:stage:*"))
    store.close()
    reader.close()


class Unfinished(Seeding):
    """A seeding that dies right after its rows became visible."""

    def _fold(self) -> None:
        pass


def test_rows_of_a_second_seed_are_served_also_when_it_died_before_moving_them(
    raw: redis.Redis, store: RedisStore, make_release
) -> None:
    larger = make_release(
        ids=["i0", "i1", "i2", "i3"],
        users={f"z{i}": {"age": "1", "city": "Y"} for i in range(1500)},
        histories=[("z1", 3, 5), ("ann", 3, 1), ("z2", 3, 6)],
    )
    assert Unfinished(store._link, larger, None).run()
    assert raw.hlen("corerec:more:profiles") == 1500
    assert store.item_numbers(["i2", "i3"]) == [2, 3]
    assert store.append_events([Event("u", "i3", 3, 1)]) == 1
    assert [c.number for c in store.upsert_items([Item(item_id="i3"), Item(item_id="n")])] == [3, 4]
    assert [c.number for c in store.delete_items(["i3"])] == [3]
    ann, z1, z3 = store.read_users(["ann", "z1", "z3"])
    assert ann.items.tolist() == [0, 1, 2]
    assert (z1.attributes["city"], z1.items.tolist(), z3.known) == ("Y", [3], True)
    store.append_events([Event("z1", "i0", 0, 9)])
    store.put_users([("z3", {"city": "Z"})])
    assert not store.seed(larger)  # finishes what was left
    assert not list(raw.scan_iter("corerec:more:*"))
    assert store.item_numbers(["i2", "i3", "n"]) == [2, 3, 4]
    ann, z1, z3, z9 = store.read_users(["ann", "z1", "z3", "z9"])
    assert (z1.items.tolist(), z3.attributes) == ([3, 0], {"age": "1", "city": "Z"})
    assert (z9.attributes["city"], ann.items.tolist()) == ("Y", [0, 1, 2])


def test_a_seed_goes_on_when_items_come_while_it_stages(
    store: RedisStore, server: RedisServer, make_release
) -> None:
    other = RedisStore(server.url)
    larger = make_release(ids=["i0", "i1", "i2", "live"], histories=[("kim", 3, 5)])

    def upsert(what: str, done: int, total: int) -> None:
        if what == "users":
            other.upsert_items([Item(item_id="live")])  # gets the number that the release has

    assert store.seed(larger, upsert)
    assert store.read_users(["kim"])[0].items.tolist() == [3]
    assert store.item_numbers(["live"]) == [3]
    assert store.upsert_items([Item(item_id="next")])[0].number == 4
    other.close()


@pytest.mark.parametrize(
    ("key", "field", "said"),
    [
        ("profiles", b"ann", "the profile of user 'ann'"),
        ("histories", b"ann", "the history of user 'ann'"),
        ("catalogue", b"3", "the record of item number 3"),
    ],
)
def test_a_flipped_bit_is_noticed_when_it_is_read(
    raw: redis.Redis, store: Store, key: str, field: bytes, said: str
) -> None:
    store.upsert_items([Item(item_id="a", title="t")])
    good = raw.hget(f"corerec:{key}", field)
    assert good is not None
    for place in range(8, len(good)) if key != "catalogue" else range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        raw.hset(f"corerec:{key}", field, bytes(bad))
        with pytest.raises(Unavailable, match=r"store redis://.* does not match its checksum"):
            store.read_users_and_changes(["ann"], 0)
    raw.hset(f"corerec:{key}", field, bad[:5])
    with pytest.raises(Unavailable, match="does not match its checksum; the data is damaged"):
        store.read_users_and_changes(["ann"], 0)
    raw.hset(f"corerec:{key}", field, good)
    assert titles(store) == ["t"]


def test_a_flipped_bit_in_the_log_of_events_is_noticed(raw: redis.Redis, store: Store) -> None:
    store.append_events([Event("ann", "i1", 1, 50, "click", "e")])
    ((_, fields),) = raw.xrange("corerec:events")
    row = fields[b"v"]
    for place in range(len(row)):
        bad = bytearray(row)
        bad[place] ^= 1
        raw.delete("corerec:events")
        raw.xadd("corerec:events", {"v": bytes(bad)}, id="1-0")
        with pytest.raises(Unavailable, match="an event of the log does not match its checksum"):
            store.events_after(0)
