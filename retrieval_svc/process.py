"""One retrieval replica, with or without Ray."""

from __future__ import annotations

from pathlib import Path

from corerec.release import Release
from corerec.retrieval import RetrievalCore
from corerec.serving.contracts import RETRIEVE
from corerec.serving.process import ServerProcess, stage_process
from retrieval_svc.config import RetrievalConfig
from retrieval_svc.servicer import add


def load(config: RetrievalConfig, release: str) -> RetrievalCore:
    """Return the core over the release at a path."""
    return RetrievalCore.load(Release.open(Path(release)), threads=config.threads)


def process(config: RetrievalConfig, release: str) -> ServerProcess:
    """Return the replica, not yet started."""
    return stage_process(
        config, RETRIEVE, name="retrieval", load=lambda: load(config, release), add=add
    )
