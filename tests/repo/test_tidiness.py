"""What a reader may rely on: links resolve, nothing is unfinished or bound to one machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Spelt in pieces, for this file is read too.
UNFINISHED = re.compile(r"\b(" + "TO" "DO|FIX" "ME|X" r"XX)\b")
MACHINE_BOUND = re.compile(r"(?<![\w.])/(?:home/\w|root/|work/|Users/\w)")
GENERATED = ("requirements.lock", "go.sum", ".svg", ".png", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


@cache
def texts() -> dict[Path, str]:
    """Return every text file that git knows, by relative path."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    found = {}
    for name in names:
        if str(name).endswith(GENERATED) or not (ROOT / name).is_file():
            continue
        try:
            found[name] = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_nothing_is_left_unfinished() -> None:
    assert lines_with(UNFINISHED) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert lines_with(MACHINE_BOUND) == []


def test_every_link_in_the_documents_resolves() -> None:
    broken = []
    for name, text in texts().items():
        if name.suffix != ".md":
            continue
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            page = (ROOT / name.parent / file).resolve() if file else ROOT / name
            if not page.exists() or (anchor and anchor not in anchors(page)):
                broken.append(f"{name}: {target}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Return the anchors that a Markdown page's headings make."""
    heads = re.findall(r"^#+ +(.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_every_script_says_what_it_is_for_and_stops_at_the_first_error() -> None:
    for script in sorted((ROOT / "scripts").iterdir()):
        if script.suffix or not script.is_file():
            continue
        lines = script.read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env bash", script
        assert lines[1].startswith("# "), script
        assert "set -euo pipefail" in lines, script
        assert script.stat().st_mode & 0o111, f"{script} is not executable"


def test_make_alone_lists_every_target() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = {"setup", "demo", "stop", "test", "check", "bench", "loadtest", "protos", "lock"}
    assert targets <= set(re.findall(r"make (\w+)", done.stdout))
