"""The live catalogue as of a position, inside a release: what changed since its training.

`live_items.parquet` has one row an item that ever changed, by position: its number, id, position,
whether it is deleted, and the item as the store packs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from corerec.errors import ReleaseError
from corerec.release import OpenRelease
from corerec.store.catalogue import ItemChange, pack_item, unpack_item

FILE = "live_items.parquet"
POSITION = "catalogue_position"
"""Key of `info` in a manifest: the position that the snapshot is of."""
INDEXED = "indexed_position"
"""Key of `info`: the position that the release's indexes were built with."""
PART = 1000
"""Changes that are given at once."""
_SCHEMA: dict[str, Any] = {
    "number": pl.Int64(),
    "item_id": pl.String(),
    "position": pl.Int64(),
    "deleted": pl.Boolean(),
    "payload": pl.Binary(),
}


def write_snapshot(path: Path, changes: Iterable[ItemChange]) -> int:
    """Write changes, each item once and by position, and return how many there were."""
    rows = [
        (
            change.number,
            change.item_id,
            change.position,
            change.item is None,
            b"" if change.item is None else pack_item(change.item),
        )
        for change in changes
    ]
    pl.DataFrame(rows, schema=_SCHEMA, orient="row").write_parquet(path, compression="zstd")
    return len(rows)


def read_position(release: OpenRelease) -> int:
    """Return the position of the catalogue that a release holds, 0 for that of its training."""
    return int(release.info.get(POSITION) or 0)


def is_indexed(release: OpenRelease) -> bool:
    """Say whether the indexes of a release were built with its snapshot."""
    return int(release.info.get(INDEXED) or 0) >= read_position(release)


def read_snapshot(release: OpenRelease, part: int = PART) -> Iterator[Sequence[ItemChange]]:
    """Yield the changes that a release holds, by position, at most `part` at once.

    Raises:
        ReleaseError: the file is not what `write_snapshot` writes, or not of the release's
            position.
    """
    position = read_position(release)
    if not release.has(FILE):
        if position:
            raise ReleaseError(f"release {release.id} is of position {position} but has no {FILE}")
        return
    path = release.file(FILE)
    frame = _read(path)
    _check(frame, position, path)
    for start in range(0, frame.height, part):
        yield [_change(row, path) for row in frame.slice(start, part).iter_rows()]


def _read(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ReleaseError(f"{path}: not a readable Parquet file: {error}") from None
    if dict(frame.schema) != _SCHEMA:
        raise ReleaseError(f"{path}: columns must be {list(_SCHEMA)}, got {dict(frame.schema)}")
    return frame


def _check(frame: pl.DataFrame, position: int, path: Path) -> None:
    if any(frame[name].null_count() for name in _SCHEMA):
        raise ReleaseError(f"{path}: a value is missing")
    positions = frame["position"]
    newest = positions[-1] if frame.height else 0
    if newest != position:
        # The newest change is always there: a store keeps each item's last one.
        raise ReleaseError(f"{path}: must end at position {position}, got {newest}")
    if frame.height and ((positions.diff().drop_nulls() <= 0).any() or positions[0] <= 0):
        raise ReleaseError(f"{path}: positions must be above 0 and ascend")
    for name in ("number", "item_id"):
        if frame[name].n_unique() != frame.height:
            raise ReleaseError(f"{path}: {name} must be there once each")


def _change(row: tuple[int, str, int, bool, bytes], path: Path) -> ItemChange:
    number, item_id, position, deleted, payload = row
    try:
        item = None if deleted else unpack_item(payload)
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{path}: item {item_id!r} cannot be read: {error}") from None
    return ItemChange(position=position, number=number, item_id=item_id, item=item)
