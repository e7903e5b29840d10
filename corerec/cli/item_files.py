"""Reads files of items, one a line, and names file, line and column of what is wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from corerec.client import CatalogItem
from corerec.errors import DataError

_TEXTS = ("item_id", "title", "category", "creator")
_MAPPINGS = ("attributes", "lists", "vectors")


def read_items(path: Path, lists: Sequence[str] = ()) -> Iterator[CatalogItem]:
    """Yield the items of a .jsonl or .csv file.

    Columns that are no fields of an item are attributes; in .jsonl, those that hold a list are
    lists, and so are the columns that `lists` names in .csv.

    Raises:
        DataError: the file cannot be read, or a line is not an item.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                rows: Iterator[tuple[int, dict[str, Any]]] = _csv_rows(
                    path, csv.reader(file), lists
                )
            elif path.suffix in (".jsonl", ".ndjson"):
                rows = _json_rows(path, file)
            else:
                raise DataError("the file must end in .jsonl or .csv", file=path)
            for line, row in rows:
                yield _item(path, line, row)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"must be UTF-8: {error}", file=path) from None


def _csv_rows(path: Path, rows: Any, lists: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    header: list[str] = next(rows, [])
    if missing := [name for name in ("item_id", *lists) if name not in header]:
        raise DataError(f"columns must include {missing}", file=path, line=1, value=header)
    for cells in rows:
        if not cells:
            continue
        line = rows.line_num
        if len(cells) != len(header):
            raise DataError(
                f"must have {len(header)} cells as the header has", file=path, line=line,
                value=len(cells),
            )  # fmt: skip
        row: dict[str, Any] = {n: c for n, c in zip(header, cells, strict=True) if c != ""}
        for name in lists:
            if name in row:
                row[name] = [value for value in row[name].split("|") if value]
        yield line, row


def _json_rows(path: Path, lines: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"must be JSON: {error}", file=path, line=number) from None
        if not isinstance(row, dict):
            raise DataError("must be a JSON object", file=path, line=number, value=row)
        yield number, row


def _item(path: Path, line: int, row: dict[str, Any]) -> CatalogItem:
    def wrong(rule: str, column: str, value: object) -> DataError:
        return DataError(rule, file=path, line=line, column=column, value=value)

    fields: dict[str, Any] = {name: {} for name in _MAPPINGS}
    for name, value in row.items():
        if value is None:
            continue
        if name in _TEXTS:
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise wrong("must be text", name, value)
            fields[name] = str(value)
        elif name == "born_micros":
            fields[name] = _whole(value)
            if fields[name] is None:
                raise wrong("must be whole microseconds since 1970", name, value)
        elif name in _MAPPINGS:
            if not isinstance(value, dict):
                raise wrong("must be a JSON object", name, value)
            fields[name] |= value
        elif isinstance(value, list):
            fields["lists"][name] = value
        elif isinstance(value, str | int | float):
            fields["attributes"][name] = value
        else:
            raise wrong("must be text, a number or a list of them", name, value)
    if not fields.get("item_id"):
        raise wrong("must not be empty", "item_id", fields.get("item_id", ""))
    fields["attributes"] = {name: str(own) for name, own in fields["attributes"].items()}
    for name, own in fields["lists"].items():
        if not isinstance(own, list):
            raise wrong("must be a list", f"lists.{name}", own)
        fields["lists"][name] = tuple(str(value) for value in own)
    for name, own in fields["vectors"].items():
        numbers = isinstance(own, list) and all(isinstance(x, int | float) for x in own)
        if not numbers:
            raise wrong("must be a list of numbers", f"vectors.{name}", own)
    return CatalogItem(**fields)


def _whole(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None
