"""The load test's report says what ghz measured; proven on reports captured from a real run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loadtest.ghz import Load, Measured, command, measure
from benchmarks.loadtest.report import plot, render

CAPTURED = Path(__file__).parent / "captured"
CLOSED = Load(callers=8, seconds=2)
OPEN = Load(rate=100, seconds=2)


def captured(name: str) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((CAPTURED / f"ghz-{name}.json").read_text())
    return raw


@pytest.fixture
def results() -> list[Measured]:
    """One closed and one open load."""
    closed = measure(captured("closed"), CLOSED, generator_cpu_seconds=0.5)
    opened = measure(captured("open"), OPEN, generator_cpu_seconds=0.1)
    return [closed, replace(opened, degraded={"without rank (timeout)": 3})]


def test_errors_are_counted_and_kept_out_of_the_latencies() -> None:
    raw = captured("closed")
    measured = measure(raw, CLOSED, generator_cpu_seconds=0.5)
    answers = sorted(d["latency"] / 1e6 for d in raw["details"] if d["status"] == "OK")
    assert measured.ok == len(answers) == raw["count"] - 2
    assert measured.errors == {"ResourceExhausted": 2}
    assert measured.slowest == pytest.approx(answers[-1])
    assert answers[0] < measured.p50 < measured.p95 < measured.p99 <= measured.slowest


def test_the_rate_is_of_ok_answers_over_the_time_that_calls_were_under_way() -> None:
    details = [
        {"timestamp": f"2026-01-01T00:00:0{i}.500000001Z", "latency": 1e9, "status": "OK"}
        for i in range(4)
    ]
    details[0]["status"] = "Unavailable"
    measured = measure({"details": details, "total": 0}, OPEN, generator_cpu_seconds=1.0)
    assert measured.seconds == pytest.approx(4.0)
    assert measured.qps == pytest.approx(0.75)
    assert measured.generator_cpus == pytest.approx(0.25)


def test_a_load_that_met_no_answer_is_reported_and_drawn(tmp_path: Path) -> None:
    lost = measure({"details": None, "total": 2e9}, CLOSED, generator_cpu_seconds=0.1)
    assert lost.qps == 0
    assert "| 8 | 0 | – | – | – | – | 0 | ? |" in render([lost], "nowhere")
    plot([lost], tmp_path / "latency.png")


def test_the_report_has_both_loops_and_names_what_went_wrong(results: list[Measured]) -> None:
    page = render(results, "two cores")
    assert "two cores" in page
    assert page.index("## Closed loop") < page.index("| 8 | ") < page.index("## Open loop")
    assert "| 100 | " in page
    assert "closed-8: 2 x ResourceExhausted" in page
    assert "open-100: 2 x ResourceExhausted, 3 x without rank (timeout)" in page


def test_the_picture_is_drawn(results: list[Measured], tmp_path: Path) -> None:
    plot(results, tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_only_the_open_loop_sends_without_waiting() -> None:
    files = (Path("ghz"), Path(), "127.0.0.1:1", Path("requests.json"))
    closed, opened = command(*files, CLOSED), command(*files, OPEN)
    assert "--async" not in closed
    assert closed[closed.index("-c") + 1] == "8"
    assert opened[opened.index("-r") + 1] == "100"
    assert "--async" in opened
