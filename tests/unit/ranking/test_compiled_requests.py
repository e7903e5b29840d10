"""What is compiled for serving, against the same in torch; users that are kept."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_world import HOUR, ITEMS, LENGTH, START, World, make_world, write_release
from test_ranking_core import candidates, make_entry

from corerec.errors import InvalidArgument
from corerec.features import FeatureSchema, ItemFeatures, MultiFeature, UserIndex
from corerec.live.numbers import LiveRows
from corerec.ranking.best import best
from corerec.ranking.check import check_columns, keeps_rules
from corerec.ranking.compiled_requests import CompiledRequests
from corerec.ranking.features import RankingBatch, pair_names
from corerec.ranking.kept_users import SEATS, KeptUsers
from corerec.ranking.model_arrays import ModelArrays
from corerec.ranking.packed import PackedItems
from corerec.ranking.requests import TorchRequests, stable_best
from corerec.ranking.tables import ItemTables
from corerec.stages import Candidates, RankEntry, UserContext

NOW = START + 20 * HOUR
LATER = 6
"""Items that come after the training."""


def with_lists(world: World, lists: int) -> World:
    """The world with so many list columns, the first as it was."""
    rng = np.random.default_rng(1)
    features, columns = world.schema.item_multi, [world.items.multi[:, 0]]
    for number in range(1, lists):
        features += (MultiFeature(name=f"list{number}", vocabulary=tuple("pqrs")),)
        own = rng.integers(0, 5, (ITEMS, 8)).astype(np.int32)
        own[:, 3:] = 0
        columns.append(-np.sort(-own, axis=1))
    multi = np.stack(columns[:lists], axis=1) if lists else np.zeros((ITEMS, 0, 8), np.int32)
    schema = replace(world.schema, item_multi=features[:lists])
    return replace(world, schema=schema, items=replace(world.items, multi=multi))


class Pair:
    """Both forms over the same tables, which items may be put into."""

    def __init__(self, world: World, seats: int = SEATS) -> None:
        self.schema: FeatureSchema = world.schema
        self.tables = ItemTables.build(
            world.schema, world.items, world.tower, world.transitions, room=1
        )
        self.live, self.world = LiveRows(ITEMS), world
        counts = world.popularity.snapshot(int(world.events[2].max()))
        popularity = np.pad(np.stack([counts.total, counts.recent]), ((0, 0), (0, 1)))
        parts = self.tables, self.live, UserIndex(world.user_ids), popularity.astype("f4"), NOW
        self.model = world.model()
        self.torch = TorchRequests(*parts)
        self.compiled = CompiledRequests(*parts, self.model, seats=seats)

    def put(self, numbers: list[int], seed: int = 0) -> None:
        """Give items the features and vectors of others."""
        rng = np.random.default_rng(seed)
        like = rng.integers(0, ITEMS, len(numbers))
        own = {name: array[like] for name, array in vars(self.world.items).items()}
        rows = self.live.put(np.array(numbers))
        self.tables.put(rows, ItemFeatures(**own), self.world.tower[like])
        self.compiled.refresh(rows)

    def check(self, entries: list[RankEntry]) -> None:
        """Fail unless both forms lay entries out alike."""
        plain, expected = self.torch.lay(entries).tensors()
        batch, found = self.compiled.lay(entries).tensors()
        names = ["user_row", "user_categorical", "history", "now", "candidates", "scores"]
        for name in [*names, "retrieved"]:
            assert torch.equal(getattr(batch, name), getattr(plain, name)), name
        torch.testing.assert_close(batch.user_dense, plain.user_dense, rtol=1e-6, atol=1e-6)
        self._check_sides(entries, batch, plain, expected)
        for row, entry in enumerate(entries):
            count = len(entry.candidates)
            for feature, name in enumerate(pair_names(self.schema)):
                torch.testing.assert_close(
                    found[feature, row, :count], expected[feature, row, :count],
                    rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}",
                )  # fmt: skip
            assert not found[:, row, count:].any()

    @torch.no_grad()
    def _check_sides(
        self,
        entries: list[RankEntry],
        batch: RankingBatch,
        plain: RankingBatch,
        pairs: torch.Tensor,
    ) -> None:
        """Fail unless the model's sides are what the model makes of the plain batch."""
        assert batch.user_side is not None
        assert batch.compared is not None
        user = self.model.user_side(plain)
        torch.testing.assert_close(batch.user_side, user, rtol=1e-6, atol=1e-6)
        wanted = self.model.item(plain.candidates.clamp(max=ITEMS))
        side = self.model.pair_side(plain, pairs, wanted)
        for row, entry in enumerate(entries):
            count = len(entry.candidates)
            torch.testing.assert_close(
                batch.compared[:, row, :count], side[:, row, :count], rtol=2e-6, atol=2e-6
            )
            assert not batch.compared[:, row, count:].any()


