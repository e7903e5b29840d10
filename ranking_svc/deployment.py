"""The ranking service as a Ray Serve application: starts and stops it, nothing else."""

from __future__ import annotations

from typing import Any

from ray import serve

from corerec.config import build_config
from corerec.serving.ray_glue import ServedReplica, bind
from ranking_svc.config import RankingConfig
from ranking_svc.process import process

NAME = "ranking"
"""Name of the application and of its deployment."""


class RankingReplica(ServedReplica):
    """One replica."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, release: str, config: dict[str, Any]
    ) -> None:
        await self._start(process(build_config(RankingConfig, config), release))


def app(arguments: dict[str, Any]) -> serve.Application:
    """Return the application. Arguments: `release`, a path; `config`, the table [ranking]."""
    config = arguments.get("config", {})
    parsed = build_config(RankingConfig, config, source="[ranking]")
    return bind(RankingReplica, parsed, NAME, {"release": arguments["release"], "config": config})
