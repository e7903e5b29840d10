"""Profiles a data set that has been loaded: how much, how long, how skewed, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from corerec.data.dataset import Dataset

QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
_CURVE_POINTS = 10
_BAR = 40


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a person wants to know of a data set before training on it."""

    name: str
    counts: Mapping[str, int]
    span: tuple[int, int] | None
    """First and last moment in microseconds; None where there is only an order."""
    density: float
    """Share of all pairs of user and item that are interactions."""
    repeated_pairs: int
    """Interactions with an item that the user had taken before."""
    before_birth: int
    """Interactions earlier than their item's birth."""
    curve: tuple[float, ...]
    """Share of interactions that falls on each tenth of the items, most popular first."""
    per_user: tuple[float, ...]
    per_item: tuple[float, ...]
    """Quantiles of interactions at QUANTILES."""
    missing: Mapping[str, float]
    """Table.column -> share of rows without a value."""
    vectors: Mapping[str, tuple[int, int]]
    dropped: Mapping[str, int]


def profile(dataset: Dataset) -> Profile:
    """Return the profile of a data set."""
    events = dataset.interactions
    per_item = np.bincount(events["item_number"], minlength=dataset.items.height)
    per_user = np.bincount(events["user_row"], minlength=dataset.users.height)
    times = events["time_micros"]
    pairs = events["user_row"].cast(pl.Int64) * dataset.items.height + events["item_number"]
    first, last = int(times.to_numpy().min()), int(times.to_numpy().max())
    return Profile(
        name=dataset.name,
        counts={
            "interactions": events.height,
            "users": dataset.users.height,
            "items": dataset.items.height,
            "users without interactions": int((per_user == 0).sum()),
            "items without interactions": int((per_item == 0).sum()),
        },
        span=(first, last) if dataset.has_times else None,
        density=pairs.n_unique() / (dataset.users.height * dataset.items.height),
        repeated_pairs=events.height - pairs.n_unique(),
        before_birth=_before_birth(dataset),
        curve=_curve(per_item),
        per_user=_quantiles(per_user),
        per_item=_quantiles(per_item),
        missing=_missing(dataset),
        vectors={name: (len(v), v.shape[1]) for name, v in dataset.vectors.items()},
        dropped=dict(dataset.dropped),
    )


def _before_birth(dataset: Dataset) -> int:
    if not dataset.has_times:
        return 0
    born = dataset.items["born_micros"].fill_null(0).to_numpy()
    numbers = dataset.interactions["item_number"].to_numpy()
    return int((dataset.interactions["time_micros"].to_numpy() < born[numbers]).sum())


def _curve(per_item: NDArray[np.int64]) -> tuple[float, ...]:
    falling = np.sort(per_item)[::-1]
    tenths = np.array_split(falling, _CURVE_POINTS)
    return tuple(float(tenth.sum() / falling.sum()) for tenth in tenths)


def _quantiles(counts: NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(float(q) for q in np.quantile(counts, QUANTILES))


def _missing(dataset: Dataset) -> dict[str, float]:
    found = {}
    for name, frame in (("items", dataset.items), ("users", dataset.users)):
        for column in frame.columns:
            values = frame[column]
            empty = values.list.len() == 0 if values.dtype == pl.List else values.is_null()
            found[f"{name}.{column}"] = float(empty.fill_null(True).mean() or 0.0)  # type: ignore[arg-type]
    return found


def render(found: Profile) -> RenderableType:
    """Return the profile as rich tables."""
    return Group(
        Text(found.name, style="bold"),
        _facts(found),
        Text("\nInteractions by tenth of the items, most popular first", style="bold"),
        _curve_table(found.curve),
        Text("\nInteractions per user and per item", style="bold"),
        _quantile_table(found),
        Text("\nMissing values", style="bold"),
        _missing_table(found),
    )


def _facts(found: Profile) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, count in found.counts.items():
        table.add_row(name, f"{count:,}")
    if found.span:
        first, last = (_day(moment) for moment in found.span)
        days = (found.span[1] - found.span[0]) / 86_400e6
        table.add_row("time span", f"{first} to {last} ({days:,.0f} days)")
    else:
        table.add_row("time span", "no times, an order per user")
    table.add_row("density", f"{found.density:.4%} of all pairs of user and item")
    table.add_row("repeated pairs", f"{found.repeated_pairs:,}")
    if found.span:
        table.add_row("before the item's birth", f"{found.before_birth:,}")
    for name, (_, depth) in found.vectors.items():
        table.add_row(f"vectors {name}", f"{depth} dimensions, all finite")
    for reason, count in found.dropped.items():
        table.add_row(f"dropped, {reason.replace('_', ' ')}", Text(f"{count:,}", style="yellow"))
    return table


def _curve_table(curve: tuple[float, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    for place, share in enumerate(curve):
        bar = "█" * round(_BAR * share / max(curve)) or "▏"
        label = f"{place * 10}-{place * 10 + 10}%"
        table.add_row(label, Text(bar, style="cyan"), f"{share:.1%}")
    return table


def _quantile_table(found: Profile) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("least", "10%", "median", "90%", "99%", "most"):
        table.add_column(name, justify="right")
    table.add_row("per user", *(f"{count:,.0f}" for count in found.per_user))
    table.add_row("per item", *(f"{count:,.0f}" for count in found.per_item))
    return table


def _missing_table(found: Profile) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for column, share in found.missing.items():
        if share > 0:
            table.add_row(column, f"{share:.1%}")
    return table if table.row_count else Text("none")


def _day(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).strftime("%Y-%m-%d")
