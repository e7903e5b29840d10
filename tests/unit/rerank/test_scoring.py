"""Block list, pins, freshness and boosts, compiled against their plain twin; the core with both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.release import Catalogue
from corerec.rerank import (
    Block,
    Boosts,
    Caps,
    Diversity,
    Freshness,
    RerankCore,
    RerankRules,
    plain,
)
from corerec.rerank import core as core_module
from corerec.rerank.applying import apply
from corerec.rerank.check import largest_number
from corerec.rerank.compiled import DAY_MICROS
from corerec.rerank.scoring import Scored, score
from corerec.stages import Candidates, RerankEntry, RerankResult, Source

NOW = 20_000 * DAY_MICROS
ITEMS = 60


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 50),
    pinned=st.integers(0, 3),
    now=st.sampled_from([0, NOW]),
    weight=st.sampled_from([0.0, 0.5, 10.0]),
    low=st.sampled_from([0.0, -1.0]),
)
def test_the_compiled_scores_are_those_of_their_plain_twin(
    seed: int, n: int, pinned: int, now: int, weight: float, low: float
) -> None:
    rng = np.random.default_rng(seed)
    factors = np.append(rng.uniform(0.1, 3, 5), 1.0)
    arguments = (
        rng.permutation(ITEMS)[:n],
        np.sort(rng.uniform(low, 1, n).astype(np.float32))[::-1].astype(np.float64),
        rng.permutation(ITEMS)[:pinned],
        rng.random(ITEMS) < 0.2,
        rng.random(ITEMS) < 0.1,
        np.where(rng.random(ITEMS) < 0.2, -1, NOW - rng.integers(-9, 400, ITEMS) * DAY_MICROS),
        now,
        weight,
        30.0 * DAY_MICROS,
        rng.integers(-1, 5, ITEMS).astype(np.int32),
        factors,
        rng.integers(-1, 5, ITEMS).astype(np.int32),
        factors[::-1].copy() if seed % 2 else np.ones(6),
    )
    if seed % 2:
        arguments[-1][-1] = 1.0
    compiled, twin = Scored(*score(*arguments)), plain.score(*arguments)
    np.testing.assert_allclose(compiled.scores, twin.scores, rtol=1e-12)
    np.testing.assert_allclose(compiled.factors, twin.factors, rtol=1e-12)
    assert compiled.blocked.tolist() == twin.blocked.tolist()
    assert compiled.order.tolist() == twin.order.tolist()


def test_one_half_life_gives_exactly_half_and_ten_are_the_last() -> None:
    ages = np.array([0, 30, 60, 300, 301, -5]) * DAY_MICROS
    found = Scored(
        *score(
            np.arange(7),
            np.ones(7),
            np.empty(0, np.int64),
            np.zeros(7, bool),
            np.zeros(7, bool),
            np.append(NOW - ages, -1),
            NOW,
            1.0,
            30.0 * DAY_MICROS,
            np.full(7, -1, np.int32),
            np.ones(1),
            np.full(7, -1, np.int32),
            np.ones(1),
        )
    )
    assert found.scores.tolist() == [2.0, 1.5, 1.25, 1 + 2.0**-10, 1.0, 2.0, 1.0]


@settings(max_examples=300, deadline=None)
@given(
    numbers=st.lists(st.integers(-1, 40) | st.integers(-1, 40).map(lambda i: i << 20), max_size=60),
    bad=st.sampled_from([None, np.nan, np.inf, -np.inf]),
)
def test_the_largest_number_is_told_only_of_sound_columns(
    numbers: list[int], bad: float | None
) -> None:
    limit, scores = 1 << 25, np.zeros(len(numbers))
    if bad is not None and numbers:
        scores[len(numbers) // 2] = bad
    sound = len(set(numbers)) == len(numbers) and np.isfinite(scores).all()
    sound = sound and all(0 <= number < limit for number in numbers)
    found = largest_number(np.array(numbers, np.int64), scores, limit)
    assert found == (max(numbers, default=-1) if sound else -2)


def make(catalogue: Catalogue, vectors: np.ndarray, method: str) -> RerankCore:
    rules = RerankRules(
        block=Block(items=("i3",), categories=("c4",)),
        pins={"i7": 2, "i50": 5},
        freshness=Freshness(half_life_days=10, weight=0.5),
        boosts=Boosts(categories={"c1": 1.5}, creators={"r2": 0.5}),
        diversity=Diversity(method=method, mmr_lambda=0.6, dpp_theta=0.6),  # type: ignore[arg-type]
        caps=Caps(per_category=4, per_creator=2, relax_caps=True),
    )
    return RerankCore(
        release="r1", catalogue=catalogue, vectors=vectors, rules=rules, data_end_micros=NOW
    )


def make_entries(count: int) -> list[RerankEntry]:
    rng, entries = np.random.default_rng(4), []
    for turn in range(count):
        n = int(rng.integers(0, ITEMS))
        columns = [
            rng.permutation(ITEMS)[:n].astype(np.int64),
            np.sort(rng.random(n, np.float32))[::-1].copy(),
            np.full(n, Source.TWO_TOWER, np.uint8),
        ]
        if turn % 2:  # as they come over a wire
            columns = [np.frombuffer(c.tobytes(), c.dtype) for c in columns]
        numbers, scores, sources = columns
        candidates = Candidates(numbers=numbers, scores=scores, sources=sources)
        k = int(rng.integers(1, 30))
        entries.append(RerankEntry(candidates=candidates, k=k, explain=turn % 3 == 0))
    return entries


def told(result: object) -> list[object]:
    """Return all that a result says but times; scores, whose last bit may differ, to 1e-9."""
    assert isinstance(result, RerankResult), result
    items = [
        item._replace(
            score=round(item.score, 9),
            moves=tuple(m._replace(score_change=round(m.score_change, 9)) for m in item.moves),
        )
        for item in result.items
    ]
    return [items, list(result.removed)]


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_the_core_reranks_as_it_does_with_the_plain_twins(
    catalogue: Catalogue, vectors: np.ndarray, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, entries = make(catalogue, vectors, method), make_entries(60)
    fast = core.run(entries)
    monkeypatch.setattr(core_module, "apply", plain.apply)
    for quick, slow in zip(fast, core.run(entries), strict=True):
        assert told(quick) == told(slow)
    monkeypatch.undo()
    for quick, alone in zip(fast, [core.run([one])[0] for one in entries], strict=True):
        assert told(quick) == told(alone)


def test_warming_compiles_all_that_requests_run(catalogue: Catalogue, vectors: np.ndarray) -> None:
    for diversity in (
        Diversity(),
        Diversity(mmr_lambda=0.5),
        Diversity(method="dpp", dpp_theta=0.5),
    ):
        core = RerankCore(
            release="r1",
            catalogue=catalogue,
            vectors=vectors if diversity.on else None,
            rules=RerankRules(pins={"i1": 2}, diversity=diversity, caps=Caps(per_creator=1)),
        )
        core.warm()
        core.run(make_entries(20))
    # One type each: nothing is compiled when a request comes.
    assert len(apply.signatures) == len(largest_number.signatures) == 1  # type: ignore[attr-defined]