@pytest.fixture(scope="module", params=[(True, 1), (True, 0), (True, 3), (False, 1)], ids=str)
def pair(request: pytest.FixtureRequest) -> Pair:
    has_times, lists = request.param
    return Pair(with_lists(make_world(has_times=has_times), lists))


@st.composite
def some_entries(draw: st.DrawFn) -> list[RankEntry]:
    numbers = st.integers(0, ITEMS + LATER + 3)
    entries = []
    for _ in range(draw(st.integers(1, 4))):
        asked = draw(st.lists(numbers, min_size=1, max_size=30, unique=True))
        history = draw(st.lists(st.integers(-2, ITEMS + LATER + 3), max_size=4 * LENGTH))
        gaps = draw(st.integers(0, 400 * 24))
        user = UserContext(
            user_id=draw(st.sampled_from(["", "user1", "user2", "nobody"])),
            attributes=draw(st.sampled_from([{}, {"sex": "F"}, {"age": "44", "sex": "?"}])),
            items=np.array(history, np.int64),
            times=NOW - (np.arange(len(history), 0, -1) + gaps) * HOUR,
            now=draw(st.sampled_from([0, NOW, NOW + 1234567])),
        )
        entries.append(RankEntry(user=user, candidates=candidates(np.array(asked)), k=9))
    return entries


@settings(max_examples=60, deadline=None)
@given(entries=some_entries(), changed=st.lists(st.integers(0, ITEMS + LATER), max_size=3))
def test_compiled_features_are_those_of_torch(
    pair: Pair, entries: list[RankEntry], changed: list[int]
) -> None:
    pair.check(entries)
    if changed:
        pair.put(list(dict.fromkeys(changed)), seed=len(changed))
    pair.check(entries)


def test_tables_that_outgrow_their_room_are_read_where_they_are() -> None:
    pair = Pair(make_world())
    entry = replace(make_entry(1), candidates=candidates(np.arange(ITEMS + 300)))
    pair.check([entry])
    pair.put(list(range(ITEMS, ITEMS + 300)))
    pair.check([entry])


def users_of(pair: Pair, seats: int = 4) -> KeptUsers:
    counts = np.zeros((2, ITEMS + 1), np.float32)
    items = PackedItems(pair.tables, counts)
    return KeptUsers(
        pair.tables,
        items,
        pair.live,
        UserIndex(pair.world.user_ids),
        ModelArrays.of(pair.model),
        seats,
    )


def user(*history: int, name: str = "user1", **attributes: str) -> UserContext:
    return UserContext(
        user_id=name,
        attributes=attributes,
        items=np.array(history, np.int64),
        times=NOW - np.arange(len(history), 0, -1) * HOUR,
    )


def test_a_user_is_laid_out_once_until_anything_that_matters_is_new() -> None:
    kept = users_of(Pair(make_world()), seats=16)
    first = user(1, 2, sex="F")
    others = [
        user(1, 2, 3, sex="F"), user(1, 3, sex="F"), user(1, 2, sex="M"), user(1, 2),
        user(1, 2, name="user2", sex="F"), replace(first, times=first.times + 1),
    ]  # fmt: skip
    seat = kept.find([first, first])
    assert seat[0] == seat[1]
    assert (kept.hits, kept.misses) == (1, 1)
    assert len(set(kept.find([first, *others]).tolist())) == 7
    assert (kept.hits, kept.misses) == (2, 7)
    later = replace(first, now=NOW + 5)
    assert kept.find([later]) == seat[0]  # the moment is no part of what is kept


def test_an_item_that_changes_is_seen_by_those_who_had_it() -> None:
    pair = Pair(make_world())
    kept = users_of(pair)
    mine, other, newer = user(1, 2), user(3, 4), user(5, ITEMS)
    kept.find([mine, other, newer])
    pair.put([2])
    kept.find([mine, other])
    assert kept.misses == 4  # mine again
    assert (kept.hits, kept.find([mine, other]).tolist()) == (1, [0, 1])
    kept.find([newer])
    assert kept.misses == 5  # one of its items had no row: whether it has one now is looked at
    pair.put([ITEMS])
    kept.find([newer])
    assert kept.misses == 6
    assert kept.history[2, -1] == ITEMS + 1


