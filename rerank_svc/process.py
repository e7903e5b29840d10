"""One rerank replica, with or without Ray."""

from __future__ import annotations

from pathlib import Path

from corerec.release import Release
from corerec.rerank import RerankCore, load_rules
from corerec.serving.contracts import RERANK
from corerec.serving.process import ServerProcess, stage_process
from rerank_svc.config import RerankConfig
from rerank_svc.servicer import add


def load(config: RerankConfig, release: str) -> RerankCore:
    """Return the core over the release at a path."""
    rules = load_rules(Path(config.rules)) if config.rules else None
    return RerankCore.load(Release.open(Path(release)), rules=rules)


def process(config: RerankConfig, release: str) -> ServerProcess:
    """Return the replica, not yet started."""
    return stage_process(config, RERANK, name="rerank", load=lambda: load(config, release), add=add)
