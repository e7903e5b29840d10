"""The demo itself, on a small world: what a newcomer sees, and that nothing is done twice."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster.running import state_of

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


def script(name: str, demo: Path) -> str:
    environment = {
        **os.environ,
        "COLUMNS": "160",
        "DEMO_DIR": str(demo),
        "DEMO_WORLD": "--users 300 --items 500 --interactions 8000",
        "DEMO_TRAIN": "--preset tiny",
        "DEMO_SERVE": "--port 0",
    }
    done = subprocess.run(
        [ROOT / "scripts" / name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_shows_recommendations_and_does_nothing_twice(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    try:
        first = script("demo", demo)
        for words in (
            "recent items",
            "recommendations",
            "what moved it",
            "two_tower",
            "ms in the gateway",
            "corerec explain --user",
            "grpcurl -plaintext",
            "ghz --insecure",
        ):
            assert words in first, words
        assert first.count("recommendations") == 3
        before = state_of(demo / "run")
        made = sorted(p.name for p in (demo / "releases").iterdir())
        again = script("demo", demo)
        assert state_of(demo / "run") == before
        assert sorted(p.name for p in (demo / "releases").iterdir()) == made
        assert "recommendations" in again
    finally:
        script("stop", demo)
    assert not (demo / "run" / "cluster.json").exists()
