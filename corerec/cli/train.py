"""`corerec train`: from a data set folder to a verified release, with its metrics printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[Path, typer.Argument(help="Data set folder, the one with dataset.toml.")],
    out: Annotated[Path, typer.Option(help="Folder that the release is written into.")] = Path(
        "releases"
    ),
    config: Annotated[
        Path | None, typer.Option(help="TOML with the fields of TrainConfig; see docs/training.md.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Sizes to start from: default, quality or tiny.")
    ] = "default",
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs of the two-tower.")] = None,
    threads: Annotated[int | None, typer.Option(help="Cores to use; 0 is all.")] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that train, embed and index together, with Ray.")
    ] = 1,
    shards: Annotated[
        int | None,
        typer.Option(help="Parts that the release holds vectors and indexes in, by item number."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; else one starts here, and ends.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the checkpoints of a run that was killed.")
    ] = True,
    quiet: Annotated[bool, typer.Option(help="No bars and no tables.")] = False,
) -> None:
    """Train a release on a data set and print how good it is."""
    from contextlib import ExitStack

    from rich.console import Console

    from corerec.pipelines.config import read_config
    from corerec.pipelines.progress import Steps
    from corerec.pipelines.report import print_metrics
    from corerec.pipelines.train import read_metrics, read_precision, train_release

    chosen = read_config(
        config, preset=preset, seed=seed, epochs=epochs, threads=threads, shards=shards
    )
    console = Console()
    steps = Steps(None if quiet else console)
    with ExitStack() as stack:
        parallel = None
        if workers > 1 or address is not None:
            from corerec.distributed.parallel import RayParallel
            from corerec.distributed.train import WorkersConfig

            together = WorkersConfig(workers=workers, threads=chosen.threads, address=address)
            parallel = stack.enter_context(RayParallel(together))
        path = train_release(data, out, chosen, steps=steps, resume=resume, parallel=parallel)
    if not quiet:
        print_metrics(console, read_metrics(path), steps.costs, read_precision(path))
    console.print(f"release [bold]{path}[/]", highlight=False, soft_wrap=True)
