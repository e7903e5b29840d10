"""Turns the tables of a release into the rows that a store is seeded with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corerec.errors import FailedPrecondition, ReleaseError
from corerec.release import Release
from corerec.stages import MAX_HISTORY
from corerec.store.rows import checksum, pack, pack_attributes

UserRow = tuple[str, str, int]
HistoryRow = tuple[str, bytes, bytes, int, int]

USERS = "users.parquet"
HISTORIES = "histories.parquet"
LIVE_ITEMS = "live_items.parquet"
TABLES = ("catalogue.parquet", USERS, HISTORIES, LIVE_ITEMS)


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRows:
    """The live items that a release was rebuilt with."""

    position: int
    """Position of the newest change among them, 0 when there are none."""
    rows: list[tuple[int, str, int, int, bytes]]
    """(number, item_id, position, deleted, payload) of each item."""


def fingerprint(release: Release) -> str:
    """Return what tells the data of one release from another's: the digests of its tables."""
    files = release.manifest.files
    return " ".join(files[name].sha256 for name in TABLES if name in files)


def read_users(release: Release) -> tuple[int, Iterator[UserRow]]:
    """Return the number of users and their rows (user_id, attributes JSON, checksum)."""
    path = release.file(USERS)
    frame = _read(path, {"user_id": pl.String})
    names = [name for name in frame.columns if name != "user_id"]
    texts = frame.select("user_id", *(pl.col(name).cast(pl.String) for name in names))

    def rows() -> Iterator[UserRow]:
        for user_id, *values in texts.iter_rows():
            known = {n: v for n, v in zip(names, values, strict=True) if v is not None}
            text = pack_attributes(known)
            yield user_id, text, checksum(user_id, text.encode())

    return frame.height, rows()


def read_histories(release: Release) -> tuple[int, Iterator[HistoryRow]]:
    """Return the number of users with events and their rows.

    A row is (user_id, items, times, count, checksum), in order of time, the newest 1000.
    """
    path = release.file(HISTORIES)
    columns = {"user_id": pl.String, "item_number": pl.Int64, "event_time_micros": pl.Int64}
    # A stable sort keeps the order of the file where times are equal.
    frame = _read(path, columns).sort("user_id", "event_time_micros", maintain_order=True)
    items = frame["item_number"].to_numpy()
    times = frame["event_time_micros"].to_numpy()
    if len(items) and not (items.min() >= 0 and items.max() < len(release.catalogue)):
        raise ReleaseError(f"{path}: item_number must be in [0, {len(release.catalogue)})")
    runs = frame.select(pl.col("user_id").rle().struct.unnest())
    ends = np.cumsum(runs["len"].to_numpy(), dtype=np.int64).tolist()
    users = runs["value"].to_list()

    def rows() -> Iterator[HistoryRow]:
        start = 0
        for user_id, end in zip(users, ends, strict=True):
            first = max(start, end - MAX_HISTORY)
            columns = pack(items[first:end]), pack(times[first:end])
            yield user_id, *columns, end - first, checksum(user_id, *columns)
            start = end

    return len(users), rows()


def read_live(release: Release) -> LiveRows:
    """Return the live items of a release; none when it was not rebuilt from a store."""
    path = release.file(LIVE_ITEMS) if LIVE_ITEMS in release.manifest.files else None
    if path is None:
        return LiveRows(position=0, rows=[])
    columns = {
        "number": pl.Int64,
        "item_id": pl.String,
        "position": pl.Int64,
        "deleted": pl.Boolean,
        "payload": pl.Binary,
    }
    frame = _read(path, columns).sort("position")
    position = release.info.get("catalogue_position", 0)
    newest = frame["position"][-1] if frame.height else 0
    if position != newest:
        raise ReleaseError(
            f"{path}: its newest position must be the release's catalogue_position, {position}, "
            f"got {newest}"
        )
    for name in ("number", "item_id", "position"):
        if frame[name].n_unique() != frame.height:
            raise ReleaseError(f"{path}: column {name!r} must have no value twice")
    listed = frame.select(
        pl.col("number", "item_id", "position"), pl.col("deleted").cast(pl.Int64), "payload"
    )
    return LiveRows(position=position, rows=listed.rows())


def disagreement(place: object, number: int, own: str | None, other: str | None) -> Exception:
    """Return the error of a release that gives a number to another item than the store does."""
    mine = "no item" if own is None else repr(own)
    got = "no such item" if other is None else repr(other)
    return FailedPrecondition(
        f"item number {number} is {mine} in store {place} but {got} in the release, and a number "
        "never changes its item; use another store for this release"
    )


def behind(place: object, wanted: int, position: int) -> Exception:
    """Return the error of a store that lacks changes which the release was rebuilt with."""
    return FailedPrecondition(
        f"store {place} must be at position {wanted} or later, where the release was rebuilt, got "
        f"{position}; use the store that it was rebuilt from, or an empty one"
    )


def _read(path: Path, columns: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ReleaseError(f"{path}: not a readable Parquet file: {error}") from None
    for name, kind in columns.items():
        if frame.schema.get(name) != kind:
            raise ReleaseError(
                f"{path}: column {name!r} must be {kind.__name__}, got {frame.schema.get(name)}"
            )
        if frame[name].null_count():
            raise ReleaseError(f"{path}: column {name!r} must have no missing values")
    return frame
