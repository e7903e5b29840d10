"""What `dataset.toml` may say: which file holds which table and what its columns mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from corerec.config import load_config
from corerec.errors import ConfigError

TimeUnit = Literal["s", "ms", "us", "iso"]
FILE_NAME = "dataset.toml"


@dataclass(frozen=True, kw_only=True)
class InteractionsSpec:
    """The table of who took what, and when."""

    file: str = ""
    """CSV or Parquet file inside the folder; empty means that the folder is a catalogue only."""
    user: str = "user_id"
    """Column of user ids."""
    item: str = "item_id"
    """Column of item ids."""
    time: str = ""
    """Column of timestamps; exactly one of `time` and `order` is given."""
    time_unit: TimeUnit = "s"
    """Unit of a numeric timestamp since 1970-01-01 UTC, or `iso` for ISO 8601 text."""
    order: str = ""
    """Column of positions in the user's history, for data without wall-clock times."""
    rating: str = ""
    """Column of ratings, kept as float32; every rating counts as an interaction."""
    event_type: str = ""
    """Column of event kinds such as `click` and `buy`."""


@dataclass(frozen=True, kw_only=True)
class ItemsSpec:
    """The catalogue; its row order gives the items their item numbers."""

    file: str
    """CSV or Parquet file inside the folder."""
    id: str = "item_id"
    """Column of item ids, each once."""
    title: str = ""
    """Column of titles."""
    category: str = ""
    """Column of the one main category."""
    creator: str = ""
    """Column of brand, author, artist or seller."""
    born: str = ""
    """Column of the moment from which the item could be had."""
    born_unit: TimeUnit = "s"
    """Unit of `born`, as `time_unit`."""
    categorical: tuple[str, ...] = ()
    """Further columns with one word each."""
    multi: tuple[str, ...] = ()
    """Further columns with several words each: lists in Parquet, separated text in CSV."""
    multi_separator: str = "|"
    """What separates the words of a `multi` column of text."""
    numeric: tuple[str, ...] = ()
    """Further columns of numbers."""


@dataclass(frozen=True, kw_only=True)
class UsersSpec:
    """The users' attributes; users without a row have none."""

    file: str = ""
    """CSV or Parquet file inside the folder; empty when nothing is known of users."""
    id: str = "user_id"
    """Column of user ids, each once."""
    categorical: tuple[str, ...] = ()
    """Columns with one word each."""
    numeric: tuple[str, ...] = ()
    """Columns of numbers."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """All of `dataset.toml`."""

    format: Literal[1]
    """Version of this file format."""
    name: str
    """Name of the data set, shown in reports and kept in releases."""
    items: ItemsSpec
    interactions: InteractionsSpec = field(default_factory=InteractionsSpec)
    users: UsersSpec = field(default_factory=UsersSpec)
    vectors: Mapping[str, str] = field(default_factory=dict)
    """Name of a vector set -> `.npy` file whose row i belongs to row i of the items."""


_ITEM_FRAME = {"item_number", "item_id", "title", "category", "creator", "born_micros"}
_USER_FRAME = {"user_id", "user_row"}


def load_spec(root: Path) -> DatasetSpec:
    """Return the checked `dataset.toml` of the folder.

    Raises:
        ConfigError: naming the file, the key, the rule and the value.
    """
    path = root / FILE_NAME
    spec = load_config(DatasetSpec, path)
    check_spec(spec, path)
    return spec


def check_spec(spec: DatasetSpec, path: Path) -> None:
    """Raise ConfigError where a spec breaks a rule; `path` is what errors call it."""
    if not spec.name:
        raise ConfigError(f"{path}: name must not be empty")
    events = spec.interactions
    if events.file and bool(events.time) == bool(events.order):
        raise ConfigError(
            f"{path}: interactions must have exactly one of time and order, "
            f"got time={events.time!r} and order={events.order!r}"
        )
    items, users = spec.items, spec.users
    if not items.multi_separator:
        raise ConfigError(f"{path}: items.multi_separator must not be empty")
    named = [items.title, items.category, items.creator, items.born]
    extra = (*items.categorical, *items.multi, *items.numeric)
    _refuse_repeats(path, "items", [name for name in named if name] + list(extra))
    _refuse_reserved(path, "items", extra, _ITEM_FRAME)
    extra = (*users.categorical, *users.numeric)
    _refuse_repeats(path, "users", list(extra))
    _refuse_reserved(path, "users", extra, _USER_FRAME)
    files = [events.file, items.file, users.file, *spec.vectors.values()]
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ConfigError(f"{path}: a file must lie inside the data set folder, got {name!r}")


def _refuse_repeats(path: Path, table: str, columns: list[str]) -> None:
    seen: set[str] = set()
    for column in columns:
        if column in seen:
            raise ConfigError(f"{path}: {table} must name each column once, got {column!r} twice")
        seen.add(column)


def _refuse_reserved(path: Path, table: str, columns: tuple[str, ...], reserved: set[str]) -> None:
    for column in columns:
        if column in reserved:
            raise ConfigError(
                f"{path}: {table} must not use the reserved name {column!r} for an attribute; "
                f"reserved: {sorted(reserved)}"
            )
