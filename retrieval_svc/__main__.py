"""Runs one retrieval replica alone, without Ray: `python -m retrieval_svc --config serve.toml`.

With `--shard 1` it runs a replica of that shard instead; [retrieval] shards says of how many.
"""

from __future__ import annotations

from typing import Annotated

import typer

from corerec.serving.alone import ConfigPath, ReleasePath, run_process
from corerec.serving.deployment_file import DeploymentFile
from corerec.serving.process import ServerProcess
from retrieval_svc.config import RetrievalConfig, ShardConfig
from retrieval_svc.process import process
from retrieval_svc.shard import shard_process


def main(
    config: ConfigPath = None,
    release: ReleasePath = "",
    shard: Annotated[
        int | None, typer.Option(help="Run a replica of this shard, [0, shards).")
    ] = None,
) -> None:
    """Run one retrieval replica, or one of a shard, alone, without Ray, until SIGTERM."""

    def make(file: DeploymentFile, where: str) -> ServerProcess:
        retrieval = file.config(RetrievalConfig, "retrieval")
        if shard is None:
            return process(retrieval, where)
        return shard_process(file.config(ShardConfig, "shard"), where, shard, retrieval.shards)

    run_process(config, release, make)


typer.run(main)
