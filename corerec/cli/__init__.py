"""The `corerec` command. Each module here adds its commands; heavy imports stay inside commands."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer
from rich.console import Console
from rich.markup import escape

from corerec import __version__
from corerec.errors import CoreRecError

app = typer.Typer(
    help="Train a three-stage recommender on your interactions and serve it over gRPC.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"corerec {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True),
) -> None:
    """Train a three-stage recommender on your interactions and serve it over gRPC."""


def _add_commands() -> None:
    from corerec.cli import ask, data, index, items, rebuild, serve, train, tune

    commands: tuple[Callable[..., None], ...] = (
        train.train,
        rebuild.rebuild,
        tune.tune,
        serve.serve,
        serve.status,
        serve.stop,
        ask.recommend,
        ask.explain,
        ask.record,
        ask.showcase,
    )
    for command in commands:
        app.command()(command)
    app.add_typer(data.app, name="data", help="Generate, import, fetch and check data sets.")
    app.add_typer(index.app, name="index", help="Choose and build an index by measuring.")
    app.add_typer(items.app, name="items", help="Change and read the catalogue of a cluster.")


def main() -> None:
    """Run the command line. A CoreRecError becomes one red line and exit status 1."""
    _add_commands()
    try:
        app()
    except CoreRecError as error:
        Console(stderr=True).print(
            f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(1)
