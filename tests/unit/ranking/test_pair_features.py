"""The features against definitions written out case by case, and training against serving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ranking_world import HOUR, ITEMS, World

from corerec.errors import InvalidArgument
from corerec.features import PopularityTimeline, UserIndex
from corerec.ranking.examples import RankingExamples
from corerec.ranking.features import (
    LAG_DECAY,
    MAX_AGE_DAYS,
    NEWEST,
    RECENT,
    TRANSITION_SCALE,
    newest_history,
    pair_features,
    pair_names,
    user_dense,
)
from corerec.ranking.prepare import PreparedExamples, make_batch
from corerec.ranking.tables import Scratch


def prepare(world: World, examples: RankingExamples | None = None) -> PreparedExamples:
    return PreparedExamples.compute(
        examples or world.examples, world.tables(), world.users, world.popularity
    )


def test_every_feature_equals_its_definition(world: World) -> None:
    prepared, examples = prepare(world), world.examples
    for case, column in ((0, 0), (7, 3), (50, 1), (119, 6)):
        got = dict(
            zip(pair_names(world.schema), prepared.pairs[case, :, column].tolist(), strict=True)
        )
        expected = by_hand(world, examples, case, column)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def by_hand(world: World, examples: RankingExamples, case: int, column: int) -> dict[str, float]:
    item = int(examples.candidates[case, column])
    history = [int(i) for i in examples.history[case] if i >= 0]
    now = int(examples.now[case])
    known = bool(examples.retrieved[case, column])
    total, recent = world.popularity.counts(np.array([item]), np.array([now]))
    born = int(world.items.born_micros[item])
    age = min(max(now - born, 0) / (24 * HOUR), MAX_AGE_DAYS)
    vectors, newest = world.tower, history[-RECENT:]
    decayed = [LAG_DECAY**lag for lag in range(len(newest))][::-1]
    centre = sum(w * vectors[i] for w, i in zip(decayed, newest, strict=True))
    mean = vectors[history].sum(axis=0)
    table = world.transitions

    def follows(source: int) -> float:
        own = slice(table.starts[source], table.starts[source + 1])
        return float(table.weights[own][table.followers[own] == item].sum())

    out = {
        "retrieval_score": float(examples.retrieval_scores[case, column]) if known else 0.0,
        "retrieved": float(known),
        "popularity": np.log1p(total[0]),
        "recent_popularity": np.log1p(recent[0]),
        "age": np.log1p(age) / np.log1p(MAX_AGE_DAYS) if born >= 0 else 0.0,
        "age_known": float(born >= 0),
        "similar_to_last": float(vectors[item] @ vectors[history[-1]]),
        "most_similar": float((vectors[newest] @ vectors[item]).max()),
        "similar_to_recent": float(vectors[item] @ centre / np.linalg.norm(centre)),
        "similar_to_history": float(vectors[item] @ mean / np.linalg.norm(mean)),
        "follows_last": np.log1p(TRANSITION_SCALE * follows(history[-1])),
        "follows_recent": np.log1p(
            TRANSITION_SCALE * sum(w * follows(i) for w, i in zip(decayed, newest, strict=True))
        ),
    }
    for place, name in enumerate(("category", "creator")):
        code = world.items.categorical[item, place]
        for span, kind in ((history, "match"), (history[-NEWEST:], "match_newest")):
            same = [world.items.categorical[i, place] == code and code > 0 for i in span]
            out[f"{name}_{kind}"] = float(np.mean(same))
    tags = [t for t in world.items.multi[item, 0] if t > 0]
    for span, kind in ((history, "match"), (history[-NEWEST:], "match_newest")):
        shares = [sum(int((world.items.multi[i, 0] == t).sum()) for i in span) for t in tags]
        out[f"tags_{kind}"] = sum(shares) / len(span) / len(tags) if tags else 0.0
    return out


def test_serving_computes_what_training_computed(either_world: World) -> None:
    """The same case through serving's path: ragged histories, ids, attributes as texts."""
    world = either_world
    examples = world.examples.take(np.arange(5))
    prepared = prepare(world, examples)
    ids = [world.user_ids[row - 1] for row in examples.user_row]
    attributes = [
        {"sex": sex, "age": str(20 + row - 1)} if sex else {"age": str(20 + row - 1)}
        for row, sex in zip(examples.user_row, ["F", "M", None, "F", "M"], strict=True)
    ]
    # The store holds more history than the schema looks at, and items that are not known here.
    older = [np.concatenate([[3, 3, 3], own, [ITEMS + 5]]) for own in examples.history]
    times = [np.concatenate([[1, 2, 3], own, [own[-1]]]) for own in examples.history_times]
    history, when = newest_history(world.schema, older, times)
    np.testing.assert_array_equal(history, examples.history)
    users = world.schema.encode_users(ids, attributes, UserIndex(world.user_ids))
    dense = user_dense(world.schema, users, history, when, examples.now)
    np.testing.assert_array_equal(dense, prepared.user_numbers)
    counts = np.stack(world.popularity.counts(examples.candidates, examples.now[:, None]))
    batch = make_batch(
        world.tables(),
        users,
        dense,
        history,
        examples.now,
        examples.candidates,
        examples.retrieval_scores,
        examples.retrieved,
        torch.from_numpy(counts),
    )
    served = pair_features(world.tables(), batch, Scratch())
    torch.testing.assert_close(served, prepared.pairs.transpose(0, 1), rtol=1e-6, atol=1e-6)
    trained, _ = prepared.batch(np.arange(5))
    for name in ("user_row", "user_categorical", "user_dense", "history", "now"):
        assert torch.equal(getattr(batch, name), getattr(trained, name)), name