def test_seats_are_bounded_and_the_least_recently_asked_for_go() -> None:
    kept = users_of(Pair(make_world()), seats=3)
    people = [user(1, name=f"user{n}") for n in range(5)]
    kept.find(people[:3])
    kept.find(people[:1])
    kept.find(people[3:4])  # takes the seat of people[1]
    before = kept.misses
    kept.find([people[0], people[2], people[3]])
    assert kept.misses == before
    assert sorted(kept.find(people[2:5]).tolist()) == [0, 1, 2]
    for seat, own in zip(kept.find(people[2:5]), people[2:5], strict=True):
        assert kept.row[seat] == 1 + int(own.user_id[4:])


def test_who_is_read_further_back_than_the_key_tells_of_is_laid_out_each_time() -> None:
    kept = users_of(Pair(make_world()))
    unknown = [ITEMS + 50] * (2 * LENGTH)
    one, two = user(7, *unknown), user(8, *unknown)
    for own, item in ((one, 7), (two, 8), (one, 7)):
        assert kept.history[kept.find([own])[0], -1] == item


def test_requests_are_right_when_more_users_come_than_there_are_seats() -> None:
    small = Pair(make_world(), seats=8)
    for start in range(0, 60, 6):
        small.check([make_entry(seed, history=seed % 9) for seed in range(start, start + 6)])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_best_are_those_of_a_stable_sort(pair: Pair, data: st.DataObject) -> None:
    few = st.sampled_from([0.0, -0.0, 1.5, -1.5, 1e-40, -1e-40, 3e38, np.nan, np.inf, -np.inf])
    count = data.draw(st.integers(1, 40))
    rows = data.draw(
        st.lists(st.lists(few, min_size=count, max_size=count), min_size=1, max_size=3)
    )
    scores = torch.tensor(rows)
    counts = np.array([data.draw(st.integers(0, count)) for _ in rows])
    k = data.draw(st.integers(1, 45))
    places, values = best(scores.numpy(), counts, k)
    expected, told = stable_best(scores, torch.from_numpy(counts), k)
    assert places.tolist() == expected.tolist()
    assert values.tolist() == told.tolist()
    same, chances = best(scores.numpy(), counts, k, (2.0, -0.5))
    assert same.tolist() == places.tolist()
    expected_chances = torch.sigmoid(told * 2 - 0.5)
    torch.testing.assert_close(torch.from_numpy(chances), expected_chances, rtol=1e-6, atol=1e-7)


@settings(max_examples=200, deadline=None)
@given(
    numbers=st.lists(st.integers(-1, 2**62) | st.integers(0, 40), max_size=40),
    bad=st.sampled_from([None, np.nan, np.inf]),
    more=st.sampled_from([0, 0, 1]),
)
def test_candidates_that_break_a_rule_are_found_and_their_neighbours_laid_out(
    pair: Pair, numbers: list[int], bad: float | None, more: int
) -> None:
    scores = np.linspace(1, 0, len(numbers), dtype=np.float32)
    if bad is not None and len(scores):
        scores[-1] = bad
    own = Candidates(
        numbers=np.array(numbers, np.int64),
        scores=scores,
        sources=np.ones(len(numbers) + more, np.uint8),
    )
    good = keeps_rules(own)
    if more:
        with pytest.raises(InvalidArgument, match=f"candidates need {len(numbers)} sources"):
            check_columns(own)
        assert not good
        return
    if len(numbers):
        beside = RankEntry(user=UserContext(), candidates=candidates(np.arange(5)), k=3)
        entry = replace(beside, candidates=own)
        for form in (pair.torch, pair.compiled):
            counts = form.lay([beside, entry, beside]).counts.tolist()
            assert counts == [5, len(numbers) if good else -1, 5]


def test_nothing_is_compiled_after_warming(world: World, tmp_path: Path) -> None:
    """In a process of its own: another test may have compiled what this core would have to."""
    write_release(world, world.model(), tmp_path)
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "compiled_after_warm.py", tmp_path],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    assert before
    assert after - before == set()
