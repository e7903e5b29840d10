"""The core: serving form against the plain model, order of answers, independence, bad entries."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranking_world import HOUR, ITEMS, START, World, write_release

from corerec.errors import InvalidArgument, Unavailable
from corerec.ranking.core import RankingCore
from corerec.ranking.folded import FoldedRanker
from corerec.ranking.prepare import PreparedExamples
from corerec.serving.core_metrics import CoreCollector
from corerec.stages import Candidates, RankEntry, RankResult, UserContext

NOW = START + 20 * HOUR


def candidates(numbers: np.ndarray) -> Candidates:
    count = len(numbers)
    return Candidates(
        numbers=numbers.astype(np.int64),
        scores=np.linspace(1, -1, count, dtype=np.float32),
        sources=np.where(np.arange(count) % 3 == 2, 2, 1).astype(np.uint8),
    )


def make_entry(seed: int, count: int = 20, history: int = 5, **more: object) -> RankEntry:
    rng = np.random.default_rng(seed)
    user = UserContext(
        user_id=f"user{seed}" if seed % 4 else "",
        attributes={"sex": "F", "age": "33", "shoe": "9"} if seed % 3 else {},
        items=rng.integers(0, ITEMS, history),
        times=NOW - np.arange(history, 0, -1) * HOUR,
        now=NOW if seed % 2 else 0,
    )
    numbers = rng.permutation(ITEMS)[:count]
    fields: dict[str, object] = {"user": user, "candidates": candidates(numbers), "k": ITEMS}
    return RankEntry(**{**fields, **more})


def ok(result: object) -> RankResult:
    assert isinstance(result, RankResult), result
    return result


def scores_by_item(result: object) -> dict[int, float]:
    found = ok(result).candidates
    return dict(zip(found.numbers.tolist(), found.scores.tolist(), strict=True))


@pytest.mark.parametrize("table_bytes", [1 << 30, 0])
def test_the_folded_form_equals_the_plain_model(either_world: World, table_bytes: int) -> None:
    world = either_world
    model, tables = world.model(), world.tables()
    prepared = PreparedExamples.compute(world.examples, tables, world.users, world.popularity)
    batch, pairs = prepared.batch(np.arange(len(prepared)))
    with torch.no_grad():
        plain = model(tables, batch, pairs)
        folded = FoldedRanker(model, tables, table_bytes)(batch, pairs)
    assert plain.std() > 0.1
    torch.testing.assert_close(folded, plain, rtol=1e-5, atol=1e-5)


def test_every_candidate_comes_back_once_best_first(core: RankingCore) -> None:
    entry = make_entry(1)
    found = ok(core.run([entry])[0]).candidates
    assert sorted(found.numbers) == sorted(entry.candidates.numbers)
    assert (np.diff(found.scores) <= 0).all()
    assert ((found.scores > 0) & (found.scores < 1)).all()
    sources = dict(zip(entry.candidates.numbers, entry.candidates.sources, strict=True))
    assert [sources[number] for number in found.numbers] == found.sources.tolist()
    assert found.scores.dtype == np.float32


def test_k_cuts_the_same_list(core: RankingCore) -> None:
    whole = ok(core.run([make_entry(1)])[0]).candidates
    cut = ok(core.run([make_entry(1, k=3)])[0]).candidates
    assert cut.numbers.tolist() == whole.numbers[:3].tolist()


def test_scores_do_not_depend_on_the_batch_or_on_other_candidates(core: RankingCore) -> None:
    entries = [
        make_entry(seed, count, history)
        for seed, (count, history) in enumerate(
            [(20, 5), (1, 0), (40, 30), (19, 8), (3, 1), (40, 2)]
        )
    ]
    together = core.run(entries)
    reversed_order = core.run(entries[::-1])[::-1]
    for entry, first, second in zip(entries, together, reversed_order, strict=True):
        alone = scores_by_item(core.run([entry])[0])
        assert scores_by_item(first) == pytest.approx(alone, abs=1e-6)
        assert scores_by_item(second) == pytest.approx(alone, abs=1e-6)
        one = replace(entry, candidates=entry.candidates.top(1))
        item = int(entry.candidates.numbers[0])
        assert scores_by_item(core.run([one])[0])[item] == pytest.approx(alone[item], abs=1e-6)


def test_no_entries_and_no_candidates_give_none(core: RankingCore) -> None:
    assert core.run([]) == []
    results = core.run([make_entry(1, count=0), make_entry(2)])
    assert len(ok(results[0]).candidates) == 0
    assert len(ok(results[1]).candidates) == 20


def test_strangers_and_unknown_history_are_ranked(core: RankingCore) -> None:
    stranger = replace(make_entry(1).user, user_id="never seen")
    newer = replace(
        stranger,
        items=np.append(stranger.items, [ITEMS, 10**12]),
        times=np.append(stranger.times, [NOW, NOW]),
    )
    none = UserContext()
    results = core.run([make_entry(1, user=user) for user in (stranger, newer, none)])
    assert scores_by_item(results[0]) == pytest.approx(scores_by_item(results[1]), abs=1e-6)
    assert np.isfinite(ok(results[2]).candidates.scores).all()


def test_a_released_core_scores_bit_for_bit_alike(world: World, tmp_path: Path) -> None:
    release = write_release(world, world.model(), tmp_path)
    entries = [make_entry(seed) for seed in range(4)]
    first = RankingCore.load(release, device="cpu").run(entries)
    second = RankingCore.load(release, device="cpu").run(entries)
    for a, b in zip(first, second, strict=True):
        assert ok(a).candidates.scores.tobytes() == ok(b).candidates.scores.tobytes()


def wrong_entries() -> dict[str, RankEntry]:
    good = make_entry(1)
    own = good.candidates
    nan, twice = own.scores.copy(), own.numbers.copy()
    nan[4], twice[3] = np.nan, twice[0]
    return {
        "k must be in [1, 2000], got 0": replace(good, k=0),
        "k must be in [1, 2000], got 2001": replace(good, k=2001),
        "scores must be finite, number 4 is nan": replace(
            good, candidates=replace(own, scores=nan)
        ),
        "item numbers must be >= 0, got -1": replace(
            good, candidates=replace(own, numbers=own.numbers - own.numbers.min() - 1)
        ),
        "must be there once": replace(good, candidates=replace(own, numbers=twice)),
        "candidates need 20 sources": replace(
            good, candidates=replace(own, sources=own.sources[1:])
        ),
        "as many times as items": replace(good, user=replace(good.user, times=good.user.times[1:])),
        "history must be at most 1000": replace(
            good, user=replace(good.user, items=np.zeros(1001, int), times=np.zeros(1001, int))
        ),
        "request time must be >= 0": replace(good, user=replace(good.user, now=-1)),
        "'age' must be a finite number": replace(
            good, user=replace(good.user, attributes={"age": "nan"})
        ),
    }


SEEN_BY_RUN = ("scores must be finite, number 4 is nan", "item numbers must be >= 0, got -1",
               "must be there once")  # fmt: skip
"""What is found as the candidates are read, not before they are queued."""


@pytest.mark.parametrize("message", wrong_entries())
def test_a_bad_entry_is_refused_and_its_neighbours_are_not(core: RankingCore, message: str) -> None:
    entry = wrong_entries()[message]
    if message not in SEEN_BY_RUN:
        with pytest.raises(InvalidArgument) as caught:
            core.check(entry)
        assert message in str(caught.value)
    results = core.run([make_entry(2), entry, make_entry(3)])
    assert isinstance(results[1], InvalidArgument)
    assert message in str(results[1])
    assert scores_by_item(results[2]) == pytest.approx(
        scores_by_item(core.run([make_entry(3)])[0]), abs=1e-6
    )


def test_a_score_that_is_not_finite_never_outranks_a_finite_one(
    world: World, tmp_path: Path
) -> None:
    core = RankingCore.load(write_release(world, world.model(), tmp_path), device="cpu")
    entry = make_entry(1, count=20)
    bad = set(entry.candidates.numbers[:5].tolist())
    assert core._ranker.table is not None
    for number, value in zip(sorted(bad), [np.nan, np.inf, -np.inf, np.nan, np.inf], strict=True):
        core._ranker.table[number] = value
    found = ok(core.run([entry])[0]).candidates
    assert set(found.numbers.tolist()) == set(entry.candidates.numbers.tolist()) - bad
    assert np.isfinite(found.scores).all()
    only = replace(entry, candidates=candidates(np.array(sorted(bad))))
    results = core.run([only, entry])
    assert isinstance(results[0], Unavailable)
    ok(results[1])


def test_it_warms_and_says_which_release_it_holds(core: RankingCore) -> None:
    core.warm()
    assert core.release == "test-release"
    assert core.device.type == "cpu"
    assert set(ok(core.run([make_entry(1)])[0]).timings) == {"features", "score"}


def test_look_ups_of_kept_users_are_a_metric(core: RankingCore) -> None:
    collector = CoreCollector()
    collector.watch(core)
    core.run([make_entry(1), make_entry(2)])
    core.run([make_entry(2), make_entry(3), make_entry(2)])
    found = {
        (sample.labels["cache"], sample.labels["outcome"]): sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.name == "corerec_cache_lookups_total"
    }
    assert found == {("ranking_users", "hit"): 2, ("ranking_users", "miss"): 3}


def test_threads_share_the_kept_users_and_take_turns(core: RankingCore) -> None:
    entries = [make_entry(seed) for seed in range(24)]
    expected = [ok(result) for result in core.run(entries)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda entry: ok(core.run([entry])[0]), entries * 5))
    for place, result in enumerate(found):
        wanted = expected[place % len(entries)].candidates
        np.testing.assert_array_equal(result.candidates.numbers, wanted.numbers)
        np.testing.assert_array_equal(result.candidates.scores, wanted.scores)
    assert core.counts == {"ranking_users_hits": 24 * 5, "ranking_users_misses": 24}


def test_a_device_that_is_not_there_is_refused(world: World, tmp_path: Path) -> None:
    release = write_release(world, world.model(), tmp_path)
    with pytest.raises(InvalidArgument, match="auto, cpu or cuda"):
        RankingCore.load(release, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidArgument, match="no CUDA device"):
            RankingCore.load(release, device="cuda")


@pytest.mark.gpu
def test_the_gpu_gives_the_scores_of_the_cpu(world: World, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    release = write_release(world, world.model(), tmp_path)
    entries = [make_entry(seed, count) for seed, count in enumerate((20, 1, 40, 17))]
    cpu = RankingCore.load(release, device="cpu").run(entries)
    gpu = RankingCore.load(release, device="cuda").run(entries)
    for a, b in zip(cpu, gpu, strict=True):
        assert scores_by_item(a) == pytest.approx(scores_by_item(b), abs=1e-5)
