"""A live index against a dictionary that is searched by brute force."""

from __future__ import annotations

import importlib.util
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.errors import InvalidArgument
from corerec.retrieval.live_index import LiveIndex
from corerec.retrieval.stores import IndexSpec, create_index
from corerec.retrieval.stores.flat import FlatStore
from corerec.retrieval.stores.int8 import Int8Store
from corerec.stages import Float32s, Int64s

DIM = 8


def draw(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(10, DIM))
    return (centres[rng.integers(10, size=rows)] + rng.normal(size=(rows, DIM)) * 0.6).astype(
        np.float32
    )


def best(
    items: dict[int, np.ndarray],
    query: np.ndarray,
    k: int,
    metric: str,
    allowed: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
) -> list[int]:
    numbers = sorted(items)
    if allowed is not None:
        numbers = [n for n in numbers if n < len(allowed) and allowed[n]]
    if excluded is not None:
        numbers = [n for n in numbers if n not in set(excluded.tolist())]
    # Pairs are scored as stores do, so that equal scores are equal here too.
    store = FlatStore(DIM, metric)  # type: ignore[arg-type]
    if numbers:
        store.add(np.array(numbers), np.array([items[n] for n in numbers]))
    found = store.search(query[None], k)[0][0]
    return [n for n in found.tolist() if n >= 0]


changes = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.lists(st.integers(0, 60), max_size=12, unique=True)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, 60), max_size=12)),
        st.tuples(st.just("maintain"), st.lists(st.integers(1, 9), min_size=1, max_size=1)),
        st.tuples(st.just("wait"), st.just([])),
        st.tuples(st.just("search"), st.lists(st.integers(0, 70), max_size=8)),
    ),
    max_size=30,
)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@settings(max_examples=60, deadline=None)
@given(steps=changes, data=st.integers(0, 1000))
def test_any_sequence_of_changes_agrees_with_brute_force(
    in_place: bool, metric: str, steps: list[tuple[str, list[int]]], data: int
) -> None:
    main = create_index("numpy", metric, dim=DIM)  # type: ignore[arg-type]
    start = draw(30, data)
    main.add(np.arange(30), start)
    items = dict(enumerate(start))
    index = LiveIndex(main, limit=16, in_place=in_place)
    for turn, (name, numbers) in enumerate(steps):
        if name == "upsert":
            fresh = draw(len(numbers), data + turn)
            index.upsert(np.array(numbers, np.int64), fresh)
            items.update(zip(numbers, fresh, strict=True))
        elif name == "remove":
            gone = {n for n in numbers if n in items}
            assert index.remove(np.array(numbers, np.int64)) == len(gone)
            for number in gone:
                del items[number]
        elif name == "maintain":
            index.maintain(numbers[0])
        elif name == "wait":
            assert index.wait(30)
            index.maintain()
        else:
            queries = draw(3, data + turn)
            excluded = [np.array(numbers[:i], np.int64) for i in range(3)]
            allowed = np.random.default_rng(turn).random(50) < 0.6
            for mask, out in ((None, None), (None, excluded), (allowed, excluded)):
                found, scores = index.search(queries, 7, mask, out)
                for row in range(3):
                    own = out[row] if out is not None else None
                    expected = best(items, queries[row], 7, metric, mask, own)
                    assert [n for n in found[row].tolist() if n >= 0] == expected
                    assert (np.diff(scores[row][: len(expected)]) <= 0).all()
        assert len(index) == len(items)
    assert index.numbers().tolist() == sorted(items)
    assert not index.in_place or index.pending <= 16


def kinds() -> list[tuple[str, IndexSpec]]:
    found = [
        ("numpy", IndexSpec()),
        ("faiss", IndexSpec(kind="hnsw", ef_search=200)),
        ("faiss", IndexSpec(kind="ivf-flat", nlist=16, nprobe=8)),
        ("faiss", IndexSpec(kind="ivf-int8-refine", nlist=16, nprobe=8)),
        ("faiss", IndexSpec(kind="ivf-pq-refine", nlist=16, nprobe=8, refine_factor=4)),
        ("faiss", IndexSpec(kind="ivf-rabitq-refine", nlist=16, nprobe=8, refine_factor=8)),
    ]
    if importlib.util.find_spec("annoy") is not None:
        found.append(("annoy", IndexSpec()))
    return found


