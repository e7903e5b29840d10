"""Who learns from what: slices follow one another in time, and no case sees the future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data import Dataset
from corerec.errors import ConfigError
from corerec.pipelines.slices import Events, Slice, SliceConfig

USERS, ITEMS = 4, 6
EVENTS = st.lists(
    st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), st.integers(0, 40)),
    min_size=1,
    max_size=60,
)
CONFIG = SliceConfig(ranker_share=0.2, validation_share=0.1, test_share=0.2)


def world(events: list[tuple[int, int, int]], has_times: bool) -> Dataset:
    if not has_times:  # the place in the user's history stands where the time would
        places = [0] * USERS
        for i, (user, item, _) in enumerate(events):
            events[i] = (user, item, places[user])
            places[user] += 1
    users, items, times = (list(column) for column in zip(*events, strict=True))
    table = pl.DataFrame(
        {"user_row": users, "item_number": items, "time_micros": times},
        schema={"user_row": pl.Int32, "item_number": pl.Int32, "time_micros": pl.Int64},
    )
    order = ["time_micros"] if has_times else ["user_row", "time_micros"]
    return Dataset(
        root=Path("/nowhere"),
        name="drawn",
        items=pl.DataFrame({"item_number": np.arange(ITEMS)}),
        users=pl.DataFrame({"user_id": [f"u{n}" for n in range(USERS)]}),
        interactions=table.sort(order, maintain_order=True),
        has_times=has_times,
        item_categorical=(),
        item_multi=(),
        item_numeric=(),
        user_categorical=(),
        user_numeric=(),
        vectors={},
        dropped={},
    )


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, has_times=st.booleans())
def test_no_case_sees_its_own_moment_or_later(
    events: list[tuple[int, int, int]], has_times: bool
) -> None:
    sliced = Events.of(world(list(events), has_times), CONFIG)
    for own in Slice:
        cases = sliced.cases(own)
        rows = np.arange(len(cases))
        for row, seen in zip(rows, cases.histories(rows), strict=True):
            span = slice(int(cases.first[row]), int(cases.before[row]))
            assert (cases.times[span] < cases.now[row]).all()
            assert (sliced.users[span] == cases.user_row[row]).all()
            assert cases.right[row] not in seen, "an item that the user had is no question"


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, has_times=st.booleans())
def test_slices_follow_one_another_and_hold_every_event_once(
    events: list[tuple[int, int, int]], has_times: bool
) -> None:
    sliced = Events.of(world(list(events), has_times), CONFIG)
    assert sorted(sliced.order) == list(range(len(events)))
    groups = [np.ones(len(events), bool)] if has_times else []
    groups += [sliced.users == user for user in range(USERS)]
    for group in groups:
        for own in (Slice.RANKER, Slice.VALIDATION, Slice.TEST):
            earlier = sliced.times[group & sliced.before(own)]
            later = sliced.times[group & ~sliced.before(own)]
            if len(earlier) and len(later):
                assert earlier.max() < later.min()


def test_without_times_the_last_is_the_test_and_the_one_before_it_validation() -> None:
    events = [(0, n % ITEMS, 0) for n in range(6)]
    sliced = Events.of(world(events, has_times=False), CONFIG)
    assert sliced.slices.tolist()[-2:] == [Slice.VALIDATION, Slice.TEST]
    assert sliced.cases(Slice.TEST).right.tolist() == [5]


@pytest.mark.parametrize("share", [0.0, 0.5, -1.0])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"test_share must be in \(0, 0.5\)"):
        SliceConfig(test_share=share)
