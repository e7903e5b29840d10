"""`corerec index`: choose and build an index by measuring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from corerec.retrieval.choose import Choice, Target

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Choose and build an index by measuring."""


@app.command()
def build(
    source: Annotated[
        Path,
        typer.Argument(help="Release, folder of releases, or a .npy file of item vectors (N, D)."),
    ],
    recall: Annotated[float, typer.Option(help="Share of the exact best to find, (0, 1].")] = 0.95,
    at: Annotated[int, typer.Option(help="How many of the best, the k of a search.")] = 500,
    memory: Annotated[
        str | None, typer.Option(help="Most of index and vectors together, such as 2GiB.")
    ] = None,
    prefer: Annotated[str, typer.Option(help="Fastest by: both, single or batch.")] = "both",
    threads: Annotated[int, typer.Option(help="Threads that a batch is searched with.")] = 2,
    queries: Annotated[
        Path | None, typer.Option(help="With a .npy source: .npy of held-out queries (Q, D).")
    ] = None,
    metric: Annotated[str, typer.Option(help="With a .npy source: ip, cosine or l2.")] = "ip",
    kinds: Annotated[
        str, typer.Option(help="Kinds to try, comma-separated; all when not given.")
    ] = "",
    model: Annotated[
        str, typer.Option("--source", help="With a release: one source, such as two_tower.")
    ] = "",
    shards: Annotated[
        int | None,
        typer.Option(help="With a release: parts to hold vectors and indexes in; else as it has."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of releases, or of the index  [default: releases or index]"),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Finished trials, for a build to resume  [default: OUT/.index-work]"),
    ] = None,
    release_id: Annotated[
        str | None, typer.Option("--id", help="Id of the new release; made up when not given.")
    ] = None,
) -> None:
    """Choose the fastest index that reaches a recall within a memory limit, and build it.

    Kinds and parameters are measured against exact search on real queries. A release is never
    changed: a new one is written. A build that was stopped goes on where it was.
    """
    from corerec.errors import InvalidArgument
    from corerec.retrieval.choose import Target, parse_size

    target = Target(
        recall=recall,
        at=at,
        memory=parse_size(memory) if memory is not None else None,
        prefer=prefer,  # type: ignore[arg-type]
        threads=threads,
    )
    wanted = [kind.strip() for kind in kinds.split(",") if kind.strip()] or None
    if source.suffix == ".npy":
        if queries is None:
            raise InvalidArgument(f"{source}: vectors need --queries, a .npy file (Q, D)")
        if shards is not None:
            raise InvalidArgument(f"--shards is for a release, got {source}")
        out = out or Path("index")
        _build_vectors(source, queries, metric, target, wanted, out, work or out / ".index-work")
        return
    if queries is not None or metric != "ip":
        raise InvalidArgument(f"--queries and --metric are for a .npy source, got {source}")
    out = out or Path("releases")
    choices = _choose(source, model, target, wanted, work or out / ".index-work")
    _write(source, choices, out, release_id, shards)


@app.command()
def split(
    source: Annotated[Path, typer.Argument(help="Release, or folder of releases.")],
    shards: Annotated[
        int, typer.Option(help="Parts to hold vectors and indexes in; 1 puts them together.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of releases to write into.")] = Path("releases"),
    release_id: Annotated[
        str | None, typer.Option("--id", help="Id of the new release; made up when not given.")
    ] = None,
) -> None:
    """Write a release anew in parts, so that a shard reads its own alone; nothing else changes."""
    _write(source, {}, out, release_id, shards)


