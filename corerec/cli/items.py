"""`corerec items upsert`, `delete`, `show` and `changes`: the catalogue of a running cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from corerec.cli.ask import Address, AsJson, StateDir
from corerec.cli.serve import STATE, running_address
from corerec.errors import InvalidArgument

if TYPE_CHECKING:
    from corerec.client import CatalogItem

console = Console()
app = typer.Typer(no_args_is_help=True)

Timeout = Annotated[float, typer.Option(help="Deadline of each call, seconds.")]
Ids = Annotated[list[str], typer.Argument(help="Ids of items.")]


@app.command()
def upsert(
    file: Annotated[Path, typer.Argument(help="One item a line: .jsonl, or .csv with a header.")],
    lists: Annotated[
        list[str] | None,
        typer.Option("--list", help="Column of a .csv that holds values separated by |."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Items in one call.")] = 500,
    timeout: Timeout = 10.0,
    address: Address = "",
    state_dir: StateDir = STATE,
) -> None:
    """Add the items of a file, or replace them whole; each call is stored whole or not at all."""
    from corerec.cli.item_files import read_items
    from corerec.client import Client

    count, position = 0, 0
    with Client(address or running_address(state_dir), timeout=timeout) as client:
        for items in _batches(read_items(file, lists or ()), batch):
            try:
                position = client.upsert_items(items).position
            except InvalidArgument as error:
                raise InvalidArgument(
                    f"{file}: {error}; the {count} items before this batch are stored"
                ) from None
            count += len(items)
    typer.echo(f"stored {count} items, position {position}")


@app.command()
def delete(
    ids: Ids, timeout: Timeout = 5.0, address: Address = "", state_dir: StateDir = STATE
) -> None:
    """Remove items; when this returns, no answer has them."""
    from corerec.client import Client

    with Client(address or running_address(state_dir), timeout=timeout) as client:
        deleted = client.delete_items(ids)
    typer.echo(f"deleted {deleted} of {len(ids)} items")


@app.command()
def show(
    ids: Ids,
    timeout: Timeout = 5.0,
    address: Address = "",
    state_dir: StateDir = STATE,
    as_json: AsJson = False,
) -> None:
    """Print items as they were last upserted, or as the release has them."""
    from corerec.client import Client

    with Client(address or running_address(state_dir), timeout=timeout) as client:
        entries = client.get_items(ids)
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries]))
        return
    for entry in entries:
        table = Table(title=f"item {entry.item.item_id}", title_justify="left", box=None)
        table.add_column(style="dim")
        table.add_column()
        newest = f"position {entry.position}" if entry.position else "as the release has it"
        table.add_row("number", f"{entry.number}, {newest}")
        for name, text in _fields(entry.item).items():
            table.add_row(name, text)
        console.print(table)


@app.command()
def changes(
    after: Annotated[int, typer.Option(help="Position to read on from.")] = 0,
    n: Annotated[int, typer.Option("-n", help="Most changes.")] = 100,
    timeout: Timeout = 5.0,
    address: Address = "",
    state_dir: StateDir = STATE,
    as_json: AsJson = False,
) -> None:
    """Print what changed in the catalogue, each item once, at its newest."""
    from corerec.client import Client

    with Client(address or running_address(state_dir), timeout=timeout) as client:
        page = client.changes(after, n)
    if as_json:
        typer.echo(json.dumps(asdict(page)))
        return
    table = Table(title=f"position {page.position}", title_justify="left", box=None)
    for name in ("position", "number", "id", "what"):
        table.add_column(name)
    for change in page.changes:
        what = "deleted" if change.item is None else change.item.title
        table.add_row(str(change.position), str(change.number), change.item_id, what)
    console.print(table)


def _batches(items: Iterator[CatalogItem], size: int) -> Iterator[list[CatalogItem]]:
    batch: list[CatalogItem] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _fields(item: CatalogItem) -> dict[str, str]:
    single = {name: str(getattr(item, name)) for name in ("title", "category", "creator")}
    single["born_micros"] = str(item.born_micros)
    joined = {name: ", ".join(own) for name, own in item.lists.items()}
    widths = {name: f"vector of {len(own)}" for name, own in item.vectors.items()}
    every: Sequence[dict[str, str]] = (single, dict(item.attributes), joined, widths)
    return {name: text for part in every for name, text in part.items() if text}
