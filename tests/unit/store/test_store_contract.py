"""What every store promises; each implementation runs the whole suite."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from corerec.errors import FailedPrecondition, InvalidArgument, NotFound, ReleaseError, Unavailable
from corerec.store import Event, Item, ItemChange, Store


def event(user: str, number: int, time: int, event_id: str = "") -> Event:
    return Event(user, f"i{number}", number, time, "click", event_id)


def history(store: Store, user: str) -> list[tuple[int, int]]:
    (state,) = store.read_users([user])
    assert state.items.dtype == state.times.dtype == np.int64
    assert len(state.items) == len(state.times)
    return list(zip(state.items.tolist(), state.times.tolist(), strict=True))


def test_an_unknown_user_is_empty(store: Store) -> None:
    (state,) = store.read_users(["nobody"])
    assert (state.user_id, state.attributes, state.known) == ("nobody", {}, False)
    assert len(state.items) == len(state.times) == 0


def test_a_seeded_user_has_attributes_and_a_history_in_order_of_time(store: Store) -> None:
    ann, eve, bob = store.read_users(["ann", "eve", "bob"])
    assert ann.known
    assert ann.attributes == {"age": "25", "city": "Bonn"}
    assert ann.items.tolist() == [0, 1, 2]
    assert ann.times.tolist() == [10, 20, 30]
    assert (eve.known, eve.attributes, eve.items.tolist()) == (True, {}, [1])
    assert (bob.known, bob.attributes, len(bob.items)) == (True, {"city": "Ulm"}, 0)


def test_users_come_back_in_the_order_asked_also_twice_and_in_large_numbers(store: Store) -> None:
    assert store.read_users([]) == []
    ids = [f"x{i}" for i in range(700)]
    store.put_users((i, {"n": i}) for i in ids[::2])
    asked = [*ids, "ann", "x0", "x0"]
    states = store.read_users(asked)
    assert [s.user_id for s in states] == asked
    assert [s.known for s in states[:4]] == [True, False, True, False]
    assert states[-1].attributes == {"n": "x0"}


def test_the_next_read_sees_an_acknowledged_event(store: Store) -> None:
    assert store.append_events([event("ann", 0, 40), event("new", 2, 7)]) == 2
    assert history(store, "ann") == [(0, 10), (1, 20), (2, 30), (0, 40)]
    assert history(store, "new") == [(2, 7)]
    (new,) = store.read_users(["new"])
    assert (new.known, new.attributes) == (True, {})


def test_late_events_are_put_at_their_place_and_ties_keep_their_order(store: Store) -> None:
    store.append_events([event("ann", 2, 15), event("ann", 2, 20), event("ann", 0, 1)])
    assert history(store, "ann") == [(0, 1), (0, 10), (2, 15), (1, 20), (2, 20), (2, 30)]


def test_the_newest_thousand_events_are_kept(store: Store) -> None:
    store.append_events([event("u", i % 3, 10 + i) for i in range(990)])
    store.append_events([event("u", 0, 5000 + i) for i in range(20)])
    store.append_events([event("u", 1, 0)])  # older than all that are kept
    (state,) = store.read_users(["u"])
    assert len(state.items) == 1000
    assert state.times[0] == 20
    assert state.times[-1] == 5019
    assert (np.diff(state.times) >= 0).all()


def test_an_event_id_is_stored_once_per_user(store: Store) -> None:
    assert store.append_events([event("u", 0, 1, "a"), event("u", 1, 2, "a")]) == 1
    assert store.append_events([event("u", 0, 1, "a"), event("u", 2, 3, "b")]) == 1
    assert store.append_events([event("v", 0, 1, "a")]) == 1
    assert store.append_events([event("u", 0, 4), event("u", 0, 4)]) == 2
    assert history(store, "u") == [(0, 1), (2, 3), (0, 4), (0, 4)]


def test_all_events_are_stored_or_none(store: Store) -> None:
    for bad, kind, text in [
        (Event("u", "iX", 0, 1), NotFound, "item_id 'iX' is not in the catalogue"),
        (Event("u", "i1", 2, 1), FailedPrecondition, "'i1' has number 1"),
        (Event("", "i1", 1, 1), InvalidArgument, "user_id must have 1 to 256 bytes, got 0"),
        (Event("é" * 129, "i1", 1, 1), InvalidArgument, "got 258"),
        (Event("\ud800", "i1", 1, 1), InvalidArgument, "valid Unicode"),
        (Event("u", "i1", 1, -1), InvalidArgument, r"time_micros must be in \[0, 2\^63\), got -1"),
        (Event("u", "i1", 1, 2**63), InvalidArgument, "time_micros"),
        (Event("u", "i1", 1, 1, "x" * 65), InvalidArgument, "event_type must be at most 64 bytes"),
        (Event("u", "i1", 1, 1, "x", "x" * 65), InvalidArgument, "event_id"),
    ]:
        with pytest.raises(kind, match=text):
            store.append_events([event("u", 0, 1), bad])
    assert store.append_events([]) == 0
    assert not store.read_users(["u"])[0].known


def test_put_users_sets_what_is_named_and_keeps_the_rest(store: Store) -> None:
    assert store.put_users([("ann", {"city": "Köln"}), ("new", {"age": "3"}), ("new", {})]) == 2 + 1
    ann, new = store.read_users(["ann", "new"])
    assert ann.attributes == {"age": "25", "city": "Köln"}
    assert ann.items.tolist() == [0, 1, 2]
    assert new.attributes == {"age": "3"}
    for row, text in [
        (("", {}), "user_id must have 1 to 256"),
        (("u", {"a": 5}), "attribute 'a' must be text, got 5"),
        (("u", {"a": "x" * 257}), "attribute 'a' must be at most 256 bytes"),
    ]:
        with pytest.raises(InvalidArgument, match=text):
            store.put_users([("u", {"b": "c"}), row])
    assert not store.read_users(["u"])[0].known


def test_what_was_written_is_there_after_opening_again(open_store, make_release) -> None:
    first = open_store()
    release = make_release()
    assert first.seed(release)
    first.append_events([event("u", 1, 9, "a")])
    first.close()
    second = open_store()
    assert not second.seed(release)
    assert history(second, "u") == [(1, 9)]
    assert second.append_events([event("u", 1, 9, "a")]) == 0


def test_two_openings_of_one_store_see_each_other(open_store, make_release) -> None:
    one, two = open_store(), open_store()
    assert one.seed(make_release())
    assert not two.seed(make_release())
    one.append_events([event("u", 0, 1)])
    two.append_events([event("u", 1, 2)])
    assert history(one, "u") == history(two, "u") == [(0, 1), (1, 2)]


def test_a_second_seed_changes_nothing(store: Store, make_release) -> None:
    store.append_events([event("ann", 0, 99)])
    assert not store.seed(make_release())
    assert history(store, "ann")[-1] == (0, 99)
    assert len(history(store, "ann")) == 4


def test_a_larger_release_adds_its_items_and_users_and_leaves_the_others(
    store: Store, make_release
) -> None:
    store.append_events([event("ann", 0, 99)])
    store.put_users([("bob", {"city": "Rom"})])
    larger = make_release(
        ids=["i0", "i1", "i2", "i3"],
        users={"ann": {"age": "1", "city": "X"}, "zoe": {"age": "2", "city": "Y"}},
        histories=[("ann", 3, 1), ("zoe", 3, 1)],
    )
    assert store.seed(larger)
    assert len(history(store, "ann")) == 4
    ann, bob, zoe = store.read_users(["ann", "bob", "zoe"])
    assert ann.attributes["city"] == "Bonn"
    assert bob.attributes["city"] == "Rom"
    assert (zoe.attributes["city"], zoe.items.tolist()) == ("Y", [3])
    assert store.append_events([event("ann", 3, 100)]) == 1


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (["i0", "iX", "i2"], "item number 1 is 'i1' in store .* but 'iX' in the release"),
        (["i0", "i1"], "item number 2 is 'i2' in store .* but no such item"),
        (["i1", "i0", "i2", "i3"], "number 0"),
    ],
)
def test_a_release_with_other_numbers_is_refused_whole(
    store: Store, make_release, ids: list[str], text: str
) -> None:
    other = make_release(ids=ids, users={"zoe": {"age": "1", "city": ""}}, histories=[])
    with pytest.raises(FailedPrecondition, match=text + ".*use another store"):
        store.seed(other)
    assert not store.read_users(["zoe"])[0].known
    with pytest.raises(NotFound):
        store.append_events([Event("u", "iX", 1, 1)])


def test_a_seed_that_fails_leaves_nothing(open_store, make_release) -> None:
    store = open_store()
    with pytest.raises(ReleaseError, match=r"histories\.parquet: item_number must be in \[0, 3\)"):
        store.seed(make_release(histories=[("ann", 3, 1)]))

    def stop(what: str, done: int, total: int) -> None:
        if what == "histories":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.seed(make_release(), stop)
    assert not store.read_users(["ann"])[0].known
    assert store.seed(make_release())


def test_several_that_seed_at_once_seed_once(open_store, make_release) -> None:
    stores, release = [open_store() for _ in range(3)], make_release()
    came: list[bool] = []
    threads = [threading.Thread(target=lambda s=s: came.append(s.seed(release))) for s in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(came) == [False, False, True]
    assert history(stores[0], "ann") == [(0, 10), (1, 20), (2, 30)]
    assert stores[1].upsert_items([item("a")])[0].number == 3


def test_seeding_tells_how_far_it_is(open_store, make_release) -> None:
    told: list[tuple[str, int, int]] = []
    open_store().seed(make_release(), lambda *step: told.append(step))
    assert told == [("items", 3, 3), ("users", 2, 2), ("histories", 2, 2)]


def test_a_release_with_bad_tables_is_refused_by_name(open_store, make_release, tmp_path) -> None:
    release = make_release()
    pl.DataFrame({"user": ["a"]}).write_parquet(release.file("users.parquet"))
    with pytest.raises(ReleaseError, match=r"users\.parquet: column 'user_id' must be String"):
        open_store().seed(release)
    release.file("users.parquet").write_bytes(b"PAR1")
    with pytest.raises(ReleaseError, match=r"users\.parquet: not a readable Parquet"):
        open_store().seed(release)


def test_writers_in_many_threads_lose_nothing(store: Store) -> None:
    def write(worker: int) -> None:
        for i in range(25):
            store.append_events([event("u", worker % 3, i, f"{worker}-{i}")])
            assert len(store.read_users(["u", "ann"])) == 2

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(history(store, "u")) == 100


def test_a_healthy_store_passes_its_check_and_is_not_changed_by_it(store: Store) -> None:
    before = history(store, "ann")
    store.check()
    store.check()
    assert history(store, "ann") == before


def test_a_closed_store_says_so(store: Store, make_release) -> None:
    store.close()
    store.close()
    for call in (
        lambda: store.read_users(["a"]),
        lambda: store.append_events([event("a", 1, 1)]),
        lambda: store.put_users([("a", {})]),
        lambda: store.upsert_items([item("a")]),
        lambda: store.delete_items(["a"]),
        lambda: store.read_items(["a"]),
        lambda: store.changes(0),
        lambda: store.read_users_and_changes(["a"], 0),
        store.position,
        lambda: store.seed(make_release()),
        store.check,
    ):
        with pytest.raises(Unavailable, match="is closed"):
            call()


def item(item_id: str, title: str = "", **more: Any) -> Item:
    return Item(item_id=item_id, title=title, **more)


def everything(store: Store, after: int = 0, limit: int = 1000) -> list[ItemChange]:
    found: list[ItemChange] = []
    while more := store.changes(after, limit):
        found += more
        after = more[-1].position
    return found


def shape(changes: Sequence[ItemChange | None]) -> list[tuple[int, int, str, str | None] | None]:
    return [c and (c.position, c.number, c.item_id, c.item and c.item.title) for c in changes]


def test_new_items_get_the_next_numbers_and_positions_and_are_read_back(store: Store) -> None:
    assert (store.position(), store.changes(0)) == (0, [])
    full = item(
        "n1",
        "Zoë",
        category="c",
        creator="me",
        born_micros=7,
        attributes={"price": "3.5"},
        lists={"tags": ("a", "b")},
        vectors={"text": np.array([0.1, -2], np.float32)},
    )
    acked = store.upsert_items([full, item("i1", "known")])
    assert shape(acked) == [(1, 3, "n1", "Zoë"), (2, 1, "i1", "known")]
    assert store.position() == 2
    read = store.read_items(["i1", "n1", "i0", "nobody"])
    assert shape(read) == [(2, 1, "i1", "known"), (1, 3, "n1", "Zoë"), None, None]
    assert store.item_numbers(["n1", "i0", "nobody"]) == [3, 0, None]
    (first, _) = store.changes(0)
    assert first.item is not None
    assert first.item.vectors["text"].tolist() == full.vectors["text"].tolist()
    assert replace(first.item, vectors={}) == replace(full, vectors={})


def test_changes_come_by_position_each_item_once_at_its_newest(store: Store) -> None:
    store.upsert_items([item("a"), item("b"), item("c")])
    store.upsert_items([item("a", "again")])
    store.delete_items(["b"])
    expected = [(3, 5, "c", ""), (4, 3, "a", "again"), (5, 4, "b", None)]
    assert shape(store.changes(0)) == expected
    assert shape(everything(store, limit=1)) == expected
    assert shape(store.changes(3, 1)) == expected[1:2]
    assert store.changes(5) == store.changes(99) == []
    with pytest.raises(InvalidArgument, match="limit must be at least 1, got 0"):
        store.changes(0, 0)


def test_numbers_are_never_given_again_and_ids_keep_theirs(store: Store) -> None:
    store.upsert_items([item("a"), item("b")])
    assert shape(store.delete_items(["b"])) == [(3, 4, "b", None)]
    assert store.upsert_items([item("c")])[0].number == 5
    assert store.upsert_items([item("b", "back")])[0].number == 4
    assert shape(store.read_items(["b"])) == [(5, 4, "b", "back")]


def test_deleting_what_is_not_there_changes_nothing(store: Store) -> None:
    assert shape(store.delete_items(["i2", "nobody", "i2"])) == [(1, 2, "i2", None)]
    assert store.delete_items(["i2", "nobody"]) == store.delete_items([]) == []
    assert store.position() == 1
    assert store.item_numbers(["i2", "nobody"]) == [2, None]
    with pytest.raises(InvalidArgument, match="item_id must have 1 to 256 bytes, got 0"):
        store.delete_items(["i0", ""])
    assert store.position() == 1


def test_all_items_are_stored_or_none(store: Store) -> None:
    nan = np.array([np.nan], np.float32)
    for bad, text in [
        (item(""), "item_id must have 1 to 256 bytes, got 0"),
        (item("x", "t" * 1025), "title must be at most 1024 bytes, got 1025"),
        (item("x", vectors={"v": nan}), "vector 'v' must be finite"),
        (item("a"), "item_id 'a' must be there once, got it twice"),
    ]:
        with pytest.raises(InvalidArgument, match=text):
            store.upsert_items([item("a"), bad])
    assert store.upsert_items([]) == []
    assert (store.position(), store.item_numbers(["a"])) == (0, [None])


def test_events_of_upserted_items_are_taken_and_the_log_gives_them_in_order(store: Store) -> None:
    assert store.events_after(0)[0] == 0
    store.upsert_items([item("a")])
    assert store.append_events([Event("u", "a", 3, 50), event("u", 1, 40)]) == 2
    store.delete_items(["a"])
    assert store.append_events([Event("v", "a", 3, 60)]) == 1
    seq, rows = store.events_after(0)
    assert rows.dtype == np.int64
    assert rows.tolist() == [[3, 50], [1, 40], [3, 60]]
    middle, head = store.events_after(0, 2)
    assert head.tolist() == rows.tolist()[:2]
    assert store.events_after(middle)[1].tolist() == [[3, 60]]
    assert (store.events_after(seq)[0], store.events_after(seq)[1].shape) == (seq, (0, 2))
    with pytest.raises(FailedPrecondition, match="'a' has number 3"):
        store.append_events([Event("u", "a", 2, 1)])


def test_users_and_changes_come_in_one_read(store: Store) -> None:
    users, changes = store.read_users_and_changes(["ann", "nobody"], 0)
    assert ([u.known for u in users], changes) == ([True, False], [])
    store.upsert_items([item("a"), item("b")])
    store.append_events([Event("ann", "b", 4, 99)])
    users, changes = store.read_users_and_changes(["ann"], 1)
    assert users[0].items.tolist() == [0, 1, 2, 4]
    assert shape(changes) == [(2, 4, "b", "")]
    assert shape(store.read_users_and_changes([], 0, 1)[1]) == [(1, 3, "a", "")]


@pytest.mark.parametrize("count", [0, 1, 3, 9, 65, 512, 513, 1200])
@pytest.mark.parametrize(("after", "limit"), [(0, 1), (0, 4), (2, 500), (9, 500)])
def test_one_read_of_users_and_changes_is_what_a_read_of_each_would_be(
    store: Store, count: int, after: int, limit: int
) -> None:
    store.upsert_items([item(name) for name in "abcde"])
    store.delete_items(["b", "d"])
    store.append_events([Event(f"many{i}", "a", 3, i) for i in range(0, 600, 7)])
    ids = [f"many{i}" for i in range(count)][::-1]
    users, changes = store.read_users_and_changes(ids, after, limit)
    apart = store.read_users(ids)
    assert [u.user_id for u in users] == ids
    assert [(u.known, u.attributes) for u in users] == [(u.known, u.attributes) for u in apart]
    assert all((u.items == v.items).all() for u, v in zip(users, apart, strict=True))
    assert all((u.times == v.times).all() for u, v in zip(users, apart, strict=True))
    assert changes == store.changes(after, limit)


def test_many_items_at_once_and_writers_in_many_threads_keep_the_order(store: Store) -> None:
    store.upsert_items([item(f"m{i}") for i in range(1500)])
    acked: list[ItemChange] = []

    def write(worker: int) -> None:
        for i in range(10):
            acked.extend(store.upsert_items([item(f"w{worker}-{i}"), item(f"m{i}", str(worker))]))

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = everything(store)
    assert len(found) == len({c.number for c in found}) == 1500 + 40
    assert [c.position for c in found] == sorted({c.position for c in found})
    assert len({c.position for c in acked}) == len(acked) == 80
    assert store.position() == found[-1].position == 1580
    assert sorted(store.item_numbers([c.item_id for c in found])) == list(range(3, 1543))


def test_a_release_without_the_live_items_is_fine_and_one_with_others_is_not(
    store: Store, make_release
) -> None:
    store.upsert_items([item("a"), item("b")])
    assert store.seed(make_release(users={"zoe": {"age": "1", "city": ""}}))
    assert store.seed(make_release(ids=["i0", "i1", "i2", "a"], histories=[("kim", 3, 1)]))
    assert history(store, "kim") == [(3, 1)]
    with pytest.raises(FailedPrecondition, match=r"item number 3 is 'a' in store .* but 'other'"):
        store.seed(make_release(ids=["i0", "i1", "i2", "other"]))
    assert shape(everything(store)) == [(1, 3, "a", ""), (2, 4, "b", "")]
    assert store.upsert_items([item("c")])[0].number == 5


LIVE = [(3, "a", 2, False, "A"), (1, "i1", 3, True, ""), (4, "b", 5, False, "B")]


def test_a_rebuilt_release_brings_its_live_items_to_an_empty_store(
    open_store, make_release
) -> None:
    store = open_store()
    release = make_release(live=LIVE)
    assert store.seed(release)
    assert not store.seed(release)
    expected = [(2, 3, "a", "A"), (3, 1, "i1", None), (5, 4, "b", "B")]
    assert shape(everything(store)) == expected
    assert shape(store.upsert_items([item("c")])) == [(6, 5, "c", "")]
    assert store.append_events([Event("u", "b", 4, 1)]) == 1


def test_a_rebuilt_release_must_agree_with_the_store_that_it_came_from(
    open_store, make_release
) -> None:
    store = open_store()
    store.seed(make_release())
    store.upsert_items([item("x"), item("y")])
    behind = "must be at position 5 or later, where the release was rebuilt, got 2"
    with pytest.raises(FailedPrecondition, match=behind):
        store.seed(make_release(live=LIVE))
    for i in range(5):
        store.upsert_items([item("x", str(i))])
    with pytest.raises(FailedPrecondition, match=r"item number 3 is 'x' in store .* but 'a' in"):
        store.seed(make_release(live=LIVE))
    same = [(4, "y", 2, False, "old"), (3, "x", 5, False, "2")]
    assert not store.seed(make_release(live=same))
    assert shape(everything(store)) == [(2, 4, "y", ""), (7, 3, "x", "4")]
    with pytest.raises(ReleaseError, match=r"live_items\.parquet: its newest position"):
        store.seed(make_release(live=[(3, "x", 5, False, "")], position=6))


def test_ids_may_be_any_text(store: Store) -> None:
    ids = ["a", "a\0b", "a\nb", "a:b", "é" * 128, "' OR 1=1 --", "\U0001f600", "0", " ", "{x}%s"]
    acked = store.upsert_items([item(item_id, item_id) for item_id in ids])
    assert [c.number for c in acked] == store.item_numbers(ids) == list(range(3, 3 + len(ids)))
    assert shape(store.changes(0)) == shape(acked)
    events = [Event(i, i, n, 5, "t", i[:16]) for n, i in enumerate(ids, 3)]
    assert store.append_events(events) == len(ids)
    assert store.append_events(events) == 0
    store.put_users((i, {i: i}) for i in ids)
    states = store.read_users(ids)
    assert [s.user_id for s in states] == ids
    assert [s.attributes for s in states] == [{i: i} for i in ids]
    assert [s.items.tolist() for s in states] == [[n] for n in range(3, 3 + len(ids))]
    assert len(store.delete_items(ids)) == len(ids)


@pytest.mark.parametrize(("count", "chunk"), [(1, 1), (513, 512), (2001, 700)])
def test_batches_of_any_size_are_stored_whole(store: Store, count: int, chunk: int) -> None:
    items = [item(f"n{i}", str(i)) for i in range(count)]
    assert [c.position for c in store.upsert_items(items)] == list(range(1, count + 1))
    read = store.read_items([i.item_id for i in items])
    assert [c and c.item and c.item.title for c in read] == [str(i) for i in range(count)]
    assert (
        store.append_events([Event(f"u{i % 7}", f"n{i}", 3 + i, i) for i in range(count)]) == count
    )
    seq, rows = 0, []
    while len(part := store.events_after(seq, chunk)[1]):
        seq = store.events_after(seq, chunk)[0]
        rows += part.tolist()
    assert rows == [[3 + i, i] for i in range(count)]
    assert len(everything(store, limit=chunk)) == count
