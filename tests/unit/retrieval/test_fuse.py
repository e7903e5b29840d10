"""Fusion: every place is filled once, by turns of the shares, and nothing that can come is lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.errors import ConfigError
from corerec.retrieval.fuse import Fused, fuse, plain_fuse, turns
from corerec.retrieval.fuse_kernel import among, drawn_scores, first_outside
from corerec.retrieval.options import RetrievalOptions, shares_of
from corerec.retrieval.owned import Eligible, OwnItems
from corerec.stages import Source

ITEMS = 60
NUMBERS = st.integers(-3, 40) | st.integers(1 - 2**63, 2**63 - 1)
MARKS = (Source.TWO_TOWER, Source.BERT4REC, Source.MATRIX_FACTORIZATION)


def _fuse(
    lists: list[list[int]],
    k: int,
    *,
    shares: tuple[float, ...],
    popular: list[int] | None = None,
    places: int = 0,
    seen: list[int] | None = None,
    by: Callable[..., Fused] = fuse,
) -> Fused:
    padded = np.full((len(lists), k), -1, np.int64)
    for row, own in enumerate(lists):
        padded[row, : len(own)] = own
    return by(
        padded,
        turns(k, shares, tuple(int(mark) for mark in MARKS[: len(lists)])),
        popular=np.array([n for n in popular or [] if n not in (seen or [])], np.int64),
        places=places,
    )


@st.composite
def _worlds(draw: st.DrawFn) -> dict[str, object]:
    k = draw(st.integers(1, 30))
    seen = draw(st.lists(st.integers(-2, ITEMS + 3), max_size=20))
    free = [n for n in range(ITEMS) if n not in seen]
    lists = [
        draw(st.permutations(free))[: draw(st.integers(0, k))]
        for _ in range(draw(st.integers(1, 3)))
    ]
    weights = [draw(st.floats(0.05, 5)) for _ in lists]
    popular = draw(st.permutations(range(ITEMS)))[: draw(st.integers(0, ITEMS))]
    places = draw(st.integers(0, k))
    shares = tuple(weight / sum(weights) for weight in weights)
    return {
        "lists": lists, "k": k, "shares": shares,
        "popular": popular, "places": places, "seen": seen,
    }  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(_worlds())
def test_no_candidate_is_lost_or_comes_twice(world: dict) -> None:
    found = _fuse(**world)
    numbers, k, seen = found.numbers.tolist(), world["k"], set(world["seen"])
    assert len(set(numbers)) == len(numbers) == len(found.sources)
    assert not seen.intersection(numbers)
    brought = set().union(*map(set, world["lists"]))
    could = brought | {n for n in world["popular"] if n not in seen}
    filled = np.count_nonzero(found.sources == Source.POPULAR)
    assert filled <= world["places"]
    # As many come as there are, except what only the popular list could bring beyond its places.
    only = could - brought
    assert len(numbers) >= min(k, len(brought) + min(len(only), world["places"]))
    for number, source in zip(numbers, found.sources.tolist(), strict=True):
        if source == Source.POPULAR:
            assert number in world["popular"]
        else:
            assert number in world["lists"][MARKS.index(Source(source))]


@settings(max_examples=80, deadline=None)
@given(_worlds())
def test_what_a_source_brings_is_the_head_of_its_list(world: dict) -> None:
    found = _fuse(**world | {"places": 0})
    shown = set(found.numbers.tolist())
    for own in world["lists"]:
        missing = [place for place, number in enumerate(own) if number not in shown]
        if missing:  # everything before the first that is left out is there
            assert all(number in shown for number in own[: missing[0]])


@settings(max_examples=200, deadline=None)
@given(_worlds())
def test_the_compiled_loop_draws_what_the_definition_draws(world: dict) -> None:
    own, plain = _fuse(**world), _fuse(**world, by=plain_fuse)
    for fast, slow in zip(own, plain, strict=True):
        assert fast.tolist() == slow.tolist()
        assert fast.dtype == slow.dtype


@settings(max_examples=100, deadline=None)
@given(_worlds(), st.integers(0, 2**32 - 1))
def test_each_draw_has_the_score_of_its_place(world: dict, seed: int) -> None:
    found, k = _fuse(**world), world["k"]
    rng = np.random.default_rng(seed)
    for row, own in enumerate(world["lists"]):
        scores = rng.normal(size=len(own)).astype(np.float32)
        given_ = drawn_scores(found.at, row * k, scores)
        mine = found.at // k == row
        assert np.isnan(given_[~mine]).all()
        assert given_[mine].tolist() == scores[found.at[mine] - row * k].tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(NUMBERS, max_size=80), st.lists(NUMBERS, max_size=80), st.integers(0, 90))
def test_membership_is_that_of_numpy(numbers: list[int], others: list[int], most: int) -> None:
    own, other = np.array(numbers, np.int64), np.array(others, np.int64)
    other.flags.writeable = False  # as what came over a wire
    there = np.isin(own, other)
    assert among(own, other).tolist() == there.tolist()
    assert among(own[::2], other).tolist() == there[::2].tolist()
    assert first_outside(own, other, most).tolist() == np.flatnonzero(~there)[:most].tolist()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 30), max_size=40),
    st.lists(st.integers(-3, 60), max_size=20),
    st.none() | st.lists(st.booleans(), max_size=60),
    st.lists(st.integers(0, 20)),
    st.integers(0, 40),
)
def test_the_first_eligible_are_those_that_the_test_passes(
    rows: list[int], excluded: list[int], allowed: list[bool] | None, dead: list[int], most: int
) -> None:
    items = OwnItems(50, shard=1, shards=2)  # rows beyond 24 have no item
    items.put(np.array(dead, np.int64) * 2 + 1, alive=False)
    mask = None if allowed is None else np.array(allowed, np.bool_)
    own = Eligible(items=items, allowed=mask, excluded=np.array(excluded, np.int64))
    numbers = np.array(rows, np.int64) * 2 + 1
    passed = np.flatnonzero(own.test(numbers))
    assert own.first(numbers, most).tolist() == passed[:most].tolist()


def test_disjoint_sources_get_their_shares() -> None:
    lists = [list(range(0, 10)), list(range(20, 30)), list(range(40, 50))]
    found = _fuse(lists, 10, shares=(0.6, 0.3, 0.1))
    counts = [int((found.sources == mark).sum()) for mark in MARKS]
    assert counts == [6, 3, 1]
    assert found.numbers[0] == 0


def test_what_is_brought_twice_keeps_its_first_source_and_frees_a_place() -> None:
    found = _fuse([[1, 2, 3, 4], [1, 2, 5, 6]], 4, shares=(0.5, 0.5))
    assert found.numbers.tolist() == [1, 2, 3, 5]
    assert found.sources.tolist() == [1, 1, 1, 4]


def test_an_empty_source_leaves_its_places_to_the_others() -> None:
    found = _fuse([[], list(range(10))], 10, shares=(0.9, 0.1))
    assert found.numbers.tolist() == list(range(10))


def test_popular_items_take_their_places_from_the_end_of_the_turns() -> None:
    found = _fuse([[0, 1, 2, 3]], 4, shares=(1.0,), popular=[1, 9, 8], places=2, seen=[9])
    assert found.numbers.tolist() == [0, 1, 2, 8]
    assert found.sources.tolist() == [1, 1, 1, 2]


def test_quotas_are_weights_by_kind() -> None:
    kinds = ("two_tower", "bert4rec")
    assert shares_of(kinds, {}) == (0.5, 0.5)
    assert shares_of(kinds, {"two_tower": 3.0}) == (0.75, 0.25)
    with pytest.raises(ConfigError, match=r"quotas must name sources among .* got \['bert'\]"):
        shares_of(kinds, {"bert": 1.0})
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"quotas\.bert4rec must be above 0"):
            RetrievalOptions(quotas={"bert4rec": weight})
