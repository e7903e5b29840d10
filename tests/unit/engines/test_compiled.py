"""Compiled code that is kept on disk, and what it was made of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

OUTER = """
import sys
from corerec.engines.compiled import compiled
from inner import CONSTANT, added

@compiled
def outer(x):
    return added(x) + CONSTANT

sys.stdout.write(f"{outer(1)} {sum(outer.stats.cache_hits.values())}")
"""
INNER = """
from corerec.engines.compiled import compiled
from innermost import lowest

CONSTANT = {constant}

@compiled
def added(x):
    return x + {added} + lowest(x)
"""
INNERMOST = """
from numba.extending import intrinsic
from numba.core import types

@intrinsic
def lowest(typing, x):
    return types.int64(types.int64), lambda context, builder, sig, args: context.get_constant(
        types.int64, {lowest}
    )
"""


def run(folder: Path, constant: int, added: int, lowest: int) -> tuple[int, int]:
    """Return what the function gives, and how often the cache had it."""
    (folder / "outer.py").write_text(OUTER)
    (folder / "inner.py").write_text(INNER.format(constant=constant, added=added))
    (folder / "innermost.py").write_text(INNERMOST.format(lowest=lowest))
    told = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "kept")}
    done = subprocess.run(
        [sys.executable, folder / "outer.py"], capture_output=True, text=True, timeout=120, env=told
    )
    assert done.returncode == 0, done.stderr
    result, hits = done.stdout.split()
    return int(result), int(hits)


def test_what_other_files_gave_to_compiled_code_is_looked_at_again(tmp_path: Path) -> None:
    assert run(tmp_path, 10, 100, 1000) == (1111, 0)
    assert run(tmp_path, 10, 100, 1000) == (1111, 1)
    assert run(tmp_path, 20, 100, 1000) == (1121, 0)
    assert run(tmp_path, 20, 200, 1000) == (1221, 0)
    assert run(tmp_path, 20, 200, 2000) == (2221, 0)
    assert run(tmp_path, 20, 200, 2000) == (2221, 1)


LIBRARY = """
from corerec.engines.compiled import compiled

@compiled
def first(pair):
    return pair[0]
"""
OTHER = """
import sys
from typing import NamedTuple
import library

class Own(NamedTuple):
    left: int
    right: int

library.first(Own(1, 2))
"""
USER = """
import sys
import library

sys.stdout.write(f"{library.first((3, 4))} {sum(library.first.stats.cache_hits.values())}")
"""


def test_code_kept_for_a_class_that_is_gone_hinders_nobody(tmp_path: Path) -> None:
    for name, text in {"library": LIBRARY, "other": OTHER, "user": USER}.items():
        (tmp_path / f"{name}.py").write_text(text)
    told = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept"), "PYTHONPATH": str(tmp_path)}

    def python(*code: str) -> str:
        command = [sys.executable, *code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=told)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python("-c", "import other")
    (tmp_path / "other.py").unlink()
    assert python(str(tmp_path / "user.py")) == "3 0"
    assert python(str(tmp_path / "user.py")) == "3 1"
