"""Reads what is to be encoded from the columns of a data set's items: texts and image paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corerec.data.spec import DatasetSpec, load_spec
from corerec.data.tables import Table, read_table


def texts(data: Path, columns: Sequence[str]) -> list[str]:
    """Return one text an item: its columns put together, `. ` between, lists with commas.

    Raises:
        DataError: as `corerec.data.tables.read_table`.
    """
    spec = load_spec(data)
    table = _items(data, spec, columns)
    parts = [_words(table, name, spec.items.multi_separator, spec.items.multi) for name in columns]
    return [". ".join(part for part in row if part) for row in zip(*parts, strict=True)]


def pictures(data: Path, column: str) -> list[Path | None]:
    """Return one image path an item, None where the column is empty.

    Raises:
        DataError: for a URL or a path outside the folder, with its line.
    """
    spec = load_spec(data)
    table = _items(data, spec, [column])
    found: list[Path | None] = []
    for row, value in enumerate(table.text(column).to_list()):
        if not (text := (value or "").strip()):
            found.append(None)
            continue
        if "://" in text:
            rule = "an image must be a file inside the folder, nothing is downloaded"
            raise table.error(rule, row=row, column=column, value=text)
        if Path(text).is_absolute() or ".." in Path(text).parts:
            rule = "an image must lie inside the data set folder"
            raise table.error(rule, row=row, column=column, value=text)
        found.append(data / text)
    return found


def _items(data: Path, spec: DatasetSpec, columns: Sequence[str]) -> Table:
    # With the ids: a row that is empty but for its id is an item, and an empty line is none.
    return read_table(data / spec.items.file, [spec.items.id, *columns])


def _words(table: Table, column: str, separator: str, multi: tuple[str, ...]) -> list[str]:
    if column in multi or table.frame[column].dtype.is_nested():
        lists = table.words(column, separator).to_list()
        return [", ".join(words) for words in lists]
    return [(text or "").strip() for text in table.text(column).to_list()]
