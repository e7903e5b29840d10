"""LiveCatalogue against a plain dict, and its promises at the edges."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from corerec.live.arrays import Growing
from corerec.live.catalogue import LiveCatalogue
from corerec.release import Catalogue
from corerec.store.catalogue import Item, ItemChange


def _base(count: int = 3) -> Catalogue:
    return Catalogue(
        pl.DataFrame(
            {
                "item_id": [f"i{n}" for n in range(count)],
                "title": [f"title {n}" for n in range(count)],
                "category": ["b", "", "a"][:count],
                "creator": ["x", "x", ""][:count],
                "born_micros": [5, -1, 7][:count],
            }
        )
    )


def _put(position: int, number: int, **fields: object) -> ItemChange:
    item = Item(item_id=f"i{number}", **fields)  # type: ignore[arg-type]
    return ItemChange(position=position, number=number, item_id=item.item_id, item=item)


def _delete(position: int, number: int) -> ItemChange:
    return ItemChange(position=position, number=number, item_id=f"i{number}", item=None)


def test_without_changes_it_reads_as_the_release_does() -> None:
    base = _base()
    live = LiveCatalogue(base)
    for name in ("ids", "titles", "categories", "creators", "category_names", "creator_names"):
        assert getattr(live, name) == getattr(base, name)
    for name in ("born_micros", "category_codes", "creator_codes"):
        assert np.array_equal(getattr(live, name), getattr(base, name))
        assert getattr(live, name).dtype == getattr(base, name).dtype
    assert (len(live), live.position, live.number_of("i1")) == (3, 0, 1)
    assert not live.deleted.any()
    assert live.known.all()


def test_changes_add_replace_and_delete_and_leave_the_release_as_it_was() -> None:
    base = _base()
    live = LiveCatalogue(base)
    live.apply([_put(1, 3, title="new", category="c", creator="x", born_micros=9)])
    live.apply([_put(2, 0, category="a"), _delete(3, 2)])
    assert live.ids == ["i0", "i1", "i2", "i3"]
    assert live.titles == ["", "title 1", "title 2", "new"]
    assert live.category_names == ["a", "b", "c"]
    assert live.category_codes.tolist() == [0, -1, 0, 2]
    assert live.creator_codes.tolist() == [-1, 0, -1, 0]
    assert live.born_micros.tolist() == [-1, -1, 7, 9]
    assert live.deleted.tolist() == [False, False, True, False]
    assert [live.is_alive(n) for n in (-1, 0, 2, 3, 4)] == [False, True, False, True, False]
    assert (live.number_of("i3"), live.number_of("i2"), live.number_of("?")) == (3, 2, None)
    assert live.position == 3
    assert len(base) == 3
    assert base.category_names == ["a", "b"]


def test_a_replay_changes_nothing_and_a_deleted_item_may_come_back() -> None:
    live = LiveCatalogue(_base())
    changes = [_put(1, 3, title="new"), _delete(2, 3)]
    live.apply(changes)
    live.apply(changes)
    assert live.deleted[3]
    live.apply([_put(3, 3, title="back")])
    assert not live.deleted[3]
    assert live.titles[3] == "back"


def test_a_number_whose_change_did_not_come_yet_is_not_known() -> None:
    live = LiveCatalogue(_base())
    live.apply([_put(4, 6, title="six")])
    assert len(live) == 7
    assert live.known.tolist() == [True] * 3 + [False] * 3 + [True]
    assert live.ids[4] == live.titles[4] == ""
    assert not live.is_alive(4)


def test_thousands_of_changes_give_what_a_dict_gives() -> None:
    rng = np.random.default_rng(1)
    live, told = LiveCatalogue(_base()), {}
    for position in range(1, 5001):
        number = int(rng.integers(0, 3 + position // 4))
        gone = rng.random() < 0.2
        change = (
            _delete(position, number)
            if gone
            else _put(position, number, title=f"t{position}", category=f"c{position % 97}")
        )
        live.apply([change])
        told[number] = change
    for number, change in told.items():
        assert live.deleted[number] == (change.item is None)
        if change.item is not None:
            assert live.titles[number] == change.item.title
            code = live.category_codes[number]
            assert live.category_names[code] == change.item.category
    assert len(live.category_names) == len(set(live.category_names))


def test_growing_copies_each_row_a_few_times_only() -> None:
    column, copies = Growing(np.zeros(0, np.int64), -1), 0
    for rows in range(1, 100_000):
        room = column.values.base
        column.grow(rows)
        if column.values.base is not room:
            copies += rows - 1
    assert copies < 6 * 100_000
    assert (column.values == -1).all()


@pytest.mark.parametrize("absent", ["torch", "faiss", "grpc", "ray"])
def test_it_loads_no_model_library(absent: str) -> None:
    program = (
        f"import corerec.live.catalogue, corerec.live.rows, sys; print({absent!r} in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
