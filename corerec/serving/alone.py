"""`python -m …_svc`: runs one service in this process, without Ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
import uvloop

from corerec.errors import ConfigError, CoreRecError
from corerec.serving.config import ServerConfig
from corerec.serving.deployment_file import DeploymentFile
from corerec.serving.process import ServerProcess, serve_until_signalled

C = TypeVar("C", bound=ServerConfig)

ConfigPath = Annotated[
    Path | None, typer.Option(help="Deployment file; its table for this service is read.")
]
ReleasePath = Annotated[
    str, typer.Option(help="Path of the release, instead of the one that the file names.")
]


def run_alone(name: str, config_type: type[C], make: Callable[[C, str], ServerProcess]) -> None:
    """Read the command line, run the service until SIGTERM, drain, exit.

    When the service answers, one JSON line on standard output says where.
    """

    def main(config: ConfigPath = None, release: ReleasePath = "") -> None:
        run_process(
            config, release, lambda file, where: make(file.config(config_type, name), where)
        )

    main.__doc__ = f"Run one {name} replica alone, without Ray, until SIGTERM."
    typer.run(main)


def run_process(
    config: Path | None, release: str, make: Callable[[DeploymentFile, str], ServerProcess]
) -> None:
    """Run what `make` returns for a deployment file and a release until SIGTERM; exits."""
    try:
        file = DeploymentFile.read(config)
        where = release or file.release
        if not where:
            raise ConfigError("name the release with --release or in the deployment file")
        process = make(file, where)
    except CoreRecError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None

    def announce() -> None:
        typer.echo(json.dumps(process.metadata()))
        sys.stdout.flush()

    raise typer.Exit(uvloop.run(serve_until_signalled(process, announce)))