@pytest.mark.parametrize(("backend", "spec"), kinds(), ids=lambda v: getattr(v, "kind", v))
def test_every_kind_keeps_up_with_a_catalogue_that_turns_over(
    backend: str, spec: IndexSpec
) -> None:
    rng = np.random.default_rng(0)
    store = create_index(backend, dim=DIM, spec=spec)  # type: ignore[arg-type]
    items = dict(enumerate(draw(2000, 1)))
    store.add(np.array(list(items)), np.array(list(items.values())))
    index = LiveIndex(store, limit=200)
    hits = 0
    for turn in range(60):
        numbers = rng.choice(2500, 60, replace=False)
        fresh = draw(60, turn)
        index.upsert(numbers, fresh)
        items.update(zip(numbers.tolist(), fresh, strict=True))
        gone = rng.choice(2500, 30, replace=False)
        index.remove(gone)
        for number in gone.tolist():
            items.pop(number, None)
        index.maintain(64)
        query = draw(1, 1000 + turn)
        found = index.search(query, 20)[0][0]
        assert len(np.unique(found)) == 20
        assert all(number in items for number in found.tolist())
        hits += len(np.intersect1d(found, best(items, query[0], 20, "ip")))
    assert hits >= 0.9 * 60 * 20
    assert index.numbers().tolist() == sorted(items)
    for _ in range(300):
        index.maintain()
        assert index.wait(60)
    assert len(index) == len(items)
    assert index.pending <= 200


def test_the_newest_vector_of_an_item_wins_wherever_the_older_one_is() -> None:
    index = LiveIndex(create_index("numpy", dim=2))
    one = np.array([1])
    query = np.array([[1, 0]], np.float32)
    for turn in range(4):
        index.upsert(one, np.array([[turn, 0]], np.float32))
        numbers, scores = index.search(query, 3)
        assert numbers.tolist() == [[1, -1, -1]]
        assert scores[0, 0] == turn
        if turn % 2:
            assert not index.maintain()
            assert index.pending == 0
            assert index.search(query, 3)[1][0, 0] == turn


def test_a_step_moves_a_few_rows_and_says_whether_there_are_more() -> None:
    index = LiveIndex(create_index("numpy", dim=DIM), limit=500)
    index.upsert(np.arange(150), draw(150, 0))
    assert index.pending == 150
    assert index.maintain(64)
    assert index.pending == 86
    assert index.maintain(64)
    assert not index.maintain(64)
    assert index.pending == 0
    assert not index.maintain(64)
    index.upsert(np.arange(150, 900), draw(750, 1))
    assert index.pending == 0, "a load above the bound goes to the main store at once"


def test_a_fresh_main_store_is_built_beside_answers_and_loses_nothing() -> None:
    spec = IndexSpec(kind="hnsw", ef_search=100)
    main = create_index("faiss", dim=DIM, spec=spec)
    items = dict(enumerate(draw(6000, 1)))
    main.add(np.arange(6000), np.array(list(items.values())))
    index = LiveIndex(main)
    index.remove(np.arange(2500))
    for number in range(2500):
        del items[number]
    assert index.dead == 2500
    assert not index.maintain(), "a thread builds"
    # Meanwhile: an item changes, one comes, one goes, one comes back.
    fresh = draw(3, 7)
    index.upsert(np.array([3000, 9000, 5]), fresh)
    items.update(zip([3000, 9000, 5], fresh, strict=True))
    index.remove(np.array([4000]))
    del items[4000]
    deadline = time.monotonic() + 60
    while index.dead > 10 and time.monotonic() < deadline:
        found = index.search(draw(1, 3), 10)[0][0]
        assert all(number in items for number in found.tolist())
        index.maintain()
        index.wait(0.01)
    assert index.main is not main
    assert index.numbers().tolist() == sorted(items)
    for number, vector in zip([3000, 9000, 5], fresh, strict=True):
        found, scores = index.search(vector[None], 4000)
        assert np.isclose(scores[0][found[0] == number], vector @ vector)
    assert 4000 not in index.search(draw(1, 3), 4000)[0]


