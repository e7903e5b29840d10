"""The retrieval service as a Ray Serve application: starts and stops it, nothing else."""

from __future__ import annotations

from typing import Any

from ray import serve

from corerec.config import build_config
from corerec.serving.ray_glue import ServedReplica, bind
from retrieval_svc.config import RetrievalConfig
from retrieval_svc.process import process

NAME = "retrieval"
"""Name of the application and of its deployment."""


class RetrievalReplica(ServedReplica):
    """One replica."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, release: str, config: dict[str, Any]
    ) -> None:
        await self._start(process(build_config(RetrievalConfig, config), release))


def app(arguments: dict[str, Any]) -> serve.Application:
    """Return the application. Arguments: `release`, a path; `config`, the table [retrieval]."""
    config = arguments.get("config", {})
    parsed = build_config(RetrievalConfig, config, source="[retrieval]")
    return bind(RetrievalReplica, parsed, NAME, {"release": arguments["release"], "config": config})
