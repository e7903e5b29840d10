"""The serving benchmark says what was measured: its arithmetic, its fairness check, its page.

Nothing is started here; `make bench ARGS=--quick` runs the whole of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving.__main__ import found_json, order
from benchmarks.serving.answers import Answer, check_same, differences
from benchmarks.serving.breakdown import breakdown, parts
from benchmarks.serving.load import Cpu, Load, Point, command, point, to_json
from benchmarks.serving.machine import ROOT, busy_seconds
from benchmarks.serving.overload import goodput
from benchmarks.serving.peers import PEERS, environment, tuned_flags, with_precision
from benchmarks.serving.pictures import draw_callers, draw_overload, draw_waterfall
from benchmarks.serving.processes import alive, cpu_seconds, end, family, memory_mib
from benchmarks.serving.release import label, world
from benchmarks.serving.report import BEGIN, END, fill, render
from benchmarks.serving.results import best, ratios, targets
from benchmarks.serving.search import Found, good, search
from corerec.v1 import common_pb2, recommender_pb2, rerank_pb2

LOAD = Load(callers=8, seconds=2)
CPU = Cpu(machine=3.0, own=1.5, generator=0.6, harness=0.4)
CALLS = {
    "due_micros": [0, 1_000, 2_000, 1_000_000],
    "sent_micros": [100, 1_000, 2_000, 1_000_000],
    "done_micros": [10_000, 21_000, 500_000, 1_030_000],
    "code": ["OK", "OK", "ResourceExhausted", "OK"],
    "degraded": [False, True, False, False],
}


def captured() -> Point:
    return point(CALLS, LOAD, CPU, 2.5, peer="a", round=1)


def made(peer: str, callers: int, qps: float, **changes: Any) -> Point:
    return replace(captured(), peer=peer, callers=callers, qps=qps, **changes)


def answer(micros: int = 10_000, *, degraded: bool = False, score: float = 0.5) -> Answer:
    steps = {"queue": 100, "encode": 300, "search": 500}
    response = recommender_pb2.RecommendResponse(
        items=[rerank_pb2.RankedItem(item_id="i1", score=score)],
        latency_micros=8_000,
        stages=[
            recommender_pb2.StageReport(stage="profile", latency_micros=700),
            recommender_pb2.StageReport(
                stage="retrieve",
                latency_micros=2_000,
                steps=[common_pb2.StepTiming(name=n, latency_micros=t) for n, t in steps.items()],
            ),
        ],
        degraded=[recommender_pb2.Degradation(stage="rank")] if degraded else [],
    )
    return Answer(micros, response)


def test_cpu_per_request_leaves_out_the_generator_and_the_harness() -> None:
    met = captured()
    assert (met.ok, met.degraded, met.errors) == (3, 1, {"ResourceExhausted": 1})
    assert met.cpu_ms_per_request == pytest.approx(2000 / 3)
    assert met.own_cpu_ms_per_request == pytest.approx(1500 / 3)
    assert met.generator_cpu_ms_per_request == pytest.approx(600 / 3)
    assert met.busy_cores == pytest.approx(1.2)
    assert met.qps == pytest.approx(3 / 1.03)


def test_latency_counts_from_when_a_call_was_due_and_leaves_out_failed_ones() -> None:
    met = captured()
    assert met.p50 == pytest.approx(20.0)  # of 10, 20 and 30; the first was sent 0.1 ms late
    assert met.p99 < 30.0
    assert 0 < met.late_p99 < 0.1


def test_a_load_without_one_answer_has_no_latency() -> None:
    nothing: dict[str, Any] = dict.fromkeys(CALLS)
    lost = point(nothing, LOAD, CPU, 1.0, peer="b", round=1)
    assert (lost.ok, lost.qps) == (0, 0)
    assert to_json(lost)["p99"] is None


def fast_up_to(limit: float) -> Callable[[Load], Point]:
    """Return a peer that answers in 10 ms up to a rate, and in a second above it."""

    def measure(load: Load) -> Point:
        slow = load.rate > limit or (load.arrivals == "poisson")
        return made("a", 0, load.rate, rate=load.rate, errors={}, degraded=0, p99=1e3**slow * 10)

    return measure


@pytest.mark.parametrize("guess", [400.0, 480.0, 2000.0])
def test_the_search_finds_the_highest_rate_that_is_fast_enough(guess: float) -> None:
    found = search(fast_up_to(500.0), peer="a", guess=guess, seconds=1)
    assert found.best is not None
    assert 480 <= found.qps <= 500
    assert found.poisson is not None
    assert found.poisson.p99 > 30 > found.best.p99


def test_one_disturbed_probe_does_not_bound_the_search() -> None:
    plain, asked = fast_up_to(500.0), list[float]()

    def disturbed(load: Load) -> Point:
        asked.append(load.rate)
        point = plain(load)
        return replace(point, p99=90.0) if asked.count(load.rate) == 1 else point

    found = search(disturbed, peer="a", guess=400.0, seconds=1)
    assert 480 <= found.qps <= 500
    assert asked[:2] == [300.0, 300.0]


def test_the_search_says_when_no_rate_is_good() -> None:
    assert search(fast_up_to(0.0), peer="a", guess=100.0, seconds=1).best is None


def test_failures_missing_parts_and_a_growing_queue_are_not_good() -> None:
    fine = made("a", 0, 100.0, rate=100.0, errors={}, degraded=0, p99=29.0)
    assert good(fine)
    for change in (
        {"errors": {"Unavailable": 1}},
        {"degraded": 1},
        {"p99": 31.0},
        {"rate": 110.0},
        {"ok": 0},
    ):
        assert not good(replace(fine, **change)), change


def test_goodput_leaves_out_failed_incomplete_and_late_answers() -> None:
    assert goodput(CALLS) == pytest.approx(2 / 1.03)
    assert goodput(CALLS | {"done_micros": [10_000, 21_000, 500_000, 1_600_000]}) == 1 / 1.6


def test_the_precision_goes_into_the_ranking_table_of_any_deployment_file() -> None:
    for text in (
        "",
        '[ranking]\ndevice = "cpu"\n',
        "[gateway]\nport = 1\n[ranking]\nthreads = 1\n",
    ):
        made = tomllib.loads(with_precision(text, "bf16"))
        assert made == tomllib.loads(text) | {
            "ranking": tomllib.loads(text).get("ranking", {}) | {"precision": "bf16"}
        }
    chosen = '[ranking]\nprecision = "int8"\n'
    assert with_precision(chosen, "bf16") == chosen


def test_lists_of_another_precision_are_compared_with_the_exact_ones() -> None:
    same = differences([answer()], [answer(score=0.75)])
    assert same == {"same_items": 1.0, "same_first": 1.0, "score": 0.25}
    empty = Answer(1, recommender_pb2.RecommendResponse())
    assert differences([empty], [answer()]) == {"same_items": 0, "same_first": 0, "score": 0}


def test_worlds_have_eight_interactions_for_each_item_and_a_name() -> None:
    assert world(1_000_000)[1::2] == ("150000", "1000000", "8000000")
    assert world(50_000)[1::2] == ("20000", "50000", "1000000")
    assert [label(n) for n in (50_000, 1_000_000, 1234)] == ["50k", "1m", "1234"]


def test_stolen_and_idle_time_is_not_busy() -> None:
    stat = "cpu  100 10 50 9999 999 5 5 777 40 0\ncpu0 1 2 3\n"
    assert busy_seconds(stat) == pytest.approx(170 / os.sysconf("SC_CLK_TCK"))
    assert busy_seconds() > 0


def test_the_better_round_counts_for_every_peer() -> None:
    points = [made("a", 1, 10.0, round=1), made("a", 1, 12.0, round=2), made("b", 1, 5.0)]
    assert [(p.peer, p.qps) for p in best(points)] == [("a", 12.0), ("b", 5.0)]


def test_ratios_and_targets_are_in_favour_of_the_cluster_above_one() -> None:
    chosen = [
        made("a", 1, 100.0, p50=4.0, p99=8.0),
        made("a", 32, 1000.0),
        made("b", 1, 25.0, p50=20.0, p99=24.0),
        made("b", 32, 125.0),
    ]
    (one, many) = ratios(chosen)
    assert (one["of"], one["callers"], one["qps"], one["p50"], one["p99"]) == ("a/b", 1, 4, 5, 3)
    assert many["qps"] == 8
    rates = [Found(peer="a", best=made("a", 0, 500.0)), Found(peer="a16", best=None)]
    rows = {row["name"]: row for row in targets(chosen, rates, 1_000_000)}
    assert [row["measured"] for row in rows.values()] == [500, 0, 4, 8]
    assert [row["reached"] for row in rows.values()] == ["met", "missed", "met", "met"]
    # What is set for a million items says nothing of fewer.
    assert [row["measured"] for row in targets(chosen, rates, 50_000)] == [8]


def test_the_parts_of_a_request_add_up_to_what_its_caller_waited() -> None:
    found = parts(answer())
    assert sum(found.values()) == 10_000
    assert found["caller"] == 2_000
    assert found["gateway"] == 8_000 - 2_700
    assert found["retrieve.rpc"] == 2_000 - 900
    assert found["retrieve.search"] == 500


def test_a_degraded_answer_is_counted_and_not_timed() -> None:
    found = breakdown([answer(), answer(12_000), answer(90_000, degraded=True)], callers=4)
    assert (found["requests"], found["degraded"]) == (3, 1)
    assert found["total_micros"] == 11_000
    assert found["median_micros"]["caller"] == 3_000


def test_other_items_other_scores_and_missing_stages_stop_the_run() -> None:
    check_same("b", [answer()], [answer()])
    with pytest.raises(SystemExit, match="would not be fair: peer b"):
        check_same("b", [answer(score=0.6)], [answer()])
    with pytest.raises(SystemExit, match="peer a answered degraded"):
        check_same("a", [answer(degraded=True)], [answer()])
    empty = Answer(1, recommender_pb2.RecommendResponse())
    with pytest.raises(SystemExit, match="would not be fair"):
        check_same("b", [empty], [empty])


def test_the_reference_runs_first() -> None:
    assert order(["a", "b", "a16", "d"]) == ["d", "a", "a16", "b"]


def test_only_the_tuned_peer_gets_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
    assert "RAY_SERVE_THROUGHPUT_OPTIMIZED" not in environment()
    tuned = environment(tuned_flags(Path("scratch")))
    assert tuned["RAY_SERVE_ENABLE_HA_PROXY"] == tuned["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"


def test_one_connection_serves_eight_callers() -> None:
    def connections(callers: int) -> str:
        words = command(Path("loadgen"), "a:1", Path("r.bin"), Load(callers=callers, seconds=1))
        return words[words.index("-connections") + 1]

    assert [connections(callers) for callers in (1, 8, 32)] == ["1", "1", "4"]


def test_a_family_is_measured_and_ended_with_its_grandchildren() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert child.stdin is not None
    try:
        deadline = time.monotonic() + 20
        while len(family(child.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        members = family(child.pid)
        assert cpu_seconds(members) >= 0
        assert memory_mib(members) > 1
        end(child.pid, lambda: None, seconds=0)  # nobody asks it to end: it is killed
        child.wait()
        assert not any(alive(member) for member in members)
    finally:
        child.stdin.close()
        child.kill()
        child.wait()


@pytest.fixture
def results() -> dict[str, Any]:
    chosen = [made(p, c, 100.0, errors={}, degraded=0) for p in PEERS for c in (1, 8, 32)]
    rate = made("a", 0, 480.0, p99=25.0, errors={}, degraded=0)
    found = [
        Found(peer="a", best=rate, poisson=rate),
        Found(peer="b", best=None, why_none="one caller's p99 is 61 ms"),
    ]
    return {
        "date": "2026-01-01",
        "run": {"seconds": 8.0, "rounds": 2},
        "machine": {
            "cpu": "a CPU",
            "cores": 2,
            "memory_gib": 8.0,
            "python": "3.11",
            "versions": dict.fromkeys(("ray", "grpcio", "torch", "faiss-cpu"), "1.0"),
            "commit": "abc",
            "changed_files": 0,
        },
        "subject": {"release": "r1", "counts": {"items": 50_000, "dropped": {}}},
        "started": [{"peer": "a", "start_seconds": 12.4, "memory_mib": 2048}],
        "differences": {"a16": {"same_items": 0.995, "same_first": 1.0, "score": 0.002}},
        "best": [to_json(p) for p in chosen],
        "ratios": ratios(chosen),
        "targets": targets(chosen, found, 1_000_000),
        "limit_ms": 30.0,
        "searches": [found_json(one) for one in found],
        "stages": [breakdown([answer()], callers) for callers in (1, 32)],
    }


@pytest.fixture
def overload() -> dict[str, Any]:
    slow = point(CALLS, Load(rate=200, seconds=2), CPU, 2.0, peer="a", round=1)
    lost = point(dict.fromkeys(CALLS), LOAD, CPU, 1.0, peer="a", round=1)
    return {
        "peer": "a",
        "arrivals": "poisson",
        "seconds": 6.0,
        "deadline_seconds": 0.5,
        "capacity": 100.0,
        "capacity_callers": 64,
        "points": [
            to_json(slow) | {"share": 0.5, "goodput": 90.0},
            to_json(replace(lost, rate=200.0)) | {"share": 2.0, "goodput": 0.0},
        ],
    }


def test_the_page_holds_what_was_measured_and_says_what_was_missed(
    results: dict[str, Any], overload: dict[str, Any]
) -> None:
    block = render(results, overload)
    assert "50,000 items" in block
    assert block.count("| (b) Ray Serve, defaults | ") == 4
    assert "| throughput of a over b, 32 callers | ≥ 8 x | 15 x | 1.00 x | **missed** |" in block
    assert "| (a) CoreRec cluster | 480 |" in block
    assert "| (b) Ray Serve, defaults | none: one caller's p99 is 61 ms |" in block
    assert "99.5% of the exact lists' items" in block
    assert "| (a) CoreRec cluster | 12 | 2.0 |" in block
    assert "| 50% | 200 | 90 |" in block
    assert "1 x ResourceExhausted" in block
    assert "| retrieve.search | 500 | 500 |" in block
    assert "No call failed" in block
    assert "twice the capacity" not in render(results)
    results["best"][0]["errors"] = {"Unavailable": 2}
    assert "2 x Unavailable" in render(results)


def test_the_pictures_are_drawn(
    results: dict[str, Any], overload: dict[str, Any], tmp_path: Path
) -> None:
    draw_callers([made(p, c, 100.0) for p in PEERS for c in (1, 32)], tmp_path / "callers.png")
    draw_waterfall(results["stages"], tmp_path / "stages.png")
    draw_overload(overload, tmp_path / "overload.png")
    for name in ("callers.png", "stages.png", "overload.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_filling_the_page_leaves_the_words_around_it() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text()
    filled = fill(page, "new numbers")
    assert f"{BEGIN}\n\nnew numbers\n\n{END}" in filled
    assert fill(filled, "new numbers") == filled
    assert filled.partition(END)[2] == page.partition(END)[2]
    with pytest.raises(ValueError, match="the page must hold"):
        fill("a page without markers", "numbers")
