"""The precision gate: a model that bf16 ruins is refused, one that it does not is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ranking_world import ITEMS, World, write_release
from test_ranking_core import candidates, make_entry, ok, scores_by_item

from corerec.errors import ConfigError, FailedPrecondition
from corerec.pipelines import precision as precision_module
from corerec.pipelines.precision import PrecisionConfig, Ranked, compare, measure_precisions, rank
from corerec.ranking import core as core_module
from corerec.ranking.core import RankingCore
from corerec.ranking.gate import FILE, PrecisionLimits, PrecisionReport
from corerec.ranking.model import RankingModel
from corerec.ranking.precision import PRECISIONS, Precision
from corerec.ranking.tiles import has_amx
from corerec.stages import RankEntry, RetrieveEntry, RetrieveResult, UserContext
from ranking_svc.config import RankingConfig
from ranking_svc.process import load

CASES = 80


class Everything:
    """Retrieval that finds all items of the world, each user in an order of its own."""

    def run(self, entries: Sequence[RetrieveEntry]) -> list[RetrieveResult]:
        return [
            RetrieveResult(
                candidates=candidates(np.random.default_rng(e.user.items).permutation(ITEMS))
            )
            for e in entries
        ]


def users() -> list[UserContext]:
    return [make_entry(seed).user for seed in range(CASES)]


def best_of(core: RankingCore) -> np.ndarray:
    """Return an item for each user that is often among its best: the one it is at, in fp32."""
    rng = np.random.default_rng(8)
    lists = core.run([make_entry(seed, count=ITEMS) for seed in range(CASES)])
    return np.array([ok(one).candidates.numbers[rng.integers(0, 6)] for one in lists])


def ruined(model: RankingModel) -> RankingModel:
    """Return a model whose first hidden layer is large and whose second takes that off again."""
    first, second = [layer for layer in model.dcn.deep if isinstance(layer, torch.nn.Linear)][:2]
    with torch.no_grad():
        first.bias.add_(3000)
        second.bias.sub_(3000 * second.weight.sum(1))
    return model


def report_of(core: RankingCore, config: PrecisionConfig | None = None) -> PrecisionReport:
    found = measure_precisions(
        core,
        Everything(),  # type: ignore[arg-type]
        users(),
        best_of(core),
        config or PrecisionConfig(),
    )
    assert found is not None
    return found


needs_tiles = pytest.mark.skipif(not has_amx(), reason="int8 is measured where AMX multiplies it")


@pytest.mark.parametrize("precision", ["bf16", pytest.param("int8", marks=needs_tiles)])
def test_a_good_precision_is_allowed_and_serves_within_what_was_recorded(
    world: World, tmp_path: Path, precision: Precision
) -> None:
    release = write_release(world, world.model(), tmp_path)
    exact = RankingCore.load(release, device="cpu", precision="fp32")
    report = report_of(exact)
    own = report.measured[precision]
    assert own.allowed, own
    assert 0 < own.max_score_deviation < 0.05
    assert -1e-3 <= own.expected_ndcg_change <= 0
    assert report.cases == CASES
    assert all(one.pairs_per_second > 0 for one in report.measured.values())
    report.save(release.file(FILE))
    assert PrecisionReport.load(release.file(FILE)) == report
    fast = RankingCore.load(release, device="cpu", precision=precision)
    entries = [make_entry(seed, count=ITEMS) for seed in range(CASES)]
    for one, other in zip(exact.run(entries), fast.run(entries), strict=True):
        told, served = scores_by_item(one), scores_by_item(other)
        worst = max(abs(told[item] - served[item]) for item in told)
        assert worst <= own.max_score_deviation + 0.01


def test_a_model_that_bf16_ruins_is_refused_at_release_and_at_load(
    world: World, tmp_path: Path
) -> None:
    release = write_release(world, ruined(world.model()), tmp_path)
    core = RankingCore.load(release, device="cpu", precision="fp32")
    assert np.std(list(scores_by_item(core.run([make_entry(3)])[0]).values())) > 0.01
    report = report_of(core)
    assert not any(own.allowed for name, own in report.measured.items() if name != "fp32")
    assert report.recommended == "fp32"
    report.save(release.file(FILE))
    assert RankingCore.load(release, device="cpu").run([make_entry(3)])
    with pytest.raises(FailedPrecondition, match=r"got 'bf16': it is over: max score deviation"):
        RankingCore.load(release, device="cpu", precision="bf16")


def test_a_machine_without_instructions_for_bf16_measures_it_all_the_same(
    core: RankingCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_module, "instructions_of", lambda device: frozenset())
    monkeypatch.setattr(precision_module, "instructions_of", lambda device: frozenset())
    report = report_of(core)
    assert 0 < report.measured["bf16"].max_score_deviation < 0.05
    assert report.instructions == ()
    assert "int8" not in report.measured  # its error is that of the tiles, too


def test_the_limits_are_those_of_the_configuration(core: RankingCore) -> None:
    tight = PrecisionLimits(score_deviation=1e-9)
    assert not report_of(core, PrecisionConfig(limits=tight)).measured["bf16"].allowed
    loose = PrecisionLimits(ndcg_loss=1, score_deviation=1, rank_overlap=0)
    assert report_of(core, PrecisionConfig(limits=loose)).measured["bf16"].allowed
    with pytest.raises(ConfigError, match="ndcg_loss must be in"):
        PrecisionLimits(ndcg_loss=1.5)
    with pytest.raises(ConfigError, match="candidates must be in"):
        PrecisionConfig(candidates=0)


def test_every_candidate_keeps_its_score_and_place(core: RankingCore) -> None:
    entries = [make_entry(seed, count=count) for seed, count in enumerate((20, 7, 40, 1))]
    found = rank(core, entries)
    for row, entry in enumerate(entries):
        by_item = scores_by_item(core.run([entry])[0])
        numbers = entry.candidates.numbers
        told = [by_item[number] for number in numbers.tolist()]
        np.testing.assert_allclose(found.scores[row, : len(numbers)], told, atol=1e-6)
        order = found.order[row]
        assert sorted(order[: len(numbers)].tolist()) == list(range(len(numbers)))
        assert (order[len(numbers) :] == -1).all()
        assert (np.diff(found.scores[row][order[: len(numbers)]]) <= 0).all()


def ranked(scores: list[list[float]]) -> Ranked:
    values = np.array(scores)
    return Ranked(scores=values, order=np.argsort(-values, kind="stable"), pairs_per_second=1.0)


def test_the_figures_are_those_that_the_definitions_give() -> None:
    exact = ranked([[0.9, 0.5, 0.1], [0.8, 0.4, 0.2]])
    fast = ranked([[0.9, 0.05, 0.1], [0.8, 0.4, 0.2]])
    found = compare(exact, fast, np.array([1, 0]), PrecisionLimits())
    third, second = 1 / np.log2(4), 1 / np.log2(3)
    assert found.max_score_deviation == pytest.approx(0.45)
    assert found.ndcg_change == pytest.approx((third + 1) / (second + 1) - 1)
    one, other = (third - second) / 2, 0.0
    error = np.std([2 * one, other]) / np.sqrt(2) / ((second + 1) / 2)
    assert found.ndcg_error == pytest.approx(error)
    ideal = 0.9 + 0.5 * second + 0.1 * third + 0.8 + 0.4 * second + 0.2 * third
    lost = (0.5 - 0.1) * (second - third)
    assert found.expected_ndcg_change == pytest.approx(-lost / ideal)
    assert found.rank_overlap == 1.0
    assert not found.allowed
    same = compare(exact, exact, np.array([1, -1]), PrecisionLimits(ndcg_loss=0))
    assert same.allowed
    assert (same.ndcg_change, same.expected_ndcg_change, same.max_score_deviation) == (0, 0, 0)


def test_chance_alone_does_not_refuse_and_a_loss_beyond_it_does() -> None:
    """Two cases whose right items swap places: no loss in all, and only the right items' moves."""
    rng = np.random.default_rng(0)
    scores = np.sort(rng.random((200, 12)))[:, ::-1].copy()
    exact = ranked(scores.tolist())
    noisy = ranked((scores + rng.normal(0, 1e-4, scores.shape)).tolist())
    right = rng.integers(0, 10, 200)
    found = compare(exact, noisy, right, PrecisionLimits(ndcg_loss=0.0005))
    assert found.expected_ndcg_change > -1e-5
    assert found.allowed
    reversed_ = ranked(scores[:, ::-1].tolist())
    limits = PrecisionLimits(ndcg_loss=0.0005, score_deviation=1)
    assert not compare(exact, reversed_, right, limits).allowed


def test_training_writes_the_report_and_the_stage_loads_what_its_configuration_says(
    tiny_release: Path,
) -> None:
    report = PrecisionReport.load(tiny_release / FILE)
    assert 0 < report.cases <= 100
    assert set(report.measured) == set(PRECISIONS if has_amx() else PRECISIONS[:2])
    assert report.allows("bf16"), report
    exact, fast = (
        load(RankingConfig(device="cpu", precision=name), str(tiny_release))  # type: ignore[arg-type]
        for name in ("fp32", "bf16")
    )
    entry = RankEntry(user=UserContext(), candidates=candidates(np.arange(100)), k=100)
    one, other = (scores_by_item(core.run([entry])[0]) for core in (exact, fast))
    assert one != other
    # Other cases than those that were measured, so with some room.
    worst = max(abs(one[item] - other[item]) for item in one)
    assert worst <= 2 * report.measured["bf16"].max_score_deviation
