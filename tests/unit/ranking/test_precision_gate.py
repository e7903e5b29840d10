"""Which precision a core is loaded with: what the release's gate allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from ranking_world import Folder, World, write_release
from test_ranking_core import make_entry, ok, scores_by_item

from corerec.errors import ConfigError, FailedPrecondition
from corerec.ranking.core import RankingCore
from corerec.ranking.gate import FILE, Measured, PrecisionReport, choose_precision


def measured(allowed: bool) -> Measured:
    return Measured(
        allowed=allowed,
        max_score_deviation=0.0123,
        ndcg_change=-0.002,
        rank_overlap=0.91,
        pairs_per_second=1e6,
    )


@pytest.fixture
def release(world: World, tmp_path: Path) -> Folder:
    return write_release(world, world.model(), tmp_path)


def test_a_release_without_a_report_is_served_in_fp32_and_in_nothing_else(release: Folder) -> None:
    assert choose_precision(release, "auto") == choose_precision(release, "fp32") == "fp32"
    with pytest.raises(FailedPrecondition, match="got 'bf16': it was not measured"):
        RankingCore.load(release, device="cpu", precision="bf16")


def test_what_the_gate_allowed_and_recommends_is_served(release: Folder) -> None:
    fp32 = RankingCore.load(release, device="cpu")
    PrecisionReport(recommended="bf16", measured={"bf16": measured(True)}).save(release.file(FILE))
    assert choose_precision(release, "auto") == "bf16"
    assert choose_precision(release, "fp32") == "fp32"
    bf16 = RankingCore.load(release, device="cpu")
    exact, fast = (scores_by_item(ok(core.run([make_entry(1)])[0])) for core in (fp32, bf16))
    assert exact != fast
    assert fast == pytest.approx(exact, abs=0.05)


def test_what_the_gate_refused_is_not_served_and_the_error_says_why(release: Folder) -> None:
    PrecisionReport(measured={"bf16": measured(False)}).save(release.file(FILE))
    assert choose_precision(release, "auto") == "fp32"
    with pytest.raises(FailedPrecondition) as caught:
        RankingCore.load(release, device="cpu", precision="bf16")
    for told in ("bf16", "deviation 0.012", "NDCG@10 -0.200%", "91.00% of the first 100"):
        assert told in str(caught.value)


def test_a_report_that_recommends_what_it_refuses_is_refused(release: Folder) -> None:
    with pytest.raises(ConfigError, match="got 'bf16'"):
        PrecisionReport(recommended="bf16", measured={"bf16": measured(False)})
    release.file(FILE).write_text('{"recommended": "fp64", "measured": {}}')
    with pytest.raises(ConfigError, match=FILE):
        RankingCore.load(release, device="cpu")


def test_an_entry_weighs_as_much_as_it_has_candidates(release: Folder) -> None:
    core = RankingCore.load(release, device="cpu")
    assert [core.weight(make_entry(1, count=count)) for count in (0, 7)] == [0, 7]
