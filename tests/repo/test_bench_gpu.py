"""`make bench-gpu` needs a CUDA device and no part of the cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_device_it_says_so_in_one_line_and_fails() -> None:
    done = subprocess.run(
        [ROOT / "scripts/bench-gpu"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "no torch that finds a CUDA device" in line
    assert done.stdout == ""


@pytest.mark.parametrize(("module", "more"), [("gpu", ["grpc"]), ("replica", [])])
def test_it_imports_neither_ray_nor_faiss(module: str, more: list[str]) -> None:
    program = (
        f"import sys; sys.modules |= dict.fromkeys({['ray', 'faiss', *more]}); "
        f"import benchmarks.ranking.{module}"  # an import of None fails
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
