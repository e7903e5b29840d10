"""`corerec recommend`, `explain`, `record` and `showcase`: what a running cluster answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from corerec.cli.serve import STATE, running_address, running_state

Address = Annotated[
    str, typer.Option(help="host:port of the gateway; empty means the cluster of --state-dir.")
]
StateDir = Annotated[Path, typer.Option("--state-dir", help="Folder of a cluster started here.")]
User = Annotated[str, typer.Option(help="Id of the user; empty is an anonymous user.")]
Timeout = Annotated[float, typer.Option(help="Deadline of the call, seconds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def recommend(
    user: User = "",
    n: Annotated[int, typer.Option("-n", help="Number of items.")] = 10,
    attribute: Annotated[
        list[str] | None, typer.Option(help="name=value, overriding the stored one.")
    ] = None,
    recent: Annotated[
        list[str] | None, typer.Option(help="Item id of this session; may be repeated.")
    ] = None,
    include_seen: Annotated[bool, typer.Option(help="Allow items the user already has.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Condition on items: category=Rugs, category=Rugs|Lamps, brand!=Acme, price<=20."
        ),
    ] = None,
    timeout: Timeout = 2.0,
    address: Address = "",
    state_dir: StateDir = STATE,
    as_json: AsJson = False,
) -> None:
    """Ask for recommendations and print them."""
    from corerec.cli.conditions import parse_where
    from corerec.cli.show import show_recommendation
    from corerec.client import Client

    with Client(address or running_address(state_dir), timeout=timeout) as client:
        answer = client.recommend(
            user,
            n,
            attributes=_attributes(attribute or ()),
            recent=recent or (),
            include_seen=include_seen,
            where=parse_where(where or ()),
        )
    if as_json:
        typer.echo(json.dumps(asdict(answer)))
    else:
        show_recommendation(answer)


def explain(
    user: User = "",
    item: Annotated[
        list[str] | None, typer.Option(help="Item id to explain; may be repeated.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Number of items in the list.")] = 10,
    timeout: Timeout = 2.0,
    address: Address = "",
    state_dir: StateDir = STATE,
    as_json: AsJson = False,
) -> None:
    """Show where items entered the funnel, how each stage scored them and what removed them."""
    from corerec.cli.show import show_explanation
    from corerec.client import Client

    with Client(address or running_address(state_dir), timeout=timeout) as client:
        answer = client.explain(user, item or (), n)
    if as_json:
        typer.echo(json.dumps(asdict(answer)))
    else:
        show_explanation(answer)


def record(
    user: Annotated[str, typer.Option(help="Id of the user.")],
    item: Annotated[list[str], typer.Option(help="Item id; may be repeated.")],
    event_type: Annotated[str, typer.Option(help="Kind of the event.")] = "interaction",
    timeout: Timeout = 2.0,
    address: Address = "",
    state_dir: StateDir = STATE,
) -> None:
    """Record events; the user's next recommendation knows them."""
    from corerec.client import Client, Event

    events = [Event(user_id=user, item_id=i, event_type=event_type) for i in item]
    with Client(address or running_address(state_dir), timeout=timeout) as client:
        stored = client.record(events)
    typer.echo(f"stored {stored} of {len(events)} events")


def showcase(
    users: Annotated[int, typer.Option(help="How many users to show.")] = 3,
    timeout: Timeout = 5.0,
    address: Address = "",
    state_dir: StateDir = STATE,
) -> None:
    """Show a few users of the running cluster's release, with what to try next."""
    from corerec.cli.show import show_explanation, show_next_steps
    from corerec.client import Client

    state = running_state(state_dir)
    chosen = _some_users(Path(state["release_path"]), users)
    where = address or str(state["address"])
    with Client(where, timeout=timeout) as client:
        for user in chosen:
            show_explanation(client.explain(user), user=user, list_only=True)
    show_next_steps(where, chosen[0] if chosen else "", state_dir)


def _some_users(release: Path, count: int) -> Sequence[str]:
    """Return users with long, middling and short histories, the same ones every time."""
    import polars as pl

    lengths = (
        pl.scan_parquet(release / "histories.parquet")
        .group_by("user_id")
        .len()
        .sort("len", "user_id", descending=[True, False])
        .collect()
    )
    places = [int((i + 0.5) * len(lengths) / count) for i in range(min(count, len(lengths)))]
    return [str(user) for user in lengths["user_id"].gather(places)]


def _attributes(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"--attribute must be name=value, got {pair!r}")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
