"""The gateway as a Ray Serve application: starts and stops it, nothing else."""

from __future__ import annotations

from typing import Any

from ray import serve

from corerec.config import build_config
from corerec.serving.metrics import Metrics
from corerec.serving.ray_glue import ServedReplica, ServeEndpoints, bind
from gateway.config import GatewayConfig
from gateway.process import Stages, process, remote_stages

NAME = "gateway"
"""Name of the application and of its deployment."""


async def served_stages(config: GatewayConfig, metrics: Metrics) -> Stages:
    """Return stages at the replicas that Serve announces; each stage is its own application."""
    return remote_stages(config, metrics, lambda name: ServeEndpoints(name, name))


class GatewayReplica(ServedReplica):
    """One replica."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, release: str, config: dict[str, Any]
    ) -> None:
        parsed = build_config(GatewayConfig, config)
        await self._start(process(parsed, release, connect=served_stages))


def app(arguments: dict[str, Any]) -> serve.Application:
    """Return the application. Arguments: `release`, a path; `config`, the table [gateway]."""
    config = arguments.get("config", {})
    parsed = build_config(GatewayConfig, config, source="[gateway]")
    return bind(GatewayReplica, parsed, NAME, {"release": arguments["release"], "config": config})