def _build_vectors(
    source: Path,
    queries: Path,
    metric: str,
    target: Target,
    kinds: list[str] | None,
    out: Path,
    work: Path,
) -> None:
    from typing import get_args

    from corerec.cli.data import _progress
    from corerec.errors import InvalidArgument
    from corerec.retrieval.choose import choose_index
    from corerec.retrieval.choose.picture import choice_as_json, draw_frontier
    from corerec.retrieval.stores import Metric

    if metric not in get_args(Metric):
        raise InvalidArgument(f"metric must be one of {list(get_args(Metric))}, got {metric!r}")
    vectors, asked = _read(source), _read(queries)
    with _progress() as report:
        choice = choose_index(
            vectors,
            asked,
            target,
            metric=metric,  # type: ignore[arg-type]
            work=work,
            plans=kinds,
            report=report,
        )
    _show(choice, source.stem)
    out.mkdir(parents=True, exist_ok=True)
    (out / "items.frontier.json").write_text(choice_as_json(choice, source=source.name))
    draw_frontier(choice, out / "items.frontier.png")
    if choice.store is None:
        _missed(choice, source.stem)
        return
    choice.store.save(out / "items.faiss")
    _wrote(out)


def _choose(
    source: Path, model: str, target: Target, kinds: list[str] | None, work: Path
) -> dict[str, Choice]:
    from corerec.cli.data import _progress
    from corerec.release import Release
    from corerec.retrieval.choose.release import choose_for

    with _progress() as report:
        choices = choose_for(
            Release.open(source), target, only=model, kinds=kinds, work=work, report=report
        )
    for kind, choice in choices.items():
        _show(choice, kind)
    for kind, choice in choices.items():
        if choice.store is None:
            _missed(choice, kind)
    return choices


def _write(
    source: Path,
    choices: dict[str, Choice],
    out: Path,
    release_id: str | None,
    shards: int | None,
) -> None:
    from corerec.release import Release
    from corerec.retrieval.choose.release import write_with_indexes

    release = Release.open(source)
    _wrote(write_with_indexes(release, choices, out, release_id=release_id, shards=shards))


def _show(choice: Choice, name: str) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(choice, name))
    for plan, why in choice.left_out.items():
        console.print(f"[dim]not built: {plan}, {why}[/]", soft_wrap=True)
    if choice.chosen is not None:
        console.print(f"[green]chosen:[/] {choice.chosen.text()}", soft_wrap=True)


def _table(choice: Choice, name: str) -> Table:
    from rich.table import Table

    from corerec.retrieval.choose import format_size

    target = choice.target
    limit = f", within {format_size(target.memory)}" if target.memory is not None else ""
    table = Table(
        title=f"{name}: what no other index beats; recall@{target.at} >= {target.recall}{limit}",
        title_justify="left",
        box=None,
        padding=(0, 2),
    )
    table.add_column("index")
    for column in ("recall", "p50 ms", "p99 ms", "batch/s", "index", "vectors", "build s"):
        table.add_column(column, justify="right")
    for trial in choice.frontier:
        table.add_row(
            trial.text(),
            f"{trial.recall:.4f}",
            f"{trial.single_ms:.3f}",
            f"{trial.single_p99_ms:.3f}",
            f"{trial.batch_per_second:,.0f}",
            format_size(trial.index_bytes),
            format_size(trial.vector_bytes),
            f"{trial.build_seconds:.0f}",
            style="bold green" if trial is choice.chosen else "",
        )
    return table


def _missed(choice: Choice, name: str) -> None:
    """Raise FailedPrecondition saying what came nearest."""
    from corerec.errors import FailedPrecondition
    from corerec.retrieval.choose import format_size

    target, near = choice.target, choice.nearest
    limit = f" within {format_size(target.memory)}" if target.memory is not None else ""
    found = "nothing was built"
    if near is not None:
        found = (
            f"{near.text()} came nearest: {near.recall:.4f}, at least {near.recall_low:.4f} by "
            f"these queries, in {format_size(near.bytes)}"
        )
    raise FailedPrecondition(
        f"{name}: no index reaches recall@{target.at} {target.recall}{limit}; {found}"
    )


def _read(path: Path):  # type: ignore[no-untyped-def]
    """Return a memory-map of a .npy file of float32 rows."""
    import numpy as np

    from corerec.errors import InvalidArgument

    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidArgument(f"{path}: not readable as an array: {error}") from None
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise InvalidArgument(f"{path}: must hold float32 (n, D), got {rows.dtype} {rows.shape}")
    return rows


def _wrote(path: Path) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(f"[green]wrote[/] {path}")
