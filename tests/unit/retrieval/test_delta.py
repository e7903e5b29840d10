"""The delta against one store that holds everything; the steps that empty it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.retrieval.delta import Delta
from corerec.retrieval.live_index import LiveIndex
from corerec.retrieval.stores import IndexSpec, create_index
from corerec.retrieval.stores.flat import FlatStore
from corerec.retrieval.stores.int8_lists import append, empty_lists, encode, laid_out

DIM = 8


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@settings(max_examples=80, deadline=None)
@given(
    old=st.integers(0, 60),
    new=st.integers(0, 40),
    k=st.integers(1, 70),
    batch=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_what_joins_is_what_one_store_of_everything_finds(
    metric: str, old: int, new: int, k: int, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few different vectors, so that many scores are equal.
    vectors = rng.integers(-2, 3, (old + new, DIM)).astype(np.float32)
    numbers = rng.permutation(200)[: old + new]
    queries = rng.integers(-2, 3, (batch, DIM)).astype(np.float32)
    allowed = rng.random(150) < 0.7
    excluded = [rng.integers(0, 200, rng.integers(0, 30)) for _ in range(batch)]
    main, delta, everything = (make(DIM, metric) for make in (FlatStore, Delta, FlatStore))
    main.add(numbers[:old], vectors[:old])
    delta.add(numbers[old:], vectors[old:])
    everything.add(numbers, vectors)
    for mask, out in ((None, None), (None, excluded), (allowed, None), (allowed, excluded)):
        found = delta.join(main.search(queries, k, mask, out), queries, mask, out)
        expected = everything.search(queries, k, mask, out)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_rows_leave_from_the_end_and_can_come_again() -> None:
    delta = Delta(DIM)
    vectors = np.random.default_rng(0).normal(size=(10, DIM)).astype(np.float32)
    delta.add(np.arange(10), vectors)
    numbers, last = delta.last(4)
    delta.drop_last(4)
    assert numbers.tolist() == [6, 7, 8, 9]
    np.testing.assert_array_equal(last, vectors[6:])
    assert delta.numbers().tolist() == list(range(6))
    delta.add(numbers, last)
    delta.drop_last(100)
    assert len(delta) == 0
    assert not delta.holds(np.arange(10)).any()


@pytest.mark.parametrize("distance", [False, True])
def test_vectors_are_coded_one_by_one_as_they_are_together(distance: bool) -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(5, 10)).astype(np.float32)
    vectors = rng.normal(size=(200, 10)).astype(np.float32)
    vectors[3] = centres[2]  # a difference of nothing has a step all the same
    home, numbers = rng.integers(0, 5, 200), rng.permutation(1000)[:200]
    home[3] = 2
    whole, slots = laid_out(centres, numbers, vectors, home, bits=8, distance=distance)
    lists, later = empty_lists(centres, 4, bits=8, distance=distance), []
    for start in range(0, 200, 7):
        part = slice(start, start + 7)
        lists, own = append(lists, numbers[part], vectors[part], home[part], distance=distance)
        later.append(own)
    codes, scales = encode(vectors - centres[home])
    for held, at in ((whole, slots), (lists, np.concatenate(later))):
        block, lane = np.divmod(at, 16)
        own = held.codes[block, :, lane].reshape(200, -1)
        np.testing.assert_array_equal(own[:, :10], codes)
        assert (own[:, 10:] == 128).all()
        np.testing.assert_array_equal(held.scales[block, lane], scales)
        np.testing.assert_array_equal(held.numbers[at], numbers)
        np.testing.assert_array_equal(held.vectors[at], vectors)
        if distance:
            np.testing.assert_allclose(
                held.offsets[block, lane], -(vectors**2).sum(axis=1), rtol=1e-6
            )


class SlowStore(FlatStore):
    """A store that takes its time for every row, as a graph does."""

    def add(self, numbers: np.ndarray, vectors: np.ndarray) -> None:
        time.sleep(0.001 * len(numbers))
        super().add(numbers, vectors)


def test_a_step_is_as_long_as_a_search_may_wait() -> None:
    rng = np.random.default_rng(2)
    quick, slow = LiveIndex(FlatStore(DIM)), LiveIndex(SlowStore(DIM, spec=IndexSpec(kind="hnsw")))
    moved: dict[LiveIndex, list[int]] = {quick: [], slow: []}
    for index, own in moved.items():
        index.upsert(np.arange(1000), rng.normal(size=(1000, DIM)).astype(np.float32))
        for _ in range(8):
            before = index.pending
            index.maintain()
            own.append(before - index.pending)
    assert min(moved[quick]) >= 16
    assert set(moved[slow]) == {1}


def test_the_delta_holds_no_more_than_its_limit_though_nobody_maintains() -> None:
    rng = np.random.default_rng(3)
    store = create_index("faiss", dim=DIM, spec=IndexSpec(kind="ivf-int8-refine", nlist=8))
    store.add(np.arange(2000), rng.normal(size=(2000, DIM)).astype(np.float32))
    index = LiveIndex(store)
    for start in range(2000, 6000, 50):
        index.upsert(np.arange(start, start + 50), rng.normal(size=(50, DIM)).astype(np.float32))
        assert index.pending <= index.limit
    assert len(index) == 6000


def test_no_change_waits_for_a_compiler_once_the_index_is_warm() -> None:
    """A first change of a replica whose caches are empty took a third of a second."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "changes_after_warm.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = done.stdout.splitlines()
    assert before.count("int8_lists") >= 3
    assert before == after
