"""Who may import what: the third column of the architecture's table of rooms, held by AST.

Two kinds of proof: every import statement that the rooms' files hold, and for the promises that
must also hold through others' imports, a fresh interpreter that says what it has loaded.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "retrieval_svc", "ranking_svc", "rerank_svc")
ROOMS = ("corerec", *SERVICES)
GRPC = ("grpc", "grpc_health", "grpc_reflection", "google.protobuf", "corerec.v1")
MODELS = ("torch", "faiss")
NEVER = ("pickle", "cloudpickle", "joblib", "dill", "pandas", "pyarrow", "requests")


def sources() -> list[Path]:
    """Return every written (not generated) Python file of the rooms, relative to the root."""
    found = (path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    written = (path.relative_to(ROOT) for path in found)
    return sorted(path for path in written if path.parts[:2] != ("corerec", "v1"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that the file imports, inside functions too."""
    package = path.parts[:-1]
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            for name in node.names:
                yield node.lineno, f"{base}.{name.name}"


def forbidden(path: Path) -> tuple[str, ...]:
    """Return the modules that this file may not import."""
    room, inner = path.parts[0], path.parts[1]
    others = tuple(name for name in SERVICES if name != room)
    if room == "corerec":
        if inner == "distributed":
            return (*NEVER, *SERVICES)
        if inner == "serving":
            ray = () if path.name in ("ray_glue.py", "cluster.py") else ("ray",)
            composed = () if path.name in ("cluster.py", "local.py") else SERVICES
            return (*NEVER, *ray, *MODELS, *composed)
        if inner == "client.py":
            return (*NEVER, "ray", *MODELS, *others, "corerec.serving.ray_glue")
        if inner == "cli":
            return (*NEVER, "ray", *GRPC)
        above = ("corerec.serving", "corerec.distributed", "corerec.client", "corerec.cli")
        return (*NEVER, "ray", *GRPC, *above, *others)
    ray = () if inner == "deployment.py" else ("ray",)
    return (*NEVER, *ray, *MODELS, "corerec.cli", *others)


def breaches(path: Path) -> list[str]:
    """Return what the file imports against the rules, as `file:line imports name`."""
    rules = forbidden(path)
    return [
        f"{path}:{line} imports {name}"
        for line, name in imports(path)
        if any(name == rule or name.startswith(f"{rule}.") for rule in rules)
    ]


def test_every_file_imports_only_what_its_room_may() -> None:
    assert [breach for path in sources() for breach in breaches(path)] == []


@pytest.mark.parametrize(
    ("path", "line", "found"),
    [
        ("corerec/ranking/core.py", "def f():\n    import ray.serve", "ray.serve"),
        ("corerec/ranking/core.py", "from corerec.v1 import common_pb2", "corerec.v1.common_pb2"),
        ("corerec/serving/stage.py", "from ray import serve", "ray.serve"),
        ("gateway/servicer.py", "import torch.nn as nn", "torch.nn"),
        ("gateway/servicer.py", "from ranking_svc import servicer", "ranking_svc.servicer"),
        ("corerec/data/dataset.py", "import pickle", "pickle"),
    ],
)
def test_the_rules_catch_what_they_forbid(
    path: str, line: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(line)
    assert [breach.rsplit(" ", 1)[1] for breach in breaches(Path(path))] == [found]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("gateway.servicer", ("torch", "faiss", "ray")),
        ("corerec.release", ("torch", "faiss", "grpc", "ray")),
        ("corerec.store", ("torch", "faiss", "grpc", "ray")),
        ("corerec.rerank.core", ("torch", "faiss", "grpc", "ray")),
        ("rerank_svc.servicer", ("torch", "faiss", "ray")),
        ("corerec.ranking.core", ("faiss", "grpc", "ray")),
        ("corerec.ranking.kernel", ("faiss", "grpc", "ray", "polars", "pydantic", "safetensors")),
        ("benchmarks.ranking.kernel", ("faiss", "ray", "polars", "pydantic", "safetensors")),
        ("ranking_svc.servicer", ("faiss", "ray")),
        ("corerec.retrieval.core", ("grpc", "ray")),
        ("retrieval_svc.servicer", ("ray",)),
        ("corerec.client", ("torch", "faiss", "ray")),
        ("corerec.cli", ("torch", "faiss", "ray", "polars")),
    ],
)
def test_a_fresh_interpreter_loads_nothing_that_the_room_must_not(
    module: str, absent: tuple[str, ...]
) -> None:
    program = f"import {module}, sys; print(*(n for n in {absent} if n in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
