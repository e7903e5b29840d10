"""Reads one CSV or Parquet table and turns its columns into typed ones, or says which line is bad.

Everything in a CSV is read as text, then converted here, so that no value changes silently.
"""

from __future__ import annotations

import codecs
import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from corerec.errors import DataError

_CHUNK = 1 << 22
_SCALE = {"s": 1_000_000, "ms": 1_000, "us": 1}
_LAST_MICROS = 253_402_300_799_999_999  # 9999-12-31: later means a wrong unit


@dataclass(frozen=True)
class Table:
    """A table as read, with what is needed to point at a line of its file."""

    path: Path
    frame: pl.DataFrame
    first_line: int | None = None
    """Line of data row 0 where every row is one line; None looks it up in the file."""

    def line(self, row: int) -> int:
        """Return the line of the file that data row `row` (from 0) starts on."""
        return line_of(self.path, row) if self.first_line is None else self.first_line + row

    def error(
        self, rule: str, *, row: int | None = None, column: str | None = None, value: object = None
    ) -> DataError:
        """Return the DataError for data row `row` (from 0)."""
        line = None if row is None else self.line(row)
        return DataError(rule, file=self.path, line=line, column=column, value=value)

    def refuse(self, bad: pl.Series, rule: str, column: str) -> None:
        """Raise DataError at the first row where `bad` is true."""
        row = bad.arg_max() if bad.any() else None
        if row is not None:
            value = self.frame[column][row]
            raise self.error(rule, row=row, column=column, value="" if value is None else value)

    def ids(self, column: str) -> pl.Series:
        """Return the column as non-empty text."""
        text = self.text(column)
        self.refuse(text.is_null() | (text == ""), "an id must not be empty", column)
        return text

    def unique_ids(self, column: str) -> pl.Series:
        """Return the column as non-empty text in which no value repeats."""
        text = self.ids(column)
        again = ~text.is_first_distinct()
        row = again.arg_max() if again.any() else None
        if row is not None:
            first = (text == text[row]).arg_max() or 0
            before = self.line(first)
            rule = f"an id must occur once, this one is on line {before} too"
            raise self.error(rule, row=row, column=column, value=text[row])
        return text

    def text(self, column: str) -> pl.Series:
        """Return the column as text, null where it is empty."""
        values = self.frame[column]
        if values.dtype == pl.String:
            return values
        if values.dtype.is_nested() or values.dtype == pl.Binary:
            kind = str(values.dtype)
            raise self.error("a column of text must not hold lists", column=column, value=kind)
        return values.cast(pl.String)

    def words(self, column: str, separator: str) -> pl.Series:
        """Return the column as lists of words; empty words are left out."""
        values = self.frame[column]
        if values.dtype != pl.List:
            values = self.text(column).str.split(separator)
        values = values.cast(pl.List(pl.String)).rename(column)
        kept = pl.col(column).list.eval(
            pl.element().filter(pl.element().is_not_null() & (pl.element() != ""))
        )
        return values.to_frame().select(kept.fill_null([])).to_series()

    def numbers(self, column: str) -> pl.Series:
        """Return the column as finite float64, null where it is empty."""
        values = self.frame[column]
        if not (values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.String)):
            kind = str(values.dtype)
            raise self.error("a column of numbers must hold numbers", column=column, value=kind)
        if values.dtype == pl.String:
            values = values.str.strip_chars().replace("", None)
        parsed = values.cast(pl.Float64, strict=False)
        bad = parsed.is_null() & values.is_not_null()
        self.refuse(bad, "a number must be readable", column)
        self.refuse(~parsed.is_finite().fill_null(True), "a number must be finite", column)
        return parsed

    def micros(self, column: str, unit: str, *, nulls: bool = False) -> pl.Series:
        """Return the column of moments as int64 microseconds since 1970-01-01 UTC."""
        values = self.frame[column]
        if values.dtype == pl.String and unit == "iso":
            moments = _iso_micros(values)
        elif values.dtype.is_temporal():
            moments = values.cast(pl.Datetime("us")).cast(pl.Int64)
        else:
            return self._numeric_micros(column, _SCALE.get(unit, 1), nulls)
        empty = values.is_null()
        if not nulls:
            self.refuse(empty, "a timestamp must not be empty", column)
        self.refuse(moments.is_null() & ~empty, "a timestamp must be readable", column)
        self.refuse((moments < 0).fill_null(False), "a timestamp must not be negative", column)
        return moments

    def _numeric_micros(self, column: str, scale: int, nulls: bool) -> pl.Series:
        values = self.frame[column]
        parsed = values.cast(pl.Int64, strict=False) if values.dtype == pl.String else values
        if not parsed.dtype.is_integer() or parsed.null_count() > values.null_count():
            parsed = self.numbers(column)
        if not nulls:
            self.refuse(parsed.is_null(), "a timestamp must not be empty", column)
        self.refuse((parsed < 0).fill_null(False), "a timestamp must not be negative", column)
        late = (parsed > _LAST_MICROS // scale).fill_null(False)
        self.refuse(late, "a timestamp must lie before the year 10000; is its unit right?", column)
        if parsed.dtype == pl.Float64:
            return (parsed * scale).round().cast(pl.Int64)
        return parsed.cast(pl.Int64) * scale


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """Return the named columns of a CSV or Parquet file.

    Raises:
        DataError: the file is missing, unreadable, empty, not UTF-8, ragged or lacks a column.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise DataError("a table must be a .csv or .parquet file", file=path, value=path.suffix)
    if not path.is_file():
        raise DataError("the file does not exist", file=path)
    wanted = list(dict.fromkeys(columns))
    frame = _read_csv(path, wanted) if path.suffix == ".csv" else _read_parquet(path, wanted)
    if frame.height == 0:
        raise DataError("a table must have at least one row", file=path, value=0)
    return Table(path, frame)


def frame_table(name: str, frame: pl.DataFrame, columns: Sequence[str]) -> Table:
    """Return the named columns of a table in memory; `name` is what errors call it.

    Raises:
        DataError: the table is empty or lacks a column.
    """
    path, wanted = Path(name), list(dict.fromkeys(columns))
    _check_columns(path, frame.columns, wanted, line=None)
    if frame.height == 0:
        raise DataError("a table must have at least one row", file=path, value=0)
    return Table(path, frame.select(wanted))


def _iso_micros(values: pl.Series) -> pl.Series:
    """Return int64 microseconds of ISO 8601 text, UTC where no offset is said, null if unread."""
    clean = pl.col("at").str.strip_chars().str.replace(" ", "T").str.replace("Z$", "+00:00")
    day = pl.col("at").str.len_chars() == 10
    clean = pl.when(day).then(clean + "T00:00:00").otherwise(clean)
    form = "%Y-%m-%dT%H:%M:%S%.f"
    offset = clean.str.to_datetime(form + "%:z", time_unit="us", strict=False)
    plain = clean.str.to_datetime(form, time_unit="us", strict=False)
    moments = pl.coalesce(offset.cast(pl.Int64), plain.cast(pl.Int64))
    return values.rename("at").to_frame().select(moments).to_series()


def line_of(path: Path, row: int) -> int:
    """Return the line of data row `row` (from 0): of the CSV file, or the row from 1 in Parquet."""
    if path.suffix != ".csv":
        return row + 1
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        start = 1
        for number, _ in enumerate(reader):
            if number == row + 1:
                return start
            start = reader.line_num + 1
    return start


def _read_parquet(path: Path, wanted: list[str]) -> pl.DataFrame:
    try:
        found = list(pl.read_parquet_schema(path))
        _check_columns(path, found, wanted, line=None)
        return pl.read_parquet(path, columns=wanted).select(wanted)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"the file is not readable as Parquet: {reason}", file=path) from None


def _read_csv(path: Path, wanted: list[str]) -> pl.DataFrame:
    if path.stat().st_size == 0:
        raise DataError("a table must not be an empty file", file=path)
    commas, quotes = _check_utf8(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    _check_columns(path, header, wanted, line=1)
    try:
        frame = pl.read_csv(path, columns=wanted, infer_schema=False).select(wanted)
    except pl.exceptions.PolarsError as error:
        raise _ragged(path, len(header)) or DataError(
            f"the file is not readable as CSV: {str(error).splitlines()[0]}", file=path
        ) from None
    # A short line reads as empty fields. Without quotes the count of commas tells; with them
    # only a line that lacks something can be short.
    doubtful = (
        frame.null_count().sum_horizontal().item() > 0
        if quotes
        else (commas != frame.height * (len(header) - 1) + len(header) - 1)
    )
    if doubtful and (short := _ragged(path, len(header))):
        raise short
    kept = frame.height
    while kept and all(value is None for value in frame.row(kept - 1)):
        kept -= 1  # empty lines at the end are harmless
    return frame.head(kept)


def _check_columns(path: Path, found: list[str], wanted: list[str], line: int | None) -> None:
    for column in wanted:
        if column not in found:
            spare = [name for name in found if name not in wanted]
            near = difflib.get_close_matches(column, spare, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"the file has {found}"
            rule = f"the column is missing; {hint}"
            raise DataError(rule, file=path, line=line, column=column)
        if found.count(column) > 1:
            raise DataError("a column must occur once", file=path, line=line, column=column)


def _check_utf8(path: Path) -> tuple[int, int]:
    """Return the counts of commas and quotes.

    Raises:
        DataError: with line and byte offset where the file is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, lines, commas, quotes = 0, 1, 0, 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                at = offset - pending + error.start
                lines += error.object[: error.start].count(b"\n")
                rule = f"text must be UTF-8, byte {at} is not"
                bad = error.object[error.start : error.start + 1]
                raise DataError(rule, file=path, line=lines, value=bad) from None
            if not chunk:
                return commas, quotes
            offset += len(chunk)
            commas += chunk.count(b",")
            quotes += chunk.count(b'"')
            lines += chunk.count(b"\n")


def _ragged(path: Path, width: int) -> DataError | None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            for record in reader:
                if record and len(record) != width:
                    rule = f"a line must have {width} fields as the header has"
                    return DataError(rule, file=path, line=line, value=len(record))
                line = reader.line_num + 1
        except csv.Error as error:
            return DataError(f"the line is not valid CSV: {error}", file=path, line=line)
    return None
