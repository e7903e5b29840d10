from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corerec.errors import InvalidArgument
from corerec.features import PopularitySnapshot, PopularityTimeline, context_features
from corerec.features.popularity import RECENT_MICROS

DAY = RECENT_MICROS // 7


@given(
    events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=30),
    asked=st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 40)), min_size=1, max_size=10),
)
def test_counts_equal_brute_force_and_are_strictly_before(
    events: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    items = np.array([i for i, _ in events], np.int64)
    days = np.array([d for _, d in events], np.int64)
    timeline = PopularityTimeline(items, days * DAY, item_count=4)
    numbers, moments = (np.array(c, np.int64) for c in zip(*asked, strict=True))
    total, recent = timeline.counts(numbers, moments * DAY)
    for place, (item, day) in enumerate(asked):
        of_item = days[items == item]
        assert total[place] == (of_item < day).sum()
        assert recent[place] == ((of_item < day) & (of_item >= day - 7)).sum()


def test_counts_take_any_shape_and_exact_microseconds() -> None:
    now = 1_700_000_000_000_000
    timeline = PopularityTimeline(np.array([1, 1, 0]), np.array([now, now + 1, now]), 2)
    total, _ = timeline.counts(np.array([[1, 0], [1, 0]]), np.array([[now + 1], [now + 2]]))
    assert total.tolist() == [[1, 1], [2, 1]]


def test_without_times_the_own_interaction_is_taken_off() -> None:
    timeline = PopularityTimeline(np.array([1, 1, 0]), None, 3)
    items = np.array([[1, 0, 2]])
    total, recent = timeline.counts(items, None, own=np.array([[True, False, True]]))
    assert total.tolist() == [[1, 1, 0]]
    assert recent.tolist() == [[0, 0, 0]]


def test_the_snapshot_counts_the_last_moment_and_survives_its_file(tmp_path: Path) -> None:
    timeline = PopularityTimeline(np.array([1, 1, 0]), np.array([0, 9 * DAY, 9 * DAY]), 3)
    snapshot = timeline.snapshot(9 * DAY)
    assert snapshot.total.tolist() == [1, 2, 0]
    assert snapshot.recent.tolist() == [1, 1, 0]
    snapshot.save(tmp_path / "p.safetensors")
    again = PopularitySnapshot.load(tmp_path / "p.safetensors")
    assert again.total.tolist() == [1, 2, 0]


def test_broken_input_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"must be in \[0, 2\)"):
        PopularityTimeline(np.array([2]), None, 2)
    with pytest.raises(InvalidArgument, match="as many times"):
        PopularityTimeline(np.array([1]), np.array([1, 2]), 2)
    with pytest.raises(InvalidArgument, match="times must be given"):
        PopularityTimeline(np.array([1]), np.array([1]), 2).counts(np.array([1]), None)


def test_context_is_periodic_in_day_and_week() -> None:
    now = 1_700_000_000_000_000
    rows = context_features(np.array([now, now + DAY, now + 7 * DAY, 0]))
    np.testing.assert_allclose(rows[0, :2], rows[1, :2], atol=1e-6)
    assert np.abs(rows[0, 2:] - rows[1, 2:]).max() > 0.1
    np.testing.assert_allclose(rows[0], rows[2], atol=1e-6)
    np.testing.assert_allclose(rows[3], [0, 1, 0, 1], atol=1e-6)