def test_nothing_after_the_moment_changes_a_feature(world: World) -> None:
    _, items, times = world.events
    early = times < world.examples.now.min()
    later = np.arange(2_000) % ITEMS
    base = PopularityTimeline(items[early], times[early], ITEMS)
    flooded = PopularityTimeline(
        np.concatenate([items[early], later]),
        np.concatenate([times[early], np.full(2_000, world.examples.now.max())]),
        ITEMS,
    )
    first = prepare(replace(world, popularity=base)).pairs
    second = prepare(replace(world, popularity=flooded)).pairs
    assert torch.equal(first, second)


def test_an_empty_history_gives_finite_features_and_no_likeness(either_world: World) -> None:
    world = either_world
    own = world.examples.take(np.arange(3))
    empty = RankingExamples(
        user_row=np.zeros(3, np.int64),
        history=np.full_like(own.history, -1),
        history_times=np.full_like(own.history, -1),
        now=own.now,
        candidates=own.candidates,
        retrieval_scores=own.retrieval_scores,
        retrieved=own.retrieved,
    )
    prepared = prepare(world, empty)
    names = pair_names(world.schema)
    for name in names:
        if "similar" in name or "match" in name or "follows" in name:
            assert not prepared.pairs[:, names.index(name)].any(), name
    batch, pairs = prepared.batch(np.arange(3))
    assert torch.isfinite(world.model()(world.tables(), batch, pairs)).all()


def test_scratch_is_clean_after_every_join() -> None:
    scratch, rng = Scratch(), np.random.default_rng(0)
    for _ in range(3):
        cases = torch.from_numpy(np.sort(rng.integers(0, 4, 30)))
        codes = torch.from_numpy(rng.integers(0, 9, 30))
        weights = torch.from_numpy(rng.random((2, 30), np.float32))
        asked = torch.from_numpy(rng.integers(0, 9, (4, 5, 2)))
        got = scratch.join(cases, codes, weights, asked, 9)
        for s, case, n, k in np.ndindex(2, 4, 5, 2):
            same = (cases == case) & (codes == asked[case, n, k])
            assert float(got[s, case, n, k]) == pytest.approx(float(weights[s][same].sum()))


def test_broken_cases_are_refused(world: World) -> None:
    good = world.examples.take(np.arange(2))
    fields = {name: getattr(good, name) for name in good.__dataclass_fields__}

    def changed(**values: object) -> RankingExamples:
        return RankingExamples(**{**fields, **values})

    with pytest.raises(InvalidArgument, match=r"candidates must be in \[0, 40\)"):
        prepare(world, changed(candidates=good.candidates + ITEMS))
    with pytest.raises(InvalidArgument, match="user_row must be in"):
        prepare(world, changed(user_row=good.user_row + 1000))
    with pytest.raises(InvalidArgument, match="not be later"):
        prepare(world, changed(now=good.now - 100 * HOUR))
    nan = np.full_like(good.retrieval_scores, np.nan)
    with pytest.raises(InvalidArgument, match="must be finite where retrieved"):
        changed(retrieval_scores=nan, retrieved=np.ones_like(good.retrieved))
    with pytest.raises(InvalidArgument, match="must have shape"):
        changed(retrieval_scores=good.retrieval_scores[:, 1:])
