"""The serving benchmark says what was measured: its arithmetic, its fairness check, its page.

Nothing is started here; `make bench ARGS=--quick` runs the whole of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loadtest.ghz import Load
from benchmarks.serving.__main__ import order
from benchmarks.serving.answers import Answer, check_same
from benchmarks.serving.breakdown import breakdown, parts
from benchmarks.serving.load import Cpu, Point, command, point, to_json
from benchmarks.serving.machine import ROOT, busy_seconds
from benchmarks.serving.peers import environment, tuned_flags
from benchmarks.serving.pictures import draw_callers, draw_stages
from benchmarks.serving.processes import alive, cpu_seconds, end, family
from benchmarks.serving.report import BEGIN, END, fill, render
from benchmarks.serving.results import best, ratios, targets
from corerec.v1 import common_pb2, recommender_pb2, rerank_pb2

CAPTURED = Path(__file__).parent / "captured" / "ghz-closed.json"
LOAD = Load(callers=8, seconds=2)
CPU = Cpu(machine=3.0, own=1.5, generator=0.6, harness=0.4)


def captured() -> Point:
    raw = json.loads(CAPTURED.read_text())
    return point(raw, LOAD, CPU, 2.5, peer="a", round=1, degraded=0)


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
    assert met.ok > 0
    assert met.errors == {"ResourceExhausted": 2}
    assert met.cpu_ms_per_request == pytest.approx(2000 / met.ok)
    assert met.own_cpu_ms_per_request == pytest.approx(1500 / met.ok)
    assert met.generator_cpu_ms_per_request == pytest.approx(600 / met.ok)
    assert met.busy_cores == pytest.approx(1.2)
    assert to_json(met)["qps"] == pytest.approx(met.qps, abs=1e-3)


def test_a_load_without_one_answer_stops_the_run() -> None:
    with pytest.raises(SystemExit, match="no call of 8 callers ended OK"):
        point({"details": None, "total": 1e9}, LOAD, CPU, 1.0, peer="b", round=1, degraded=None)


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
    assert {row["name"]: (row["measured"], row["target"]) for row in targets(chosen)} == {
        "throughput of a over b, 32 callers": (8.0, 5.0),
        "p50 of b over a, 1 caller": (5.0, 2.0),
    }


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


def test_the_reference_runs_first_and_the_next_round_turns_the_order() -> None:
    assert order(["a", "b", "c", "d"], 1) == ["d", "a", "b", "c"]
    assert order(["a", "b", "c", "d"], 2) == ["c", "b", "a", "d"]


def test_only_the_tuned_peer_gets_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
    assert "RAY_SERVE_THROUGHPUT_OPTIMIZED" not in environment()
    tuned = environment(tuned_flags(Path("scratch")))
    assert tuned["RAY_SERVE_ENABLE_HA_PROXY"] == tuned["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"


def test_one_connection_serves_eight_callers() -> None:
    def connections(callers: int) -> str:
        words = command(Path("ghz"), "host:1", Path("r.json"), Load(callers=callers, seconds=1))
        return words[words.index("--connections") + 1]

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
        end(child.pid, lambda: None, seconds=0)  # nobody asks it to end: it is killed
        child.wait()
        assert not any(alive(member) for member in members)
    finally:
        child.stdin.close()
        child.kill()
        child.wait()


@pytest.fixture
def results() -> tuple[dict[str, Any], list[Point]]:
    chosen = [made(p, c, 100.0, errors={}) for p in "abcd" for c in (1, 8, 32)]
    versions = dict.fromkeys(("ray", "grpcio", "torch", "faiss-cpu", "ghz"), "1.0")
    stages = [breakdown([answer()], callers) for callers in (1, 32)]
    return {
        "date": "2026-01-01",
        "run": {"seconds": 8.0, "rounds": 2},
        "machine": {
            "cpu": "a CPU",
            "cores": 2,
            "memory_gib": 8.0,
            "python": "3.11",
            "versions": versions,
            "commit": "abc",
            "changed_files": 0,
        },
        "subject": {"release": "r1", "counts": {"items": 50_000, "dropped": {}}},
        "degraded_possible": ["a", "d"],
        "ratios": ratios(chosen),
        "targets": targets(chosen),
        "stages": stages,
    }, chosen


def test_the_page_holds_what_was_measured_and_says_what_was_missed(
    results: tuple[dict[str, Any], list[Point]],
) -> None:
    block = render(*results)
    assert "50,000 items" in block
    assert block.count("| (b) Ray Serve, defaults |") == 3
    assert "| throughput of a over b, 32 callers | ≥ 5 x | 1.00 x | **missed** |" in block
    assert "| retrieve.search | 500 | 500 |" in block
    assert "No call failed" in block
    values, chosen = results
    assert "2 x Unavailable" in render(values, [replace(chosen[0], errors={"Unavailable": 2})])


def test_the_pictures_are_drawn(
    results: tuple[dict[str, Any], list[Point]], tmp_path: Path
) -> None:
    values, chosen = results
    draw_callers(chosen, tmp_path / "callers.png")
    draw_stages(values["stages"], tmp_path / "stages.png")
    for name in ("callers.png", "stages.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_filling_the_page_leaves_the_words_around_it() -> None:
    page = (ROOT / "docs/benchmarks.md").read_text()
    filled = fill(page, "new numbers")
    assert f"{BEGIN}\n\nnew numbers\n\n{END}" in filled
    assert fill(filled, "new numbers") == filled
    assert filled.partition(END)[2] == page.partition(END)[2]
    with pytest.raises(ValueError, match="the page must hold"):
        fill("a page without markers", "numbers")
