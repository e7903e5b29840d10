"""The rerank core: nothing is lost, nothing twice, and every rule does what it declares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from corerec.errors import ConfigError, InvalidArgument, ReleaseError
from corerec.release import Catalogue, Release, ReleaseWriter
from corerec.rerank import (
    Block,
    Boosts,
    Caps,
    Diversity,
    Freshness,
    RerankCore,
    RerankRules,
)
from corerec.stages import Candidates, RerankEntry, RerankResult, Source

DAY = 86_400_000_000
NOW = 20_000 * DAY


def entry(numbers: list[int], k: int = 10, **more: object) -> RerankEntry:
    n = len(numbers)
    return RerankEntry(
        candidates=Candidates(
            numbers=np.array(numbers, np.int64),
            scores=np.linspace(0.9, 0.1, n, dtype=np.float32),
            sources=np.full(n, Source.TWO_TOWER, np.uint8),
        ),
        k=k,
        **more,
    )


@pytest.fixture(scope="session")
def make(catalogue: Catalogue, vectors: np.ndarray):
    def core(rules: RerankRules) -> RerankCore:
        return RerankCore(
            release="r1", catalogue=catalogue, vectors=vectors, rules=rules, data_end_micros=NOW
        )

    return core


def rerank(core: RerankCore, one: RerankEntry) -> RerankResult:
    (result,) = core.run([one])
    assert isinstance(result, RerankResult), result
    return result


def numbers_of(result: RerankResult) -> list[int]:
    return [item.number for item in result.items]


def test_without_rules_the_ranked_list_is_cut(make, catalogue: Catalogue) -> None:
    result = rerank(make(RerankRules()), entry([7, 3, 9, 1], k=3, explain=True))
    assert numbers_of(result) == [7, 3, 9]
    first, _, bare = result.items
    assert (first.item_id, first.title, first.category, first.creator) == (
        "i7",
        "Title 7",
        "c2",
        "r7",
    )
    assert (bare.category, bare.creator) == ("", "")
    assert (first.score, first.rank_score) == pytest.approx((0.9, 0.9))
    assert (first.source, first.rank_position, first.moves) == (Source.TWO_TOWER, 1, ())
    assert [(r.number, r.rule) for r in result.removed] == [(1, "cut")]
    assert set(result.timings) == {"rules", "record"}


def test_batches_of_none_one_and_candidates_of_none_one(make) -> None:
    core = make(RerankRules(diversity=Diversity(mmr_lambda=0.5), caps=Caps(per_category=1)))
    assert core.run([]) == []
    assert rerank(core, entry([], explain=True)).items == []
    assert numbers_of(rerank(core, entry([5]))) == [5]
    core.warm()
    assert core.release == "r1"


rules_strategy = st.builds(
    RerankRules,
    block=st.builds(
        Block,
        items=st.lists(st.sampled_from([f"i{i}" for i in range(70)]), max_size=4).map(tuple),
        categories=st.lists(st.sampled_from(["c0", "c1"]), max_size=1).map(tuple),
        creators=st.lists(st.sampled_from(["r2", "r3"]), max_size=1).map(tuple),
    ),
    pins=st.dictionaries(
        st.integers(0, 64).map(lambda i: f"i{i}"), st.integers(1, 14), max_size=4
    ).filter(lambda pins: len(set(pins.values())) == len(pins)),
    freshness=st.builds(Freshness, weight=st.sampled_from([0.0, 0.5])),
    boosts=st.builds(
        Boosts,
        categories=st.just({"c3": 2.0}) | st.just({}),
        creators=st.just({"r5": 0.5}) | st.just({}),
    ),
    diversity=st.builds(
        Diversity,
        method=st.sampled_from(["mmr", "dpp"]),
        mmr_lambda=st.sampled_from([0.0, 0.6, 1.0]),
        dpp_theta=st.sampled_from([0.0, 0.6, 1.0]),
    ),
    caps=st.builds(
        Caps,
        per_category=st.integers(0, 3),
        per_creator=st.integers(0, 2),
        relax_caps=st.booleans(),
    ),
)


@settings(max_examples=120, deadline=None)
@given(
    rules=rules_strategy,
    numbers=st.lists(st.integers(0, 59), unique=True, max_size=40),
    k=st.integers(1, 50),
)
def test_conservation_blocks_pins_and_caps_hold_for_all_rules(
    make, catalogue: Catalogue, rules: RerankRules, numbers: list[int], k: int
) -> None:
    core = make(rules)
    result = rerank(core, entry(numbers, k=k, explain=True))
    kept, gone = numbers_of(result), [r.number for r in result.removed]
    pins = {catalogue.number_of(item): p for item, p in rules.pins.items()}
    pins.pop(None, None)
    assert sorted(kept + gone) == sorted(set(numbers) | set(pins))

    blocked = {
        i
        for i in range(len(catalogue))
        if catalogue.ids[i] in rules.block.items
        or catalogue.categories[i] in rules.block.categories
        or catalogue.creators[i] in rules.block.creators
    }
    assert not blocked & set(kept)
    assert {r.number for r in result.removed if r.rule == "block"} == blocked & set(kept + gone)

    live = {i: p for i, p in pins.items() if i not in blocked}
    shown = {i: p for i, p in live.items() if p <= k}
    for number, position in shown.items():
        later = sum(p > position for p in shown.values())
        # At its place, or, in a list too short for that, behind all but later pins.
        assert kept.index(number) == min(position, len(kept) - later) - 1

    allowed = len(set(numbers) - blocked - set(live)) + len(shown)
    capped = rules.caps.per_category or rules.caps.per_creator
    if not capped or rules.caps.relax_caps:
        assert len(kept) == min(k, allowed)
    else:
        for cap, names in (
            (rules.caps.per_category, catalogue.categories),
            (rules.caps.per_creator, catalogue.creators),
        ):
            for name in {names[i] for i in kept} - {""} if cap else ():
                members = [i for i in kept if names[i] == name]
                assert len(members) <= max(cap, sum(i in shown for i in members))
    for item in result.items:
        assert item.score == pytest.approx(
            item.rank_score + sum(move.score_change for move in item.moves), abs=1e-6
        )
        order = ["pin", "freshness", "boost", "diversity", "cap"]
        places = [order.index(move.rule) for move in item.moves]
        assert places == sorted(places)
    quiet = rerank(core, entry(numbers, k=k))
    assert (list(quiet.items), list(quiet.removed)) == (list(result.items), [])


def test_one_kind_of_cap_never_costs_an_item_that_was_allowed(make, catalogue: Catalogue) -> None:
    core = make(RerankRules(caps=Caps(per_category=2)))
    result = rerank(core, entry(list(range(60)), k=40, explain=True))
    # Five categories of two, and the six items without one.
    assert len(result.items) == 16
    assert {r.rule for r in result.removed} == {"cap"}
    assert "category 'c0' may have 2" in result.removed[0].note


def test_relaxed_caps_fill_the_list_and_say_so(make) -> None:
    core = make(RerankRules(caps=Caps(per_category=1, relax_caps=True)))
    result = rerank(core, entry([0, 5, 10, 1], k=4))
    assert numbers_of(result) == [0, 1, 5, 10]
    assert [[m.rule for m in item.moves] for item in result.items] == [
        [],
        ["cap"],
        ["cap"],
        ["cap"],
    ]
    assert result.items[1].moves[0].note == "up 2: better ones were over their cap"
    assert "relax_caps" in result.items[2].moves[0].note


def test_a_pin_comes_from_outside_the_list_and_moves_what_is_in_it(make) -> None:
    core = make(RerankRules(pins={"i40": 2, "i3": 1, "i50": 9}, block=Block(items=("i50",))))
    result = rerank(core, entry([1, 2, 3, 4], k=3, explain=True))
    assert numbers_of(result) == [3, 40, 1]
    third, outside = result.items[0], result.items[1]
    assert (third.rank_position, third.source) == (3, Source.TWO_TOWER)
    assert third.moves[0].note == "pinned to position 1; ranking had it at 3"
    assert (outside.rank_position, outside.source, outside.rank_score) == (0, Source.PINNED, 0.0)
    assert {(r.number, r.rule) for r in result.removed} == {
        (2, "cut"),
        (4, "cut"),
        (50, "block"),
    }
    beyond = rerank(make(RerankRules(pins={"i1": 9})), entry([1, 2, 3], k=2, explain=True))
    assert numbers_of(beyond) == [2, 3]
    assert [(r.number, r.rule) for r in beyond.removed] == [(1, "cut")]


def test_one_half_life_gives_exactly_half_the_freshness(make) -> None:
    core = make(RerankRules(freshness=Freshness(half_life_days=10.0, weight=1.0)))
    result = rerank(core, entry([0, 10, 20, 19], k=4))
    by_number = {item.number: item for item in result.items}
    for number, factor in ((0, 2.0), (10, 1.5), (20, 1.25)):
        item = by_number[number]
        assert item.score == item.rank_score * factor
        assert [move.rule for move in item.moves] == ["freshness"]
    assert by_number[10].moves[0].note == "10.0 days old: x 1.5"
    assert by_number[19].moves == ()  # birth unknown: neutral
    later = rerank(core, entry([0], now=NOW + 10 * DAY))
    assert later.items[0].score == later.items[0].rank_score * 1.5


def test_boosts_multiply_and_reorder(make) -> None:
    core = make(RerankRules(boosts=Boosts(categories={"c1": 4.0}, creators={"r1": 0.5})))
    result = rerank(core, entry([0, 2, 1], k=3))
    item = next(item for item in result.items if item.number == 1)
    assert item.score == pytest.approx(item.rank_score * 2)
    assert [(m.rule, m.note) for m in item.moves] == [
        ("boost", "category 'c1': x 4"),
        ("boost", "creator 'r1': x 0.5"),
    ]
    assert numbers_of(rerank(core, entry([0, 11, 2], k=2))) == [11, 0]


def test_diversity_says_what_it_moved_and_what_it_left_out(catalogue: Catalogue) -> None:
    vectors = np.zeros((60, 2), np.float32)
    vectors[:, 0] = 1
    vectors[3] = [0, 1]
    core = RerankCore(
        release="r1",
        catalogue=catalogue,
        vectors=vectors,
        rules=RerankRules(diversity=Diversity(mmr_lambda=0.5)),
    )
    result = rerank(core, entry([1, 2, 3, 4], k=2, explain=True))
    assert numbers_of(result) == [1, 3]
    assert result.items[0].moves == ()
    (move,) = result.items[1].moves
    assert (move.rule, move.score_change) == ("diversity", 0.0)
    assert move.note == "up 1: likeness to 'Title 1' 0.00"
    assert [(r.number, r.rule) for r in result.removed] == [(2, "diversity"), (4, "cut")]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (entry([1], k=0), r"k must be in \[1, 500\], got 0"),
        (entry([1], k=-1), "got -1"),
        (entry([1], k=501), "got 501"),
        (entry([1], k=2**31 - 1), "got 2147483647"),
        (entry([1], now=-1), "request_time_micros must be >= 0, got -1"),
        (entry([1, 1_000_060]), r"item numbers must be in \[0, 1000060\), got 1000060"),
        (entry([-1, 2]), "got -1"),
        (entry([4, 5, 4]), "item numbers must be given once, got 4 twice"),
        (entry(list(range(60)) * 167), "candidates must be at most 10000, got 10020"),
    ],
)
def test_a_broken_entry_is_an_error_in_its_place(make, bad: RerankEntry, text: str) -> None:
    core = make(RerankRules())
    with pytest.raises(InvalidArgument, match=text):
        core.check(bad)
    before, error, after = core.run([entry([1]), bad, entry([2])])
    assert isinstance(error, InvalidArgument)
    assert numbers_of(before) == [1]
    assert numbers_of(after) == [2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(make, value: float) -> None:
    one = entry([1, 2, 3])
    one.candidates.scores[1] = value
    with pytest.raises(InvalidArgument, match=r"scores must be finite, got .* in place 1"):
        make(RerankRules()).check(one)
    short = replace(one.candidates, scores=one.candidates.scores[:2])
    with pytest.raises(InvalidArgument, match="equally long, got 3 item numbers, 2 scores and 3"):
        make(RerankRules()).check(replace(one, candidates=short))


def _release(
    out: Path, catalogue: Catalogue, rules: str, vectors: np.ndarray, info: dict | None = None
) -> Release:
    with ReleaseWriter(out) as writer:
        catalogue._items.write_parquet(writer.path("catalogue.parquet"))
        writer.path("rules.toml").write_text(rules)
        save_file({"vectors": vectors}, writer.path("item_vectors.safetensors"))
        return Release.open(writer.commit(info or {"data_end_micros": NOW}))


def test_a_core_loads_from_a_release(tmp_path: Path, catalogue, vectors) -> None:
    release = _release(
        tmp_path, catalogue, '[diversity]\nmmr_lambda = 0.5\n[pins]\n"x" = 1', vectors
    )
    core = RerankCore.load(release)
    assert core.release == release.id
    assert core.rules.diversity.mmr_lambda == 0.5
    assert core.warnings == ("pins: the catalogue has no item 'x'",)
    assert len(rerank(core, entry([1, 2, 3])).items) == 3
    assert RerankCore.load(release, rules=RerankRules()).rules == RerankRules()


def test_data_without_times_leaves_freshness_unknown(tmp_path, catalogue, vectors) -> None:
    rules = "[freshness]\nweight = 1.0"
    info = {"data_end_micros": 500, "has_times": False}
    core = RerankCore.load(_release(tmp_path, catalogue, rules, vectors, info))
    assert rerank(core, entry([0])).items[0].moves == ()
    assert rerank(core, entry([0], now=NOW)).items[0].moves[0].rule == "freshness"


def test_a_release_with_wrong_rules_or_vectors_does_not_load(
    tmp_path: Path, catalogue, vectors
) -> None:
    with pytest.raises(ConfigError, match=r"rules\.toml:2: diversity\.mmr_lambda"):
        RerankCore.load(_release(tmp_path, catalogue, "[diversity]\nmmr_lambda = 7", vectors))
    on = "[diversity]\nmmr_lambda = 0.5"
    bad = vectors.copy()
    bad[3, 0] = np.nan
    for wrong, text in (
        (vectors[:5], r"item_vectors\.safetensors: vectors must be float32 of shape \(60, D\)"),
        (vectors.astype(np.float64), "float64"),
        (bad, "must be finite, row 3 is not"),
    ):
        with pytest.raises(ReleaseError, match=text):
            RerankCore.load(_release(tmp_path, catalogue, on, np.ascontiguousarray(wrong)))
