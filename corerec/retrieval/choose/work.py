"""The work folder of a choice: finished trials and the best index so far, so that it resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from corerec.config import build_config
from corerec.errors import FailedPrecondition
from corerec.retrieval.choose.target import Target
from corerec.retrieval.choose.trial import Trial
from corerec.retrieval.stores import Metric, VectorStore, load_store
from corerec.retrieval.stores.files import write_header
from corerec.stages import Float32s, Int64s

_ROWS = 4096
"""Rows that the identity of a catalogue is taken from."""


class Work:
    """What a choice keeps. Each file is whole or absent, so that it may be stopped at any time."""

    def __init__(self, folder: Path, identity: str) -> None:
        """Open the folder, which is created when it is missing.

        Raises:
            FailedPrecondition: when it holds the trials of other vectors, queries or targets.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "identity"
        if file.exists() and file.read_text() != identity:
            raise FailedPrecondition(
                f"{folder}: holds trials of other vectors, queries or another target; "
                "name another work folder, or remove it"
            )
        file.write_text(identity)

    def trials(self, name: str) -> list[Trial] | None:
        """Return the trials of a plan that was finished, None where it was not."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        values = json.loads(path.read_text())
        return [build_config(Trial, own, source=path) for own in values]

    def keep(self, name: str, trials: Sequence[Trial]) -> None:
        """Keep the trials of a finished plan."""
        self._replace(f"{name}.json", json.dumps([asdict(t) for t in trials], indent=1))

    def truth(self, name: str) -> Int64s | None:
        """Return an exact answer that was kept, None where there is none."""
        path = self.folder / f"{name}.npy"
        return np.load(path, allow_pickle=False) if path.exists() else None

    def keep_truth(self, name: str, truth: Int64s) -> None:
        """Keep an exact answer."""
        fresh = self.folder / f"{name}.tmp.npy"
        np.save(fresh, truth, allow_pickle=False)
        fresh.replace(self.folder / f"{name}.npy")

    def store(self, name: str, vectors: Float32s) -> VectorStore | None:
        """Return the index of a plan that was kept, None where it was not."""
        path = self._store(name)
        return load_store(path, vectors) if path.parent.exists() else None

    def keep_store(self, name: str, store: VectorStore) -> None:
        """Keep the index of a plan in the place of the one that was kept before."""
        fresh = self.folder / "index.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        path = fresh / "items.faiss"
        write_header(path, store.write(path, with_vectors=False))
        for old in self.folder.glob("index-*"):
            shutil.rmtree(old)
        fresh.rename(self._store(name).parent)

    def _store(self, name: str) -> Path:
        return self.folder / f"index-{name}" / "items.faiss"

    def _replace(self, name: str, text: str) -> None:
        fresh = self.folder / f"{name}.tmp"
        fresh.write_text(text + "\n")
        fresh.replace(self.folder / name)


def identity_of(
    vectors: Float32s, queries: Float32s, target: Target, metric: Metric, machine: str
) -> str:
    """Return a digest of what trials depend on: vectors, queries, target, metric and machine."""
    rows = np.linspace(0, max(0, len(vectors) - 1), _ROWS).astype(np.int64)
    some = vectors[np.unique(rows)] if len(vectors) else vectors
    told: list[Any] = [vectors.shape, queries.shape, asdict(target), metric, machine]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(some).tobytes())
    digest.update(np.ascontiguousarray(queries).tobytes())
    return digest.hexdigest()
