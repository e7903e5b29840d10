"""One replica of one shard, with or without Ray."""

from __future__ import annotations

from pathlib import Path

from corerec.errors import ConfigError
from corerec.release import Release
from corerec.retrieval.shard import ShardCore
from corerec.serving.contracts import SEARCH
from corerec.serving.metrics import observe_sources
from corerec.serving.process import ServerProcess, stage_process
from retrieval_svc.config import ShardConfig
from retrieval_svc.servicer import add_search


def shard_name(shard: int, shards: int) -> str:
    """Return the name of a shard's application, of its deployment and in its logs.

    It says of how many, so that shards of another number stand beside these and are never mixed.
    """
    return f"retrieval-shard-{shard}-of-{shards}"


def shard_process(config: ShardConfig, release: str, shard: int, shards: int) -> ServerProcess:
    """Return the replica, not yet started. Raises ConfigError for a shard that there is not."""
    if not 0 <= shard < shards:
        raise ConfigError(f"shard must be in [0, {shards}), got {shard}; see [retrieval] shards")

    def load() -> ShardCore:
        return ShardCore.load(
            # Of a release in parts the others are neither read nor needed here.
            Release.open(Path(release), when_used=True),
            shard,
            shards,
            threads=config.threads,
            probe_share=config.probe_share,
        )

    return stage_process(
        config,
        SEARCH,
        name=shard_name(shard, shards),
        load=load,
        add=add_search,
        observe=observe_sources,
    )
