"""Labels of tasks from types of event: what the user did with the case's item, and when."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from corerec.data.frames import dataset_from_frames
from corerec.errors import DataError
from corerec.pipelines.labels import task_labels
from corerec.pipelines.slices import Events, Slice, SliceConfig


def test_labels_equal_a_search_of_the_log() -> None:
    rng = np.random.default_rng(0)
    rows = 400
    log = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, 40, rows)],
            "item_id": [f"i{i}" for i in rng.integers(0, 60, rows)],
            "at": np.arange(rows) * 1000,
            "kind": [("view", "click", "like")[k] for k in rng.integers(0, 3, rows)],
        }
    )
    dataset = dataset_from_frames(log, time="at", event_type="kind")
    events = Events.of(dataset, SliceConfig())
    table = dataset.interactions
    for own in (Slice.TOWER, Slice.RANKER):
        cases = events.cases(own)
        tasks = ("click", "interaction", "like")
        labels = task_labels(dataset, events, cases, own, tasks)
        assert labels is not None
        assert labels.dtype == np.float32
        assert 0 < labels[:, 0].mean() < 1
        end = events.times[events.slices <= own].max()
        for case in range(len(cases)):
            mine = table.filter(
                (pl.col("user_row") == cases.user_row[case])
                & (pl.col("item_number") == cases.right[case])
                & (pl.col("time_micros") <= end)
            )["event_type"].to_list()
            assert labels[case].tolist() == ["click" in mine, True, "like" in mine]


def test_one_interaction_needs_no_types_and_wrong_tasks_are_refused() -> None:
    log = pl.DataFrame({"user_id": ["a"] * 9, "item_id": list("bcdefghij"), "kind": ["click"] * 9})
    plain = dataset_from_frames(log)
    events = Events.of(plain, SliceConfig())
    cases = events.cases(Slice.TOWER)
    assert task_labels(plain, events, cases, Slice.TOWER, ("interaction",)) is None
    with pytest.raises(DataError, match="interactions must have an event_type"):
        task_labels(plain, events, cases, Slice.TOWER, ("click",))
    typed = dataset_from_frames(log, event_type="kind")
    with pytest.raises(DataError, match=r"which are \['click'\], got 'like'"):
        task_labels(typed, events, cases, Slice.TOWER, ("click", "like"))
