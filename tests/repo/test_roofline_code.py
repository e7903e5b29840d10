"""The roofline counts what is computed and divides by what was measured.

Nothing large is measured here; `python -m benchmarks.roofline` runs the whole of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ranking.counts import operations_per_request
from benchmarks.roofline import ceilings, counts
from benchmarks.roofline.__main__ import greater
from benchmarks.roofline.report import draw, render
from benchmarks.serving.machine import ROOT
from benchmarks.serving.report import fill
from corerec.engines.dcn import DcnConfig
from corerec.engines.dcn_net import Dcn
from corerec.ranking.fold import evaluate, fold

INDEX = {
    "kind": "ivf-int8-refine",
    "dim": 64,
    "count": 1_000_000,
    "nlist": 1000,
    "nprobe": 50,
    "refine_factor": 1.1,
}


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_the_rankers_operations_are_those_that_torch_counts(structure: Any) -> None:
    config = DcnConfig(cross_layers=3, cross_rank=8, deep=(32, 16), structure=structure)
    folded = fold(Dcn(50, config).eval(), 20)
    cases, candidates = 3, 7
    user, pairs = torch.randn(cases, 20), torch.randn(cases, candidates, 30)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        evaluate(folded, user, pairs)
    products = sum(p.operations for p in counts.pair_products(folded, candidates))
    # Torch does not count the user's diagonal, an element at a time.
    diagonal = sum(20 * step.weight.shape[1] for step in folded.steps if step.crossed is not None)
    once = operations_per_request(folded) - diagonal
    assert counter.get_total_flops() == pytest.approx(cases * (products + once))


def test_a_search_reads_the_lists_it_looks_at_and_refines_what_it_found() -> None:
    work = counts.search(INDEX, 500)
    assert work.bytes == pytest.approx(64 * (50_000 + 4 * 550))
    assert work.operations == pytest.approx(2 * 64 * (50_000 + 1000 + 550))
    assert work.run == 64_000
    half = counts.search(INDEX | {"kind": "ivf-int4-refine"}, 500)
    assert half.bytes == pytest.approx(32 * 50_000 + 64 * 4 * 550)
    assert half.operations == work.operations
    with pytest.raises(SystemExit, match="got 'hnsw'"):
        counts.search(INDEX | {"kind": "hnsw"}, 500)


def test_an_encoder_reads_a_row_an_event() -> None:
    work = counts.encode({"dim": 64, "history_length": 50, "hidden": 128}, 1000)
    assert work.bytes == 50 * 3 * 64 * 4
    assert work.operations == 4 * 50 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 128)


def test_ceilings_are_above_nothing_and_reading_in_runs_is_faster_than_by_rows() -> None:
    small = counts.Product(rows=64, inner=64, outer=64)
    assert ceilings.product_rate(small, "fp32") > 1e8
    assert ceilings.read_rate(1 << 26, 1 << 20) > ceilings.read_rate(1 << 26, 64) > 1e7
    assert 0 < ceilings.round_trip(100, 1000, seconds=0.05) < 0.01


def test_the_higher_of_two_measurements_is_the_ceiling() -> None:
    def made(rate: float) -> dict[str, Any]:
        return {"peaks": {"fp32": rate}, "stream": 1 / rate, "reads": {"rank": {"rate": rate}}}

    assert greater(made(2.0), made(4.0)) == {
        "peaks": {"fp32": 4.0},
        "stream": 0.5,
        "reads": {"rank": {"rate": 4.0}},
    }


@pytest.fixture
def results() -> dict[str, Any]:
    row = {
        "stage": "rank",
        "kind": "fp32",
        "together": 32,
        "operations": 2e7,
        "bytes": 3e5,
        "compute_ms": 0.1,
        "read_ms": 0.08,
        "ours_ms": 0.125,
        "library_ms": 0.17,
    }
    return {
        "date": "2026-01-01",
        "command": "python -m benchmarks.roofline",
        "machine": {"cpu": "a CPU", "commit": "abc", "changed_files": 0},
        "subject": {"release": "r1", "counts": {"items": 1_000_000}},
        "ceilings": {
            "peaks": {"fp32": 2e11, "bf16": 1.7e12, "int8": 1.9e12},
            "stream": 1.2e10,
            "reads": {"rank": {"run": 536, "table": 5e8, "rate": 3e9}},
        },
        "counts": [{"stage": "rank", "kind": "fp32", "what": "500 pairs"}],
        "stages": [row, row | {"together": 1}, row | {"kind": "bf16"}],
        "rest": [{"stage": "rank", "together": 32, "core_ms": 0.5, "counted_ms": 0.2}],
        "wire": [{"callers": 32, "bytes": 20_000, "ceiling_ms": 0.2, "ours_ms": 2.0}],
    }


def test_the_page_sets_each_stage_against_its_ceiling(
    results: dict[str, Any], tmp_path: Path
) -> None:
    block = render(results)
    assert "| rank, fp32 | 32 | 20.00 M | 300.00 k | 0.1000 | 0.0800 | 0.1250 | 80% |" in block
    assert "| rank | 32 | 0.500 | 40% |" in block
    assert "| 32 | 20,000 | 0.200 | 2.00 | 10% |" in block
    assert "Between the stages" not in render(results | {"wire": []})
    draw(results, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_has_room_for_the_tables() -> None:
    page = (ROOT / "docs/roofline.md").read_text()
    markers = ("<!-- roofline:begin -->", "<!-- roofline:end -->")
    assert "new tables" in fill(page, "new tables", *markers)