def test_a_main_store_without_centres_learns_them_from_what_has_gathered() -> None:
    spec = IndexSpec(kind="ivf-flat", nprobe=1000)
    index = LiveIndex(create_index("faiss", dim=DIM, spec=spec), limit=100)
    vectors = draw(160, 0)
    for start in range(0, 160, 20):
        index.upsert(np.arange(start, start + 20), vectors[start : start + 20])
        assert len(index.search(vectors[:1], 500)[0][0]) == 500
    assert index.pending == 160
    index.maintain()
    assert index.wait(60)
    index.maintain()
    assert index.pending == 0
    assert index.main.spec.nlist > 1
    assert (np.sort(index.search(vectors[:1], 160)[0][0]) == np.arange(160)).all()


def test_broken_upserts_change_nothing() -> None:
    index = LiveIndex(create_index("numpy", dim=DIM))
    index.upsert(np.arange(5), draw(5, 0))
    bad = draw(2, 1)
    bad[1, 0] = np.nan
    with pytest.raises(InvalidArgument, match="vectors must be finite, row 1 is not"):
        index.upsert(np.array([3, 9]), bad)
    with pytest.raises(InvalidArgument, match="must be distinct, got 3 more than once"):
        index.upsert(np.array([3, 3]), draw(2, 1))
    assert index.numbers().tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InvalidArgument, match="k must be at least 1, got 0"):
        index.search(draw(1, 0), 0)


def test_a_store_without_room_is_built_afresh_beside_the_searches() -> None:
    """Copying a million vectors to larger arrays takes most of a second."""
    rng, count = np.random.default_rng(4), 70_000
    vectors = rng.normal(size=(2 * count, DIM)).astype(np.float32)
    store = create_index("faiss", dim=DIM, spec=IndexSpec(kind="ivf-int8-refine", nlist=32))
    store.add(np.arange(count), vectors[:count])
    assert isinstance(store, Int8Store)
    room = len(store._ready.home)
    index = LiveIndex(store)
    for start in range(count, 2 * count, 500):
        index.upsert(np.arange(start, start + 500), vectors[start : start + 500])
        index.remove(np.array([start - count]))
        while index.maintain():
            pass
        assert index.wait(30)
    assert index.main is not store
    assert len(store._ready.home) == room
    gone = np.arange(0, count, 500)
    assert index.numbers().tolist() == np.setdiff1d(np.arange(2 * count), gone).tolist()
    index.settle()
    index.main.tune(nprobe=32)
    found = index.search(vectors[-3:], 50)[0]
    plain = FlatStore(DIM)
    kept = np.setdiff1d(np.arange(2 * count), gone)
    plain.add(kept, vectors[kept])
    expected = plain.search(vectors[-3:], 50)[0]
    shared = [len(np.intersect1d(*own)) for own in zip(found, expected, strict=True)]
    assert min(shared) >= 48


class Unreadable(Int8Store):
    """A store that lacks room, and whose vectors cannot be read."""

    @property
    def crowded(self) -> bool:
        return True

    def vectors(self, numbers: Int64s) -> Float32s:
        raise OSError("the file of the vectors is gone")


def test_a_store_that_cannot_be_built_afresh_goes_on_and_is_not_tried_again_and_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vectors = np.random.default_rng(5).normal(size=(520, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # each is nearest to itself
    store = Unreadable(DIM, "ip", IndexSpec(kind="ivf-int8-refine", nlist=4, nprobe=4))
    store.add(np.arange(500), vectors[:500])
    index = LiveIndex(store)
    index.upsert(np.arange(500, 520), vectors[500:])
    for _ in range(100):
        index.maintain()
        assert index.wait(10)
    assert index.pending == 0
    assert index.main is store
    assert sum("could not be built" in record.message for record in caplog.records) == 1
    assert index.search(vectors[510:511], 1)[0].tolist() == [[510]]
