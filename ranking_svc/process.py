"""One ranking replica, with or without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corerec.ranking.core import RankingCore
from corerec.release import Release
from corerec.serving.contracts import RANK
from corerec.serving.metrics import Metrics
from corerec.serving.process import ServerProcess, stage_process
from ranking_svc.config import RankingConfig
from ranking_svc.servicer import add


def load(config: RankingConfig, release: str) -> RankingCore:
    """Return the core over the release at a path."""
    return RankingCore.load(
        Release.open(Path(release)),
        device=config.device,
        threads=config.threads,
        precision=config.precision,
    )


def process(config: RankingConfig, release: str) -> ServerProcess:
    """Return the replica, not yet started."""
    return stage_process(
        config, RANK, name="ranking", load=lambda: load(config, release), add=add, observe=_count
    )


def _count(core: Any, metrics: Metrics) -> None:
    """Show what the core counts."""
    metrics.cores.watch(core)
