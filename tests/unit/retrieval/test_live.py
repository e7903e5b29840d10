"""A core that follows the catalogue against an oracle that searches what it is told of by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.live.content import ContentSide
from corerec.live.rebuild import rebuild
from corerec.live.rows import items_of
from corerec.release import Release
from corerec.retrieval import RetrievalCore, RetrievalOptions
from corerec.retrieval.front import Front
from corerec.retrieval.shard import ShardCore
from corerec.stages import (
    Predicate,
    RetrieveEntry,
    RetrieveResult,
    SearchEntry,
    SearchResult,
    UserContext,
)
from corerec.store import SqliteStore
from corerec.store.catalogue import Item, ItemChange

ITEMS, K = 500, 60
OPTIONS = RetrievalOptions(
    quotas={"item_to_item": 0.2, "trending": 0.2, "fresh": 0.2}, popular_share=0.2
)


@pytest.fixture(scope="module")
def items(tiny_release: Path) -> list[Item]:
    return items_of(pl.read_parquet(Release.open(tiny_release).file("attributes.parquet")))


def _user(*items: int) -> UserContext:
    numbers = np.array(items, np.int64)
    return UserContext(items=numbers, times=np.zeros(len(items), np.int64))


class Oracle:
    """What is alive, with its vector and category."""

    def __init__(self, core: RetrievalCore, content: ContentSide, items: list[Item]) -> None:
        self._content = content
        base = core.shard._search.vectors[0].vectors.take(np.arange(ITEMS))
        self.vectors = dict(enumerate(base))
        self.categories = {number: item.category for number, item in enumerate(items)}
        self.born = {number: item.born_micros for number, item in enumerate(items)}

    def apply(self, changes: list[ItemChange]) -> None:
        newest = {change.number: change.item for change in changes}
        there = {number: item for number, item in newest.items() if item is not None}
        found = self._content.vectors(np.array(list(there), np.int64), list(there.values()))
        for number in newest:
            self.vectors.pop(number, None)
            self.categories.pop(number, None)
            self.born.pop(number, None)
        self.vectors.update(zip(there, found, strict=True))
        self.categories.update({number: item.category for number, item in there.items()})
        self.born.update({number: item.born_micros for number, item in there.items()})

    def scores(self, query: np.ndarray, out: set[int], category: str) -> dict[int, float]:
        return {
            number: float(vector.astype(np.float64) @ query)
            for number, vector in self.vectors.items()
            if number not in out and category in ("", self.categories[number])
        }


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_any_sequence_of_changes_and_searches_agrees_with_the_oracle(
    tiny_release: Path, items: list[Item], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    release = Release.open(tiny_release)
    core = RetrievalCore.load(release, config=OPTIONS)
    content = ContentSide.load(release)
    oracle = Oracle(core, content, items)
    position, numbers = 0, ITEMS
    for _ in range(8):
        changes = []
        for _ in range(int(rng.integers(0, 9))):
            position += int(rng.integers(1, 4))
            number = int(rng.integers(0, numbers + 1))
            numbers = max(numbers, number + 1)
            item: Item | None = None
            if rng.random() < 0.6:
                item = replace(items[int(rng.integers(ITEMS))], item_id=f"i{number}")
            changes.append(
                ItemChange(position=position, number=number, item_id=f"i{number}", item=item)
            )
        core.apply(changes)
        core.apply(changes[:3])  # a replay changes nothing
        oracle.apply(changes)
        if rng.random() < 0.5:
            while core.maintain():
                pass
        assert core.position == position
        history = rng.integers(0, numbers, 4).tolist()
        category = str(rng.choice(["", items[int(rng.integers(ITEMS))].category]))
        where = (Predicate(attribute="category", any_of=(category,)),) if category else ()
        entry = RetrieveEntry(user=_user(*history), k=K, where=where, explain=True)
        (search,) = core.front.encode([entry]).entries
        assert isinstance(search, SearchEntry)
        (found,) = core.shard.run([search])
        assert isinstance(found, SearchResult)
        near = next(own for own in found.lists if own.kind == "two_tower")
        scores = oracle.scores(search.queries["two_tower"], set(history), category)
        best = sorted(scores.values(), reverse=True)[:K]
        assert len(np.unique(near.numbers)) == len(near.numbers) == len(best)
        assert np.allclose([scores[n] for n in near.numbers.tolist()], best, atol=1e-5)
        assert np.allclose(near.scores, best, atol=1e-5)
        newest = next(own for own in found.lists if own.kind == "fresh").numbers.tolist()
        left = [n for n in oracle.born if n not in history]
        left = [n for n in left if category in ("", oracle.categories[n])]
        assert newest == sorted(left, key=lambda n: (-oracle.born[n], n))[:K]
        (result,) = core.run([entry])
        assert isinstance(result, RetrieveResult)
        assert result.position == position
        for own in (result.candidates.numbers, *(one.numbers for one in found.lists)):
            for number in own.tolist():
                assert number in oracle.vectors, "deleted, or never there"
                assert category in ("", oracle.categories[number])


def test_an_item_that_was_upserted_is_found_near_the_query(
    tiny_release: Path, items: list[Item]
) -> None:
    core = RetrievalCore.load(Release.open(tiny_release))
    user = _user(3, 40, 17)
    (before,) = core.run([RetrieveEntry(user=user, k=20)])
    assert isinstance(before, RetrieveResult)
    best = items[int(before.candidates.numbers[0])]
    core.apply([ItemChange(position=1, number=ITEMS, item_id="new", item=best)])
    (after,) = core.run([RetrieveEntry(user=user, k=500)])
    assert isinstance(after, RetrieveResult)
    assert ITEMS in after.candidates.numbers
    core.apply([ItemChange(position=2, number=ITEMS, item_id="new", item=None)])
    (gone,) = core.run([RetrieveEntry(user=user, k=500)])
    assert isinstance(gone, RetrieveResult)
    assert ITEMS not in gone.candidates.numbers


def test_a_deleted_popular_item_is_gone_from_every_source_and_comes_back(
    tiny_release: Path, items: list[Item]
) -> None:
    core = RetrievalCore.load(Release.open(tiny_release), config=OPTIONS)
    number = int(core._popular.numbers[0])
    stranger = RetrieveEntry(user=UserContext(), k=20)

    def shown() -> bool:
        (result,) = core.run([stranger])
        assert isinstance(result, RetrieveResult)
        return number in result.candidates.numbers

    assert shown()
    core.apply([ItemChange(position=5, number=number, item_id="i", item=None)])
    assert not shown()
    core.apply([ItemChange(position=6, number=number, item_id="i", item=items[number])])
    assert shown()


def test_an_item_that_cannot_be_encoded_is_counted_and_its_neighbours_are_found(
    tiny_release: Path, items: list[Item]
) -> None:
    release = Release.open(tiny_release)
    core = RetrievalCore.load(release, config=OPTIONS)
    schema = json.loads(release.file("schema.json").read_text())
    assert schema
    bad = replace(items[0], vectors={"no": np.ones(3, np.float32)})
    wrong = dict.fromkeys(bad.attributes, "not a number")
    for own in core._schema.item_multi:
        wrong[own.name] = "one"  # a list column as a single value
    bad = replace(bad, attributes=wrong)
    good = ItemChange(position=2, number=ITEMS + 1, item_id="good", item=items[3])
    core.apply([ItemChange(position=1, number=ITEMS, item_id="bad", item=bad), good])
    (result,) = core.run([RetrieveEntry(user=_user(3), k=502, exclude_seen=False)])
    assert isinstance(result, RetrieveResult)
    assert ITEMS + 1 in result.candidates.numbers
    assert core.counts["items_refused"] == 1
    assert core.position == 2


def test_live_items_count_in_the_query_of_whoever_has_them(
    tiny_release: Path, items: list[Item]
) -> None:
    core = RetrievalCore.load(Release.open(tiny_release))
    unknown = RetrieveEntry(user=_user(ITEMS + 3), k=30)
    (before,) = core.front.encode([unknown]).entries
    (nobody,) = core.run([unknown])
    core.apply([ItemChange(position=1, number=ITEMS + 3, item_id="new", item=items[40])])
    (after,) = core.front.encode([unknown]).entries
    (somebody,) = core.run([unknown])
    assert isinstance(before, SearchEntry)
    assert isinstance(after, SearchEntry)
    assert not np.allclose(before.queries["two_tower"], after.queries["two_tower"])
    assert isinstance(nobody, RetrieveResult)
    assert isinstance(somebody, RetrieveResult)
    # Who has nothing but unknown items is cold; who has a live one is not.
    assert (nobody.candidates.sources == 2).sum() == 21
    assert (somebody.candidates.sources == 1).sum() >= 25


def test_a_rebuilt_release_begins_where_its_changes_end(
    tiny_release: Path, items: list[Item], tmp_path: Path
) -> None:
    release = Release.open(tiny_release)
    store = SqliteStore(tmp_path / "store.db")
    store.seed(release)
    store.upsert_items([replace(items[row], item_id=f"new{row}") for row in range(40)])
    store.upsert_items([replace(items[7], item_id=items[20].item_id)])
    store.delete_items([items[3].item_id, "new5"])
    made = Release.open(rebuild(release, store, tmp_path / "out").path)
    store.upsert_items([replace(items[9], item_id="later")])
    changes = store.changes(0)
    followed = RetrievalCore.load(release, config=OPTIONS)
    followed.apply(changes)
    loaded = RetrievalCore.load(made, config=OPTIONS)
    assert loaded.position == made.info["catalogue_position"] > 0
    loaded.apply(changes)  # those that it has are skipped
    assert loaded.position == followed.position == store.position()
    for user in (_user(3, 40, 17), _user(ITEMS + 2, ITEMS + 30), UserContext()):
        entry = RetrieveEntry(user=user, k=100)
        (one,), (other,) = followed.run([entry]), loaded.run([entry])
        assert isinstance(one, RetrieveResult)
        assert isinstance(other, RetrieveResult)
        assert np.allclose(one.candidates.scores, other.candidates.scores, atol=1e-5)
        assert len(np.setdiff1d(one.candidates.numbers, other.candidates.numbers)) <= 1
    store.close()


def test_shards_that_follow_the_catalogue_find_what_one_finds(
    tiny_release: Path, items: list[Item]
) -> None:
    release = Release.open(tiny_release)
    whole = RetrievalCore.load(release, config=OPTIONS)
    front = Front.load(release, config=OPTIONS)
    shards = [ShardCore.load(release, shard, 3, config=OPTIONS) for shard in range(3)]
    rng = np.random.default_rng(0)
    changes = [
        ItemChange(
            position=position,
            number=int(number),
            item_id=f"i{number}",
            item=None if position % 4 == 0 else replace(items[int(rng.integers(ITEMS))]),
        )
        for position, number in enumerate(rng.permutation(ITEMS + 20)[:60], 1)
    ]
    for core in (whole, front, *shards):
        core.apply(changes)
    entry = RetrieveEntry(user=_user(3, 40, 17), k=80)
    (search,) = front.encode([entry]).entries
    assert isinstance(search, SearchEntry)
    parts = [core.run([search])[0] for core in shards]
    assert all(isinstance(part, SearchResult) for part in parts)
    found = front.fuse(entry, search, parts)  # type: ignore[arg-type]
    (expected,) = whole.run([entry])
    assert isinstance(expected, RetrieveResult)
    # Vectors made in other batches may differ in their last bits, and with them near places.
    assert np.allclose(found.candidates.scores, expected.candidates.scores, atol=1e-5)
    assert len(np.setdiff1d(found.candidates.numbers, expected.candidates.numbers)) <= 1
    assert found.position == expected.position == 60
