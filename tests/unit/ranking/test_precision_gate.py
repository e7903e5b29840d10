"""Which precision a core is loaded with: what the release's gate allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ranking_world import Folder, World, write_release
from test_ranking_core import make_entry, ok, scores_by_item

from corerec.errors import ConfigError, FailedPrecondition
from corerec.ranking.core import RankingCore
from corerec.ranking.gate import FILE, Measured, PrecisionReport, choose_precision, fastest_of


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


AMX = frozenset({"amx_bf16", "amx_int8", "avx512_vnni"})
NONE: frozenset[str] = frozenset()


def test_a_release_without_a_report_is_served_in_fp32_and_in_nothing_else(release: Folder) -> None:
    for precision in ("auto", "fp32"):
        assert choose_precision(release, precision, AMX) == "fp32"
    with pytest.raises(FailedPrecondition, match="got 'bf16': it was not measured"):
        RankingCore.load(release, device="cpu", precision="bf16")


def test_what_the_gate_allowed_is_served(release: Folder) -> None:
    fp32 = RankingCore.load(release, device="cpu")
    PrecisionReport(measured={"bf16": measured(True)}).save(release.file(FILE))
    assert choose_precision(release, "fp32", AMX) == "fp32"
    assert choose_precision(release, "bf16", NONE) == "bf16"
    bf16 = RankingCore.load(release, device="cpu", precision="bf16")
    exact, fast = (scores_by_item(ok(core.run([make_entry(1)])[0])) for core in (fp32, bf16))
    assert exact != fast
    assert fast == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize(
    ("bf16_speed", "where", "here", "chosen"),
    [
        (2e6, AMX, AMX, "bf16"),
        (5e5, AMX, AMX, "fp32"),
        (1.05e6, AMX, AMX, "fp32"),  # not worth it
        (1.05e6, AMX, frozenset({"amx_bf16"}), "fp32"),
        (2e6, AMX, NONE, "fp32"),  # trained with matrix instructions, served without
        (2e5, NONE, AMX, "bf16"),  # the other way round: its slowness there says nothing here
        (2e5, NONE, NONE, "fp32"),
        (2e6, AMX, frozenset({"cuda_bf16"}), "bf16"),
        (2e6, AMX, frozenset({"avx_vnni"}), "fp32"),
    ],
)
def test_auto_takes_the_fastest_that_is_allowed_on_the_machine_that_serves(
    release: Folder, bf16_speed: float, where: frozenset[str], here: frozenset[str], chosen: str
) -> None:
    exact = Measured(allowed=True, pairs_per_second=1e6)
    fast = replace(measured(True), pairs_per_second=bf16_speed)
    PrecisionReport(
        recommended=fastest_of({"fp32": exact, "bf16": fast}),
        instructions=tuple(where),
        measured={"fp32": exact, "bf16": fast},
    ).save(release.file(FILE))
    assert choose_precision(release, "auto", here) == chosen


def test_what_the_gate_refused_is_not_served_and_the_error_says_why(release: Folder) -> None:
    PrecisionReport(measured={"bf16": measured(False)}).save(release.file(FILE))
    assert choose_precision(release, "auto", AMX) == "fp32"
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
