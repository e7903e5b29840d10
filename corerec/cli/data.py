"""`corerec data`: generate, import, fetch and check data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

_KINDS = """
One of:

* movielens-100k: folder or zip with u.data, u.item, u.user

* movielens-1m: folder or zip with ratings.dat, movies.dat, users.dat

* goodbooks: folder with ratings.csv and books.csv, also zipped

* csv: file of user,item[,timestamp[,rating]], with or without a header

* sequences: file of lines `user item item ..`, each user's in order
"""


class Unknown(StrEnum):
    """What becomes of interactions with items outside the catalogue."""

    fail = "fail"
    drop = "drop"


Out = Annotated[Path, typer.Argument(help="Folder to write; appears whole or not at all.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the data set that OUT holds.")]


@app.command()
def generate(
    out: Out,
    users: Annotated[int, typer.Option(min=1, help="How many people.")] = 20_000,
    items: Annotated[int, typer.Option(min=10, help="How many items.")] = 20_000,
    interactions: Annotated[
        int, typer.Option(min=0, help="How many interactions; 0 writes the catalogue alone.")
    ] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same world.")] = 0,
    force: Force = False,
) -> None:
    """Generate a world of shoppers that behaves like a real shop, the same for the same seed."""
    from corerec.data.generate import generate as write_world

    with _progress() as report:
        write_world(
            out,
            users=users,
            items=items,
            interactions=interactions,
            seed=seed,
            overwrite=force,
            report=report,
        )
    made = f"{users:,} users, " if interactions else ""
    _done(out, f"{made}{items:,} items, {interactions:,} interactions")


@app.command("import")
def import_(
    kind: Annotated[str, typer.Argument(help=_KINDS)],
    source: Annotated[Path, typer.Argument(help="Folder, zip or file to read.")],
    out: Out,
    force: Force = False,
) -> None:
    """Turn a known data set or a plain file into a data set folder."""
    from corerec.data.importers import import_dataset

    with _status(f"importing {source}"):
        notes = import_dataset(kind, source, out, overwrite=force)
    _done(out, f"imported {kind}", notes)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="movielens-100k or movielens-1m.")],
    out: Out,
    force: Force = False,
) -> None:
    """Download a public data set from its publisher, verify it and import it."""
    from corerec.data.fetch import fetch_dataset

    with _progress() as report:
        notes = fetch_dataset(name, out, overwrite=force, report=report)
    _done(out, f"fetched {name}", notes)


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Data set folder, with its dataset.toml.")],
    unknown_items: Annotated[
        Unknown, typer.Option(help="Interactions with items outside the catalogue.")
    ] = Unknown.fail,
) -> None:
    """Print a profile of a data set; exit with 1 at the first broken rule, and say where it is."""
    from rich.console import Console

    from corerec.data import load_dataset
    from corerec.data.check import profile, render

    with _status(f"reading {data}"):
        found = profile(load_dataset(data, unknown_items=unknown_items.value))
    Console().print(render(found))


@app.command()
def encode(
    data: Annotated[Path, typer.Argument(help="Data set folder; gets vector sets for its items.")],
    text: Annotated[str, typer.Option(help="Columns of text, such as title,description.")] = "",
    encoder: Annotated[
        str, typer.Option(help="`hashed`, built in, or the folder of a text model.")
    ] = "hashed",
    dim: Annotated[int, typer.Option(min=8, help="Width of hashed vectors.")] = 256,
    image: Annotated[str, typer.Option(help="Column of image files inside the folder.")] = "",
    backbone: Annotated[str, typer.Option(help="Image model, by its library's name.")] = "resnet18",
    library: Annotated[str, typer.Option(help="timm or torchvision.")] = "timm",
    weights: Annotated[
        Path | None, typer.Option(help="The image model's weights, a .safetensors file.")
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="A broken image is missing, not an error.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of vectors by content  [default: DATA/.vectors]")
    ] = None,
) -> None:
    """Encode text and images of the items into vectors, once for each content."""
    from corerec.cli.encode import encode_items

    columns = tuple(filter(None, (part.strip() for part in text.split(","))))
    with _progress() as report:
        notes = encode_items(
            data,
            text=columns,
            encoder=encoder,
            dim=dim,
            image=image,
            backbone=backbone,
            library=library,
            weights=weights,
            skip_broken=skip_broken,
            cache=cache or data / ".vectors",
            report=report,
        )
    _done(data, "vectors", notes)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that shows how far each step is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TimeElapsedColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total or done)
            bars.update(tasks[step], completed=done, total=total or done)

        yield report


@contextmanager
def _status(text: str) -> Iterator[None]:
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def _done(out: Path, what: str, notes: tuple[str, ...] = ()) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for note in notes:
        console.print(f"[yellow]note:[/] {note}")
    console.print(f"[green]wrote[/] {out}: {what}")
    console.print(f"next: corerec data check {out}")
