"""Lists of time and counts against plain readings of the events; shards and live changes too."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.errors import ConfigError
from corerec.ranking.transitions import TransitionTable
from corerec.release import Release
from corerec.retrieval import RetrievalCore, RetrievalOptions
from corerec.retrieval.ask import Asker
from corerec.retrieval.fresh import DAY_MICROS, Fresh
from corerec.retrieval.item_to_item import DECAY, LAST, ItemToItem
from corerec.retrieval.lists import ItemList
from corerec.retrieval.merge import best_first
from corerec.retrieval.owned import Eligible, OwnItems
from corerec.retrieval.popular import Popular, PopularList
from corerec.retrieval.trending import HOUR_MICROS, Trending
from corerec.stages import (
    Predicate,
    RetrieveEntry,
    RetrieveResult,
    SearchEntry,
    Source,
    UserContext,
)
from corerec.store.catalogue import Item, ItemChange

NONE = np.empty(0, np.int64)
END = 1_000 * DAY_MICROS
RED = (Predicate(attribute="colour", any_of=("red",)),)


def _entry(k: int, history: list[int] | None = None, now: int = 0) -> SearchEntry:
    return SearchEntry(queries={}, k=k, history=np.array(history or [], np.int64), now=now)


def _eligible(
    count: int,
    shard: int = 0,
    shards: int = 1,
    *,
    out: np.ndarray = NONE,
    allowed: np.ndarray | None = None,
    dead: np.ndarray = NONE,
) -> Eligible:
    items = OwnItems(count, shard, shards)
    items.put(dead[items.own(dead)], alive=False)
    return Eligible(items=items, allowed=allowed, excluded=out)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    numbers, scores = (np.concatenate(own) for own in zip(*parts, strict=True))
    order = best_first(numbers, scores)[:k]
    return numbers[order], scores[order]


def _same(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 60), years=st.sampled_from([0, 3]))
def test_trending_is_the_order_of_decayed_counts_whatever_the_shards(
    seed: int, k: int, years: int
) -> None:
    rng = np.random.default_rng(seed)
    count, half_life = 80, float(rng.choice([1.0, 72.0]))
    items = rng.integers(0, count, 400)
    times = END - rng.integers(0, 30 * DAY_MICROS, 400)
    live = rng.integers(0, count + 5, 60)  # also of items that came later
    later = END + years * 365 * DAY_MICROS + rng.integers(0, 3 * DAY_MICROS, 60)
    out, dead = rng.integers(0, count, 10), rng.integers(0, count, 5)
    allowed = rng.random(count + 5) < 0.6
    found = []
    for shards in (1, 3):
        parts = []
        for shard in range(shards):
            own = Trending(
                items, times, end=END, half_life_hours=half_life,
                shard=shard, shards=shards, refresh_seconds=0,
            )  # fmt: skip
            own.find(_entry(k), k, _eligible(count, shard, shards))
            for start in range(0, 60, 20):
                own.add_events(live[start : start + 20], later[start : start + 20])
            eligible = _eligible(count, shard, shards, out=out, allowed=allowed, dead=dead)
            new = np.arange(count, count + 5)
            eligible.items.put(new[new % shards == shard], alive=True)
            parts.append(own.find(_entry(k), k, eligible))
        found.append(_joined(parts, k))
    numbers, scores = found[0]
    every, when = np.concatenate([items, live]), np.concatenate([times, later])
    logs = (when - END) / (half_life * HOUR_MICROS)
    expected = np.full(count + 5, -np.inf)
    for number in np.unique(every):
        own = logs[every == number]
        expected[number] = own.max() + np.log2(np.exp2(own - own.max()).sum())
    for number, score in zip(*found[0], strict=True):
        # So old an event is too small to be kept beside the new ones.
        if expected[number] > logs.max() - 900:
            assert score == pytest.approx(expected[number], rel=1e-5, abs=1e-3)
    assert allowed[numbers].all()
    assert not np.isin(numbers, out).any()
    assert (np.diff(scores) <= 0).all()
    if half_life > 1:  # else years are so many halvings that old counts are nothing
        possible = np.setdiff1d(np.unique(every), np.concatenate([out, dead]))
        assert len(numbers) == min(k, int(allowed[possible].sum()))
        _same(*found)


def test_a_narrow_condition_still_fills_a_trending_list_longer_than_its_head() -> None:
    rng = np.random.default_rng(0)
    items = rng.permutation(9_000)
    own = Trending(items, END - np.arange(9_000) * HOUR_MICROS, end=END, half_life_hours=24.0)
    allowed = np.zeros(9_000, np.bool_)
    allowed[items[6_000::30]] = True
    numbers, _ = own.find(_entry(50), 50, _eligible(9_000, allowed=allowed))
    assert np.array_equal(numbers, items[6_000::30][:50])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 40), moment=st.booleans())
def test_fresh_is_the_newest_first_with_live_items_whatever_the_shards(
    seed: int, k: int, moment: bool
) -> None:
    rng = np.random.default_rng(seed)
    count = 70
    born = END - rng.integers(-5, 40, count) * DAY_MICROS
    born[rng.random(count) < 0.2] = -1
    changes, after = [], born.copy()
    for position, number in enumerate(rng.permutation(count + 6)[:15].tolist(), 1):
        when = int(END - rng.integers(-9, 30) * DAY_MICROS)
        item = None if rng.random() < 0.3 else Item(item_id=f"i{number}", born_micros=when)
        changes.append(ItemChange(position=position, number=number, item_id="i", item=item))
        after = np.concatenate([after, np.full(max(0, number + 1 - len(after)), -1)])
        after[number] = -1 if item is None else when
    now = int(END + 2 * DAY_MICROS) if moment else 0
    out = rng.integers(0, count, 8)
    found = []
    for shards in (1, 4):
        parts = []
        for shard in range(shards):
            own = Fresh(born, end=END, shard=shard, shards=shards)
            eligible = _eligible(len(after), shard, shards, out=out)
            own.find(_entry(k, now=now), k, eligible)
            own.apply([change for change in changes if change.number % shards == shard])
            parts.append(own.find(_entry(k, now=now), k, eligible))
        found.append(_joined(parts, k))
    there = [
        n for n in range(len(after))
        if after[n] >= 0 and n not in out and not (now and after[n] > now)
    ]  # fmt: skip
    expected = sorted(there, key=lambda n: (-after[n], n))[:k]
    assert found[0][0].tolist() == expected
    assert np.allclose(found[0][1], (after[expected] - END) / DAY_MICROS, atol=1e-4)
    _same(*found)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 40))
def test_item_to_item_sums_what_followed_the_last_items_whatever_the_shards(
    seed: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    count = 50
    table = TransitionTable.fit(
        rng.integers(0, 20, 600), rng.integers(0, count, 600), count, neighbours=12
    )
    history = rng.integers(-2, count + 3, rng.integers(0, 15)).tolist()
    out = np.array(history, np.int64)
    found = []
    for shards in (1, 4):
        parts = [
            ItemToItem(table, shard=shard, shards=shards).find(
                _entry(k, history), k, _eligible(count, shard, shards, out=out)
            )
            for shard in range(shards)
        ]
        found.append(_joined(parts, k))
    expected = np.zeros(count)
    known = [n for n in history if 0 <= n < count][-LAST:]
    for back, number in enumerate(reversed(known)):
        for at in range(table.starts[number], table.starts[number + 1]):
            expected[table.followers[at]] += DECAY**back * table.weights[at]
    expected[out[(out >= 0) & (out < count)]] = 0
    numbers, scores = found[0]
    assert np.allclose(scores, expected[numbers], rtol=1e-5)
    assert len(numbers) == min(k, np.count_nonzero(expected))
    assert np.allclose(np.sort(expected)[::-1][: len(scores)], scores, rtol=1e-5)
    _same(*found)


def test_the_popular_list_is_kept_for_its_conditions_until_the_catalogue_changes() -> None:
    own = Popular(PopularList(np.array([4, 2, 9, 1]), np.array([5, 4, 4, 1], np.float32)))
    allowed = np.ones(10, np.bool_)
    allowed[2] = False
    eligible = _eligible(10, allowed=allowed, out=np.array([4]))
    assert own.find(RED, 3, eligible)[0].tolist() == [9, 1]
    assert own.find((), 3, _eligible(10))[0].tolist() == [4, 2, 9]
    assert own.find(RED, 3, _eligible(10, allowed=allowed))[0].tolist() == [4, 9, 1]
    assert (own.hits, own.misses) == (1, 2)
    eligible.items.put(np.array([9]), alive=False)
    own.forget()
    assert own.find(RED, 3, eligible)[0].tolist() == [1]


def test_a_late_source_is_left_out_and_not_asked_again_before_it_is_done() -> None:
    asker: Asker[int] = Asker({"slow": 20.0, "quick": 5_000.0}, 1)
    done = []

    def slow() -> int:
        time.sleep(0.3)
        done.append(1)
        return 1

    def ask() -> dict[str, int | None]:
        answers = asker.ask({"slow": slow, "quick": lambda: 2, "plain": lambda: 3})
        return {kind: answer.value for kind, answer in answers.items()}

    assert ask() == {"slow": None, "quick": 2, "plain": 3}
    start = time.perf_counter()
    assert ask() == {"slow": None, "quick": 2, "plain": 3}
    assert time.perf_counter() - start < 0.2
    assert asker.late == {"slow": 2, "quick": 0}
    asker.settle()
    assert done == [1]


@pytest.fixture(scope="module")
def options() -> RetrievalOptions:
    quotas = {"item_to_item": 0.3, "trending": 0.2, "fresh": 0.2}
    return RetrievalOptions(quotas=quotas, popular_share=0.1)


def test_every_source_that_the_quotas_name_brings_its_share(
    tiny_release: Path, options: RetrievalOptions
) -> None:
    core = RetrievalCore.load(Release.open(tiny_release), config=options)
    user = UserContext(items=np.array([3, 40, 17]), times=np.zeros(3, np.int64))
    (result,) = core.run([RetrieveEntry(user=user, k=100, explain=True)])
    assert isinstance(result, RetrieveResult)
    assert result.coverage == 1.0
    counts = np.bincount(result.candidates.sources, minlength=9)
    for source in (Source.TWO_TOWER, Source.ITEM_TO_ITEM, Source.TRENDING, Source.FRESH):
        assert counts[source], source
    assert counts[Source.TWO_TOWER] >= 90 / 1.7 - 2
    kinds = ("two_tower", "item_to_item", "trending", "fresh")
    assert set(result.timings) == {
        "two_tower_encode",
        "fuse",
        *(f"{kind}_search" for kind in kinds),
    }
    # Whoever brought it is among those that found it, and every score is the models'.
    for row, source in enumerate(result.candidates.sources.tolist()):
        assert np.isfinite(result.found_by[source][row])
    scores = core.score([user], result.candidates.numbers[None])[0]
    assert np.array_equal(scores, result.candidates.scores)
    assert set(result.found_by) == {
        Source.TWO_TOWER, Source.ITEM_TO_ITEM, Source.TRENDING, Source.FRESH, Source.POPULAR,
    }  # fmt: skip


def test_live_events_trend_at_once(tiny_release: Path) -> None:
    release = Release.open(tiny_release)
    config = RetrievalOptions(quotas={"trending": 1.0}, popular_share=0.0)
    core = RetrievalCore.load(release, config=config)
    end = int(release.info["data_end_micros"])
    number = int(np.flatnonzero(~np.isin(np.arange(500), core._popular.numbers[:100]))[0])
    events = np.array([[number, end + HOUR_MICROS * 24]] * 400)
    core.add_events(events)
    user = UserContext(items=np.array([3]), times=np.zeros(1, np.int64))
    (result,) = core.run([RetrieveEntry(user=user, k=10, explain=True)])
    assert isinstance(result, RetrieveResult)
    row = result.candidates.numbers.tolist().index(number)
    assert result.found_by[int(Source.TRENDING)][row] == result.found_by[Source.TRENDING].max(
        initial=-np.inf, where=~np.isnan(result.found_by[Source.TRENDING])
    )


def test_a_source_in_a_thread_of_its_own_answers_as_on_the_callers(
    tiny_release: Path, options: RetrievalOptions
) -> None:
    release = Release.open(tiny_release)
    limits = dict.fromkeys(("two_tower", "item_to_item", "fresh"), 60_000.0)
    plain = RetrievalCore.load(release, config=options)
    apart = RetrievalCore.load(release, config=replace(options, timeouts=limits))
    users = [UserContext(items=np.arange(n, n + 5), times=np.zeros(5, np.int64)) for n in range(6)]
    entries = [RetrieveEntry(user=user, k=80) for user in users]
    for one, other in zip(plain.run(entries), apart.run(entries), strict=True):
        assert isinstance(one, RetrieveResult)
        assert isinstance(other, RetrieveResult)
        assert np.array_equal(one.candidates.numbers, other.candidates.numbers)
        assert other.coverage == 1.0
        assert set(one.timings) == set(other.timings)


class Sleeper:
    """A list that is always late."""

    kind = "fresh"

    def find(self, entry: SearchEntry, k: int, eligible: Eligible) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(0.2)
        return NONE, np.empty(0, np.float32)

    def add_events(self, items: np.ndarray, times: np.ndarray) -> None:
        raise AssertionError("this list wants no events")

    def apply(self, changes: object) -> None:
        raise AssertionError("this list wants no changes")


def test_a_source_past_its_time_out_lowers_coverage_and_is_named(tiny_release: Path) -> None:
    release = Release.open(tiny_release)
    quotas = {"two_tower": 3.0, "fresh": 1.0}
    config = RetrievalOptions(quotas=quotas, timeouts={"fresh": 10.0})
    whole = RetrievalCore.load(release, config=config)
    late: ItemList = Sleeper()
    core = RetrievalCore(
        release=release.id,
        sources=whole.sources,
        popular=whole._popular,
        schema=whole._schema,
        users=whole._users,
        options=config,
        lists=[late],
    )
    user = UserContext(items=np.array([3]), times=np.zeros(1, np.int64))
    (result,) = core.run([RetrieveEntry(user=user, k=50)])
    assert isinstance(result, RetrieveResult)
    assert result.coverage == pytest.approx(0.75)
    assert len(result.candidates) == 50
    assert "fresh_late" in result.timings
    assert "fresh_search" not in result.timings
    assert core.counts["fresh_late"] == 1


def test_time_outs_and_half_lives_out_of_range_are_refused() -> None:
    for options, rule in (
        ({"timeouts": {"two_towers": 5.0}}, "timeouts must name .* got 'two_towers'"),
        ({"timeouts": {"fresh": 0.0}}, r"timeouts\.fresh must be above 0 and finite, got 0"),
        ({"trending_half_life_hours": 0.0}, "trending_half_life_hours must be above 0"),
    ):
        with pytest.raises(ConfigError, match=rule):
            RetrievalOptions(**options)
