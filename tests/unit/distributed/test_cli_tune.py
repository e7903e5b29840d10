"""`corerec tune` before anything starts: its mistakes are named in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("[space.two_tower]\ndimm = {choice = [8]}\n", (), "search.toml:2: unknown key"),
        ("", ("--trials", "0"), "trials must be at least 1, got 0"),
        ("", ("--model", "three_tower"), "three_tower"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    text: str, options: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    config = tmp_path / "search.toml"
    config.write_text(text)
    out = tmp_path / "search"
    program = "from corerec.cli import main; main()"
    arguments = ["tune", str(tmp_path), "--out", str(out), "--config", str(config), *options]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()
