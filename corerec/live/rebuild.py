"""Writes a release anew with the catalogue as it is: the same models, the changes since training.

Models are copied. What changed lies beside them as a snapshot, which a core applies when it loads,
and the indexes are over everything that is alive, so that no core has to move it into its own. The
vectors themselves are computed again from the snapshot: encoding 100,000 items takes 1.5 seconds,
less than reading and verifying them in a file, and they cannot disagree with the models.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corerec.errors import FailedPrecondition
from corerec.live.indexes import sources_of, write_indexes
from corerec.live.snapshot import (
    FILE,
    INDEXED,
    POSITION,
    read_position,
    read_snapshot,
    write_snapshot,
)
from corerec.release import Catalogue, Release, ReleaseWriter
from corerec.retrieval.source_files import is_index_file
from corerec.store import Store
from corerec.store.catalogue import ItemChange

POPULAR = "popular.parquet"
Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and of how much."""
_PAGE, _PART = 1000, 10_000


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A release that was written anew."""

    path: Path
    position: int
    """Position of the catalogue that it holds; later changes come from the store."""
    changed: int
    """Items of the training that were replaced."""
    added: int
    """Items that came later and are alive."""
    deleted: int


def rebuild(
    release: Release,
    store: Store,
    out: Path,
    *,
    release_id: str | None = None,
    report: Report | None = None,
) -> Rebuilt:
    """Write the release with the store's catalogue into `out`, while changes go on.

    Changes that come meanwhile have later positions and are not in it; whoever loads it reads them
    from the store, so that none is lost.

    Raises:
        FailedPrecondition: the store is not the one of this release.
        Unavailable: the store cannot be read.
    """
    changes = read_changes(store, report)
    position = changes[-1].position if changes else 0
    _check(release, changes, position)
    with ReleaseWriter(out, release_id) as writer:
        own, kinds = {FILE, POPULAR}, sources_of(release)
        names = [n for n in release.names if n not in own and not is_index_file(n, kinds)]
        for done, name in enumerate(names):
            if report is not None:
                report("Copy files", done, len(names))
            shutil.copyfile(release.file(name), writer.path(name))
        if report is not None:
            report("Write indexes", 0, 1)
        parts = [changes[start : start + _PART] for start in range(0, len(changes), _PART)]
        write_indexes(release, writer, parts)
        write_snapshot(writer.path(FILE), changes)
        if release.has(POPULAR):
            _write_popular(release.file(POPULAR), writer.path(POPULAR), changes)
        built = {POSITION: position, INDEXED: position, "rebuilt_from": release.id}
        path = writer.commit({**release.info, **built})
    kept = sum(len(part) for part in read_snapshot(Release.open(path, verify=False)))
    if kept != len(changes):
        raise FailedPrecondition(f"{path / FILE}: must hold {len(changes)} changes, got {kept}")
    count = len(release.catalogue)
    return Rebuilt(
        path=path,
        position=position,
        changed=sum(c.item is not None and c.number < count for c in changes),
        added=sum(c.item is not None and c.number >= count for c in changes),
        deleted=sum(c.item is None for c in changes),
    )


def read_changes(store: Store, report: Report | None = None) -> list[ItemChange]:
    """Return every item that ever changed, by position, as of a position during the call.

    An item that changes while it is read may be there as it was, or not at all where it had not
    been read: its change then has a later position than the last that is returned.
    """
    target, after = store.position(), 0
    found: dict[int, ItemChange] = {}
    # Not until nothing comes: writers may be faster than this.
    while after < target:
        page = store.changes(after, _PAGE)
        if not page:
            break
        for change in page:
            found.pop(change.number, None)
            found[change.number] = change
        after = page[-1].position
        if report is not None:
            report("Read the catalogue", min(after, target), target)
    return list(found.values())


def _check(release: Release, changes: Sequence[ItemChange], position: int) -> None:
    """Refuse a store that gave other items the numbers that the release's have."""
    if position < (had := read_position(release)):
        raise FailedPrecondition(
            f"the store is at position {position} and release {release.id} at {had}: "
            "it is not the store that the release was made from"
        )
    catalogue: Catalogue = release.catalogue
    count = len(catalogue)
    for change in changes:
        own = catalogue.number_of(change.item_id)
        if own is None and change.number >= count:
            continue
        if own != change.number:
            raise FailedPrecondition(
                f"item {change.item_id!r} has number {change.number} in the store and "
                f"{'none' if own is None else own} in release {release.id}: "
                "it is not the store of this release"
            )


def _write_popular(source: Path, target: Path, changes: Sequence[ItemChange]) -> None:
    """Write the popular list without what was deleted."""
    gone = np.array([c.number for c in changes if c.item is None], np.int64)
    popular = pl.read_parquet(source)
    kept = ~np.isin(popular["item_number"].to_numpy(), gone)
    popular.filter(pl.Series(kept)).write_parquet(target)
