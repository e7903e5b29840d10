"""`corerec rebuild`: writes a release anew with the catalogue as the store has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def rebuild(
    release: Annotated[
        Path, typer.Argument(help="Release to take the models of, or a folder of releases.")
    ],
    store: Annotated[str, typer.Option(help="Store: a SQLite file, or redis://host:port/db.")],
    out: Annotated[Path, typer.Option(help="Folder of releases to write into.")] = Path("releases"),
    release_id: Annotated[
        str | None, typer.Option("--id", help="Id of the new release; made up when not given.")
    ] = None,
) -> None:
    """Write a new release with the same models and everything that changed in the catalogue."""
    from rich.console import Console

    from corerec.errors import ConfigError
    from corerec.live.rebuild import rebuild as write
    from corerec.release import Release
    from corerec.store.open import REDIS_SCHEMES, open_store

    if not store.startswith(REDIS_SCHEMES) and not Path(store).is_file():
        raise ConfigError(f"store must be a SQLite file that exists, or a Redis, got {store!r}")
    opened = open_store(store)
    try:
        done = write(Release.open(release), opened, out, release_id=release_id)
    finally:
        opened.close()
    Console().print(
        f"wrote {done.path}\n"
        f"catalogue at position {done.position}: {done.added} items added, {done.changed} changed, "
        f"{done.deleted} deleted since the training",
        highlight=False,
        soft_wrap=True,
    )
