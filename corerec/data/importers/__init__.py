"""Turns well-known data sets and plain files into data set folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from corerec.data.importers.goodbooks import read_goodbooks
from corerec.data.importers.movielens import read_movielens_1m, read_movielens_100k
from corerec.data.importers.plain import read_csv, read_sequences
from corerec.data.importers.source import Imported, Source
from corerec.data.write import check_target, write_dataset
from corerec.errors import InvalidArgument


@dataclass(frozen=True)
class Kind:
    """One form of source."""

    read: Callable[[Source], Imported]
    help: str


KINDS: Mapping[str, Kind] = {
    "movielens-100k": Kind(read_movielens_100k, "folder or zip with u.data, u.item, u.user"),
    "movielens-1m": Kind(
        read_movielens_1m, "folder or zip with ratings.dat, movies.dat, users.dat"
    ),
    "goodbooks": Kind(read_goodbooks, "folder with ratings.csv and books.csv, also zipped"),
    "csv": Kind(read_csv, "file of user,item[,timestamp[,rating]], with or without a header"),
    "sequences": Kind(read_sequences, "file of lines `user item item ..`, each user's in order"),
}


def import_dataset(
    kind: str, source: Path, out: Path, *, overwrite: bool = False
) -> tuple[str, ...]:
    """Read `source`, which is of the form `kind`, and write the data set folder `out`.

    Returns notes on what was left out or guessed, if anything was.

    Raises:
        InvalidArgument: no such kind, or `out` exists and may not be replaced.
        DataError: the source is wrong; names file, line, column, rule and value.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_target(out, overwrite=overwrite)
    made = KINDS[kind].read(Source(source))
    write_dataset(
        out,
        made.spec,
        items=made.items,
        interactions=made.interactions,
        users=made.users,
        overwrite=overwrite,
    )
    return made.notes
