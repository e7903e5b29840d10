"""The rerank service as a Ray Serve application: starts and stops it, nothing else."""

from __future__ import annotations

from typing import Any

from ray import serve

from corerec.config import build_config
from corerec.serving.ray_glue import ServedReplica, bind
from rerank_svc.config import RerankConfig
from rerank_svc.process import process

NAME = "rerank"
"""Name of the application and of its deployment."""


class RerankReplica(ServedReplica):
    """One replica."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, release: str, config: dict[str, Any]
    ) -> None:
        await self._start(process(build_config(RerankConfig, config), release))


def app(arguments: dict[str, Any]) -> serve.Application:
    """Return the application. Arguments: `release`, a path; `config`, the table [rerank]."""
    config = arguments.get("config", {})
    parsed = build_config(RerankConfig, config, source="[rerank]")
    return bind(RerankReplica, parsed, NAME, {"release": arguments["release"], "config": config})
