"""`corerec tune`: searches hyper-parameters on a data set's validation slice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    data: Annotated[Path, typer.Argument(help="Data set folder, the one with dataset.toml.")],
    out: Annotated[Path, typer.Option(help="Folder for trials, picture and best.toml.")] = Path(
        "search"
    ),
    model: Annotated[
        str, typer.Option(help="What to tune; see docs/distributed.md for the models.")
    ] = "two_tower",
    trials: Annotated[int, typer.Option(help="Trials in all, earlier runs included.")] = 20,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML with [space.<table>] and [train]; see docs/distributed.md."),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="What does not vary: default, quality or tiny.")
    ] = "default",
    epochs: Annotated[int | None, typer.Option(help="Most epochs of a trial.")] = None,
    concurrent: Annotated[int, typer.Option(help="Trials at a time; 0 is one a core.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Cores of all trials; 0 is all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with the trials that OUT holds.")] = True,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; else one starts here, and ends.")
    ] = None,
    quiet: Annotated[bool, typer.Option(help="No tables.")] = False,
) -> None:
    """Search hyper-parameters and write the best as best.toml, which `corerec train` takes."""
    from rich.console import Console

    from corerec.distributed.tune.objectives import base_config, objective_of
    from corerec.distributed.tune.picture import draw
    from corerec.distributed.tune.search import SearchConfig, search
    from corerec.distributed.tune.show import shown, trial_table
    from corerec.distributed.tune.space import read_space

    objective = objective_of(model)
    base = base_config(objective, preset=preset, epochs=epochs, threads=threads)
    space = read_space(config, objective.tables, objective.space, base)
    settings = SearchConfig(trials=trials, concurrent=concurrent, seed=seed)
    console = Console(quiet=quiet)
    with shown(console) as show:
        log = search(
            data, out, space, model=model, config=settings, resume=resume, changed=show,
            address=address,
        )  # fmt: skip
    console.print(trial_table(log))
    draw(log, space.parameters, out / "trials.png")
    best = log.best()
    console.print(
        f"best: trial {best.number}, {log.metric} {best.best:.4f} in epoch {best.best_epoch}\n"
        f"wrote {out / 'trials.json'}, {out / 'trials.png'}\n"
        f"next: corerec train {data} --config {out / 'best.toml'}",
        highlight=False,
        soft_wrap=True,
    )
