"""Finds the files of a source, in a folder, a zip or packed one by one, and reads their tables."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from corerec.data.spec import DatasetSpec
from corerec.data.tables import Table
from corerec.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A source turned into tables, ready to be written."""

    spec: DatasetSpec
    items: pl.DataFrame
    interactions: pl.DataFrame
    users: pl.DataFrame | None = None
    notes: tuple[str, ...] = ()
    """What a person should know about the result, such as what was left out."""


@dataclass(frozen=True)
class Found:
    """One file of a source, unpacked."""

    path: Path
    content: bytes

    def text(self) -> str:
        """Return the text: UTF-8 where it is that, else Latin-1, as the old data sets are."""
        try:
            return self.content.decode("utf-8-sig")
        except UnicodeDecodeError:
            return self.content.decode("latin-1")

    def lines(self) -> pl.Series:
        """Return the lines as text, without empty ones at the end.

        Raises:
            DataError: there is no line.
        """
        content = io.BytesIO(self.text().encode())
        try:
            # One column: the separator is a byte that no text has.
            frame = pl.read_csv(
                content, has_header=False, separator="\x01", quote_char=None, infer_schema=False
            )
        except pl.exceptions.NoDataError:
            frame = pl.DataFrame({"column_1": []}, schema={"column_1": pl.String})
        lines = frame.to_series(0).rename("line").fill_null("").str.strip_chars_end("\r")
        while len(lines) and lines[-1].strip() == "":
            lines = lines.head(len(lines) - 1)
        if len(lines) == 0:
            raise DataError("a table must have at least one row", file=self.path, value=0)
        return lines


class Source:
    """A folder, a zip or a single file."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise DataError("the source does not exist", file=path)
        self.path = path

    def need(self, *names: str) -> Found:
        """Return the first file that exists of `names`. Raises DataError when none does."""
        for name in names:
            if found := self.find(name):
                return found
        rule = f"the source must have the file {' or '.join(names)} (plain, .gz or .zip)"
        raise DataError(rule, file=self.path)

    def find(self, name: str) -> Found | None:
        """Return the file of that base name, wherever it lies in the source, or None."""
        if self.path.is_dir():
            for packed in (name, f"{name}.gz", f"{name}.zip"):
                if paths := sorted(self.path.rglob(packed)):
                    return unpack(paths[0])
            return None
        if zipfile.is_zipfile(self.path):
            return _from_zip(self.path, name)
        return None

    def single(self) -> Found:
        """Return the source itself as one file. Raises DataError when it is a folder."""
        if self.path.is_dir():
            raise DataError("the source must be a file, not a folder", file=self.path)
        return unpack(self.path)


def unpack(path: Path) -> Found:
    """Return a plain, .gz or one-file .zip file's content."""
    try:
        if path.suffix == ".gz":
            return Found(path, gzip.decompress(path.read_bytes()))
        if path.suffix == ".zip":
            found = _from_zip(path, None)
            if found is None:
                raise DataError("the zip must hold a file", file=path)
            return found
        return Found(path, path.read_bytes())
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"the file cannot be read: {error}", file=path) from None


def _from_zip(path: Path, name: str | None) -> Found | None:
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.namelist()):
            base = member.rsplit("/", 1)[-1]
            if base and not member.startswith("__MACOSX") and name in (None, base):
                return Found(path / member, archive.read(member))
    return None


def delimited(found: Found, separator: str, columns: list[str], *, header: bool = False) -> Table:
    """Return the lines of a file as text columns; each line must have the fields of `columns`.

    Raises:
        DataError: naming the file and the first line with too few or too many fields.
    """
    first = 1 + header
    lines = found.lines().slice(first - 1)
    if len(lines) == 0:
        raise DataError("a table must have at least one row", file=found.path, value=0)
    parts = lines.str.split(separator)
    widths = parts.list.len()
    bad = (widths != len(columns)).arg_max() if (widths != len(columns)).any() else None
    if bad is not None:
        rule = f"a line must have {len(columns)} fields separated by {separator!r}"
        raise DataError(rule, file=found.path, line=first + bad, value=widths[bad])
    frame = parts.list.to_struct(fields=columns).struct.unnest()
    return Table(found.path, frame, first_line=first)


def csv_table(found: Found, separator: str = ",") -> Table:
    """Return a CSV with a header as text columns, quotes understood."""
    try:
        content = found.text().encode()
        frame = pl.read_csv(io.BytesIO(content), infer_schema=False, separator=separator)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"the file is not readable as CSV: {reason}", file=found.path) from None
    # A quoted field may hold line ends; only in a file that lies there plainly are they counted.
    plain = found.path.suffix == ".csv" and found.path.is_file()
    return Table(found.path, frame, first_line=None if plain else 2)
