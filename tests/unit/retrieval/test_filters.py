"""Conditions on attributes against a plain reading of each item, before and after it changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.errors import InvalidArgument
from corerec.release import Release
from corerec.retrieval.check import check_where
from corerec.retrieval.filters import AttributeTable
from corerec.stages import Predicate
from corerec.store.catalogue import Item, ItemChange

COLOURS = ("red", "green", "blue", "7", "")
TAGS = ("old", "new", "12", "3.5")
ITEMS = 40


def _items(rng: np.random.Generator, count: int) -> list[Item]:
    found = []
    for number in range(count):
        own = {"colour": str(rng.choice(COLOURS)), "price": str(rng.integers(0, 9))}
        found.append(
            Item(
                item_id=f"i{number}",
                category=str(rng.choice(("a", "b", ""))),
                born_micros=int(rng.integers(-1, 5)),
                attributes={k: v for k, v in own.items() if v and rng.random() < 0.8},
                lists={"tags": tuple(rng.choice(TAGS, rng.integers(0, 4)).tolist())},
            )
        )
    return found


def _table(folder: Path, items: list[Item]) -> AttributeTable:
    prices = [own.attributes.get("price") for own in items]
    path = folder / "attributes.parquet"
    pl.DataFrame(
        {
            "category": [own.category or None for own in items],
            "born_micros": [own.born_micros for own in items],
            "colour": [own.attributes.get("colour") for own in items],
            "price": pl.Series([None if p is None else int(p) for p in prices], dtype=pl.Int64),
            "tags": pl.Series([list(own.lists["tags"]) for own in items], dtype=pl.List(pl.String)),
        }
    ).write_parquet(path)
    return AttributeTable(path, pl.read_parquet_schema(path), len(items))


def _texts(item: Item | None, name: str) -> list[str]:
    if item is None:
        return []
    if name == "category":
        return [item.category] if item.category else []
    if name == "born_micros":
        return [str(item.born_micros)] if item.born_micros >= 0 else []
    if name in item.lists:
        return list(item.lists[name])
    return [item.attributes[name]] if name in item.attributes else []


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _meets(item: Item | None, own: Predicate) -> bool:
    texts = _texts(item, own.attribute)
    if own.any_of and not set(own.any_of) & set(texts):
        return False
    if set(own.none_of) & set(texts):
        return False
    if own.at_least is None and own.at_most is None:
        return True
    low = -np.inf if own.at_least is None else own.at_least
    high = np.inf if own.at_most is None else own.at_most
    return any(low <= _number(text) <= high for text in texts)


_values = {
    "category": ("a", "b", "nowhere"),
    "colour": COLOURS[:4],
    "price": ("0", "3", "7"),
    "tags": TAGS,
    "born_micros": ("0", "3"),
    "label": ("x", "5"),
}


@st.composite
def _conditions(draw: st.DrawFn) -> Predicate:
    name = draw(st.sampled_from(sorted(_values)))
    values = st.lists(st.sampled_from(_values[name]), max_size=2, unique=True)
    ranged = name != "category"  # whose texts are no numbers
    limit = st.none() | st.sampled_from([0.0, 3.0, 5.0, 8.5]) if ranged else st.none()
    return Predicate(
        attribute=name,
        any_of=tuple(draw(values)),
        none_of=tuple(draw(values)),
        at_least=draw(limit),
        at_most=draw(limit),
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    asked=st.lists(st.lists(_conditions(), min_size=1, max_size=3), min_size=1, max_size=6),
)
def test_masks_are_what_reading_each_item_says_before_and_after_changes(
    tmp_path_factory: pytest.TempPathFactory, seed: int, asked: list[list[Predicate]]
) -> None:
    rng = np.random.default_rng(seed)
    items: list[Item | None] = [*_items(rng, ITEMS)]
    table = _table(tmp_path_factory.mktemp("table"), [own for own in items if own is not None])
    position, known = 0, set(range(ITEMS))
    # "label" is of no item of the release.
    table.apply([_change(1, 3, first := Item(item_id="i3", attributes={"label": "5"}))])
    items[3] = first
    for step in range(4):
        for where in asked[: 2 + step]:
            mask = table.mask(tuple(where))
            for number in known:
                expected = all(_meets(items[number], own) for own in where)
                assert mask[number] == expected, (number, where)
        changes = []
        for item in _items(rng, int(rng.integers(0, 6))):
            number = int(rng.integers(0, len(items) + 3))
            items += [None] * (number + 1 - len(items))
            known.add(number)
            items[number] = None if rng.random() < 0.2 else item
            position += 1
            changes.append(_change(position, number, items[number]))
        table.apply(changes)


def _change(position: int, number: int, item: Item | None) -> ItemChange:
    return ItemChange(position=position, number=number, item_id=f"i{number}", item=item)


def test_an_unknown_attribute_names_the_nearest_and_becomes_known_with_an_item(
    tmp_path: Path,
) -> None:
    table = _table(tmp_path, _items(np.random.default_rng(0), 5))
    with pytest.raises(InvalidArgument, match="unknown attribute 'colr'; did you mean 'colour'"):
        table.mask((Predicate(attribute="colr", any_of=("red",)),))
    with pytest.raises(InvalidArgument, match="unknown attribute 'zzzz'; known: "):
        table.mask((Predicate(attribute="zzzz", any_of=("red",)),))
    new = Item(item_id="n", attributes={"zzzz": "red"}, lists={"rooms": ("a", "b")})
    table.apply([_change(1, 7, new)])
    assert table.mask((Predicate(attribute="zzzz", any_of=("red",)),)).nonzero()[0].tolist() == [7]
    assert table.mask((Predicate(attribute="rooms", any_of=("b",)),)).nonzero()[0].tolist() == [7]
    assert len(table) == 8


def test_what_a_column_can_never_have_is_refused(tmp_path: Path) -> None:
    table = _table(tmp_path, _items(np.random.default_rng(0), 30))
    with pytest.raises(InvalidArgument, match="at_least and at_most need numbers, 'category'"):
        table.mask((Predicate(attribute="category", at_least=3),))
    with pytest.raises(InvalidArgument, match="'price' has numbers alone, got 'cheap'"):
        table.mask((Predicate(attribute="price", any_of=("cheap",)),))


def test_conditions_that_ask_for_nothing_or_too_much_are_refused() -> None:
    one = Predicate(attribute="a", any_of=("x",))
    for where, rule in (
        ((Predicate(attribute="a"),), "condition on 'a' must have any_of, none_of"),
        ((Predicate(attribute="", any_of=("x",)),), "must name an attribute"),
        ((Predicate(attribute="a", at_least=float("nan")),), "at_least must be finite, got nan"),
        ((Predicate(attribute="a", at_least=2, at_most=1),), "got 2 and 1"),
        ((Predicate(attribute="a", any_of=("x",) * 1001),), "at most 1000 values, got 1001"),
        ((one,) * 17, "at most 16 conditions: 17"),
    ):
        with pytest.raises(InvalidArgument, match=rule):
            check_where(where)
    check_where((one,) * 16)


def test_a_mask_is_made_once_and_kept(tmp_path: Path) -> None:
    table = _table(tmp_path, _items(np.random.default_rng(0), 5))
    where = (
        Predicate(attribute="colour", any_of=("red",)),
        Predicate(attribute="price", at_most=3),
    )
    table.mask(where)
    made = table.misses
    table.mask(where)
    table.apply([_change(1, 6, Item(item_id="n", attributes={"colour": "red", "price": "1"}))])
    assert table.mask(where)[6]
    assert (table.misses, table.hits) == (made, 2)


def test_a_release_without_attributes_has_those_of_its_catalogue(tiny_release: Path) -> None:
    release = Release.open(tiny_release)
    table = AttributeTable.load(release)
    assert {"title", "category", "creator", "born_micros"} <= set(table.names)
    assert len(table) == len(release.catalogue)
    name = release.catalogue.category_names[0]
    mask = table.mask((Predicate(attribute="category", any_of=(name,)),))
    assert np.array_equal(mask, np.array(release.catalogue.categories) == name)
    path = release.file("catalogue.parquet")
    plain = AttributeTable(path, pl.read_parquet_schema(path), len(release.catalogue))
    assert np.array_equal(plain.mask((Predicate(attribute="category", any_of=(name,)),)), mask)
    middle = float(np.median(release.catalogue.born_micros))
    young = plain.mask((Predicate(attribute="born_micros", at_least=middle),))
    assert np.array_equal(young, release.catalogue.born_micros >= middle)
