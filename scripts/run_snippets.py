"""Runs the code blocks of a Markdown file in order, in the current folder: python, sh and files.

`python` blocks share one namespace; `sh` blocks run under `bash -euo pipefail`; a `toml` block
whose first line is `# file: NAME` is written to that file. Anything else is not code to run. A
failure names the file and the line of the block.

    python scripts/run_snippets.py MODERN_RECSYS_GUIDE.md
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_FENCE = re.compile(r"^```(\w*)\s*$")
_FILE = re.compile(r"^# file: (\S+)$")


class Block(NamedTuple):
    """A fenced block; `line` is that of its first line of code, from 1."""

    language: str
    line: int
    code: str


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a Markdown text."""
    language, start, lines = "", 0, list[str]()
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if not inside and fence:
            inside, language, start, lines = True, fence[1], number + 1, []
        elif inside and line.rstrip() == "```":
            inside = False
            yield Block(language, start, "\n".join(lines) + "\n")
        elif inside:
            lines.append(line)


def run(path: Path) -> int:
    """Run every block and return how many were run."""
    space: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for block in blocks(path.read_text()):
        place, begin = f"{path.name}:{block.line}", time.perf_counter()
        if block.language == "python":
            # Blank lines in front give a traceback the line numbers of the document.
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(path), "exec"), space)
        elif block.language == "sh":
            subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], check=True)
        elif block.language == "toml" and (named := _FILE.match(block.code.split("\n", 1)[0])):
            Path(named[1]).write_text(block.code)
        else:
            continue
        count += 1
        print(f"{place}: {block.language}, {time.perf_counter() - begin:.1f} s", flush=True)
    return count


if __name__ == "__main__":
    sys.exit(0 if run(Path(sys.argv[1]).resolve()) else f"{sys.argv[1]}: no block to run")
