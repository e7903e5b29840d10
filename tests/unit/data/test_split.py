"""No case sees the future, and every case is one item that its user had not taken before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data import Dataset
from corerec.data.split import Cases, Split, build_histories, split
from corerec.errors import InvalidArgument


def _dataset(rows: list[tuple[int, int, int]], *, has_times: bool = True) -> Dataset:
    """Return a data set of (user, item, time) rows; time is ignored without times."""
    users, items = 1 + max(r[0] for r in rows), 1 + max(r[1] for r in rows)
    if has_times:
        rows = sorted(rows, key=lambda row: row[2])
    else:
        rows = sorted(rows, key=lambda row: row[0])
        seen: dict[int, int] = {}
        numbered = []
        for user, item, _ in rows:
            numbered.append((user, item, seen.get(user, 0)))
            seen[user] = seen.get(user, 0) + 1
        rows = numbered
    schema = {"user_row": pl.Int32, "item_number": pl.Int32, "time_micros": pl.Int64}
    return Dataset(
        root=Path(),
        name="drawn",
        items=pl.DataFrame({"item_number": np.arange(items)}),
        users=pl.DataFrame({"user_id": [str(u) for u in range(users)]}),
        interactions=pl.DataFrame(rows, schema=schema, orient="row"),
        has_times=has_times,
    )


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 12)), min_size=4, max_size=60
)


def _split(data: Dataset) -> Split | None:
    try:
        return split(data, validation=0.2, test=0.2)
    except InvalidArgument:
        return None


def _check_cases(data: Dataset, made: Split, cases: Cases) -> None:
    rows = data.interactions.rows()
    history, times = made.histories.before(cases.user_rows, cases.positions, len(rows))
    assert len(set(cases.user_rows.tolist())) == len(cases)
    for case in range(len(cases)):
        user, item, now = cases.user_rows[case], cases.items[case], cases.times[case]
        want = [row for row in rows if row[0] == user and row[2] < now]
        kept = times[case][times[case] >= 0]
        assert (kept < now).all()
        assert sorted(zip(history[case][history[case] >= 0], kept, strict=True)) == sorted(
            (row[1], row[2]) for row in want
        )
        assert item not in history[case]
        assert (user, item, now) in rows


@given(ROWS)
@settings(max_examples=150, deadline=None)
def test_by_time_no_history_and_no_training_reaches_into_the_window(
    rows: list[tuple[int, int, int]],
) -> None:
    data = _dataset(rows)
    made = _split(data)
    if made is None:
        return
    for cases, start in ((made.validation, made.train_end), (made.test, made.test_start)):
        _check_cases(data, made, cases)
        assert (cases.times >= start).all()
    assert (made.validation.times < made.test_start).all()
    trained = data.interactions["time_micros"].to_numpy()[made.train]
    assert (trained < made.train_end).all()
    assert len(trained) == (data.interactions["time_micros"] < made.train_end).sum()


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_by_order_the_last_is_the_test_and_the_one_before_the_validation(
    rows: list[tuple[int, int, int]],
) -> None:
    data = _dataset(rows, has_times=False)
    made = _split(data)
    if made is None:
        return
    for cases, back in ((made.validation, 2), (made.test, 1)):
        _check_cases(data, made, cases)
        lengths = made.histories.lengths()[cases.user_rows]
        assert (cases.positions == lengths - back).all()
        assert (cases.times == lengths - back).all()
    held = np.setdiff1d(np.arange(data.interactions.height), made.train)
    assert len(held) == 2 * (made.histories.lengths() >= 3).sum()


@given(ROWS, st.integers(1, 8), st.data())
@settings(max_examples=100, deadline=None)
def test_histories_before_a_position_equal_a_plain_loop(
    rows: list[tuple[int, int, int]], length: int, data: st.DataObject
) -> None:
    histories = build_histories(_dataset(rows))
    users = np.array(
        data.draw(st.lists(st.integers(0, len(histories.offsets) - 2), max_size=5)), int
    )
    lengths = histories.lengths()[users]
    positions = np.array([data.draw(st.integers(0, int(n))) for n in lengths], int)
    items, times = histories.before(users, positions, length)
    assert items.shape == times.shape == (len(users), length)
    for row, (user, position) in enumerate(zip(users, positions, strict=True)):
        start = histories.offsets[user]
        for got, whole in ((items[row], histories.items), (times[row], histories.times)):
            want = list(whole[start : start + position][-length:]) if position else []
            assert got.tolist() == [-1] * (length - len(want)) + want


def test_equal_moments_are_not_before_one_another() -> None:
    data = _dataset([(0, 0, 1), (0, 1, 2), (1, 2, 3), (1, 3, 3), (0, 2, 9), (0, 3, 9)])
    made = split(data, validation=0.3, test=0.3)
    assert made.test.items.tolist() == [2]
    assert made.test.positions.tolist() == [2]
    assert made.validation.positions.tolist() == [0]


@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.1, 1.0), (0.6, 0.5), (float("nan"), 0.1)])
def test_shares_out_of_range_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(InvalidArgument, match="between 0 and 1"):
        split(_dataset([(0, 0, 1)]), validation=shares[0], test=shares[1])


def test_a_part_without_cases_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="at least one"):
        split(_dataset([(0, 0, 1), (0, 0, 2), (0, 0, 3)]))
