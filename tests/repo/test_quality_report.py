"""The report of a quality benchmark says what was measured, on what, and how to repeat it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.quality.report import Benchmark, SeedRun, main

BENCHMARK = Benchmark(
    name="some_model",
    data="some data",
    protocol="leave-one-out",
    published={"popularity": {"hr@10": 0.4}},
    required={"hr@10": 0.5},
    aim={"hr@10": 0.6},
)


def run(seed: int) -> SeedRun:
    return SeedRun(
        seed=seed,
        metrics={"hr@10": 0.5 + seed / 10, "loss": 1.0},
        epochs=4,
        best_epoch=2,
        seconds=1.5,
        samples_per_second=100.0,
    )


def test_seeds_are_kept_and_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = argparse.Namespace(seeds="0,2", out=tmp_path)
    path = main(BENCHMARK, run, {"width": 8}, arguments=arguments)
    found = json.loads(path.read_text())
    assert path == tmp_path / "quality/some_model.json"
    assert [own["seed"] for own in found["seeds"]] == [0, 2]
    assert found["mean"]["hr@10"] == pytest.approx(0.6)
    assert found["spread"]["hr@10"] == pytest.approx(0.2)
    assert found["seeds"][0]["peak_memory_bytes"] > 10_000_000
    assert found["config"] == {"width": 8}
    assert found["published"] == {"popularity": {"hr@10": 0.4}}
    assert {"cpu", "cores", "threads", "memory_gib", "versions", "commit"} <= set(found["machine"])
    assert found["command"].startswith("python ")
    shown = capsys.readouterr().out
    assert "hr@10: reached, +0.1000 to the required 0.5000" in shown
    assert "0.6000 ± 0.1000" in shown


def test_a_missed_number_is_called_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    high = Benchmark(**{**BENCHMARK.__dict__, "required": {"hr@10": 0.55}})
    main(high, run, {}, arguments=argparse.Namespace(seeds="0", out=tmp_path))
    assert "hr@10: MISSED, -0.0500 to the required 0.5500" in capsys.readouterr().out
