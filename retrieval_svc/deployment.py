"""The retrieval service as Ray Serve applications, the front's and each shard's: starts and stops
them, nothing else."""

from __future__ import annotations

from typing import Any

from ray import serve

from corerec.config import build_config
from corerec.serving.metrics import Metrics
from corerec.serving.ray_glue import ServedReplica, ServeEndpoints, bind
from retrieval_svc.config import RetrievalConfig, ShardConfig
from retrieval_svc.process import Shards, process, remote_shards
from retrieval_svc.shard import shard_name, shard_process

NAME = "retrieval"
"""Name of the application and of its deployment."""


async def served_shards(config: RetrievalConfig, metrics: Metrics) -> Shards:
    """Return shards at the replicas that Serve announces; each shard is its own application."""

    def endpoints(shard: int) -> ServeEndpoints:
        name = shard_name(shard, config.shards)
        return ServeEndpoints(name, name)

    return remote_shards(config, metrics, endpoints)


class RetrievalReplica(ServedReplica):
    """One replica."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, release: str, config: dict[str, Any]
    ) -> None:
        parsed = build_config(RetrievalConfig, config)
        await self._start(process(parsed, release, connect=served_shards))


class ShardReplica(ServedReplica):
    """One replica of one shard."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, release: str, shard: int, shards: int, config: dict[str, Any]
    ) -> None:
        parsed = build_config(ShardConfig, config)
        await self._start(shard_process(parsed, release, shard, shards))


def app(arguments: dict[str, Any]) -> serve.Application:
    """Return the application. Arguments: `release`, a path; `config`, the table [retrieval]."""
    config = arguments.get("config", {})
    parsed = build_config(RetrievalConfig, config, source="[retrieval]")
    return bind(RetrievalReplica, parsed, NAME, {"release": arguments["release"], "config": config})


def shard_app(arguments: dict[str, Any]) -> serve.Application:
    """Return one shard's application.

    Arguments: `release`, a path; `shard`, in [0, `shards`); `config`, the table [shard].
    """
    config = arguments.get("config", {})
    parsed = build_config(ShardConfig, config, source="[shard]")
    own = {name: arguments[name] for name in ("release", "shard", "shards")}
    name = shard_name(own["shard"], own["shards"])
    return bind(ShardReplica, parsed, name, {**own, "config": config})
