"""Every snippet of the guides runs, in order, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNER = ROOT / "scripts" / "run_snippets.py"
GUIDES = ["MODERN_RECSYS_GUIDE.md", "docs/content.md"]


def _run(document: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, RUNNER, document],
        cwd=folder,
        env=os.environ | {"PATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.timeout(620)
@pytest.mark.parametrize("guide", GUIDES)
def test_every_snippet_of_a_guide_runs(guide: str, tmp_path: Path) -> None:
    try:
        done = _run(ROOT / guide, tmp_path)
    finally:
        if (tmp_path / "state").exists():  # a block that failed may have left its server running
            line = [sys.executable, "-m", "corerec.cli", "stop", "--state-dir", tmp_path / "state"]
            subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_a_broken_snippet_fails_and_names_its_line(tmp_path: Path) -> None:
    document = tmp_path / "broken.md"
    document.write_text("# Title\n\n```python\nx = 1\n```\n\n```python\nprint(y)\n```\n")
    done = _run(document, tmp_path)
    assert done.returncode != 0
    assert 'broken.md", line 8' in done.stderr
    assert "NameError" in done.stderr


def test_blocks_share_names_files_and_folder(tmp_path: Path) -> None:
    document = tmp_path / "good.md"
    document.write_text(
        "```toml\n# file: a.toml\nx = 3\n```\n```sh\ngrep -q 'x = 3' a.toml\n```\n"
        "```python\nfrom pathlib import Path\nsize = 1\n```\n"
        "```python\nassert size == 1 and Path('a.toml').exists()\n```\n```text\nnot code\n```\n"
    )
    done = _run(document, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
