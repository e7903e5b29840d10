"""What the repository's own tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def kustomize() -> list[str]:
    """The command that renders a folder. Skips where there is none, except in CI."""
    built = subprocess.run([ROOT / "scripts/tools", "kustomize"], stdin=subprocess.DEVNULL)
    if built.returncode == 0:
        return [str(ROOT / ".tools/bin/kustomize"), "build"]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    assert os.environ.get("CI") != "true", "CI must render the manifests: install Go or kubectl"
    pytest.skip("neither Go nor kubectl here")


@pytest.fixture(scope="session")
def rendered(kustomize: list[str]) -> Callable[[str], list[dict[str, Any]]]:
    """Return the manifests of a folder of deploy/ as kustomize renders them."""

    def render(folder: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [*kustomize, ROOT / "deploy" / folder], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return render
