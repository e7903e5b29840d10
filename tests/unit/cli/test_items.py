"""Files of items, and conditions as typed, become what the client sends, or one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from corerec.cli.conditions import parse_where
from corerec.cli.item_files import read_items
from corerec.client import CatalogItem
from corerec.errors import DataError, InvalidArgument
from corerec.stages import Predicate


def test_json_lines_become_items(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(
        '{"item_id": "a", "title": "A", "price": 3.5, "tags": ["x", 1], "vectors": {"t": [1, 2]}}\n'
        "\n"
        '{"item_id": 7, "born_micros": 5, "attributes": {"n": 1}, "creator": null}\n'
    )
    assert list(read_items(path)) == [
        CatalogItem(
            item_id="a",
            title="A",
            attributes={"price": "3.5"},
            lists={"tags": ("x", "1")},
            vectors={"t": [1, 2]},
        ),
        CatalogItem(item_id="7", born_micros=5, attributes={"n": "1"}),
    ]


def test_rows_of_a_table_become_items(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text('item_id,title,price,tags,born_micros\na,"A, b",3,x|y,5\nb,,,,\n')
    assert list(read_items(path, ["tags"])) == [
        CatalogItem(
            item_id="a",
            title="A, b",
            born_micros=5,
            attributes={"price": "3"},
            lists={"tags": ("x", "y")},
        ),
        CatalogItem(item_id="b"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.txt", "", "must end in .jsonl or .csv"),
        ("a.csv", "id\n1\n", "a.csv:1: columns must include ['item_id']"),
        ("a.csv", "item_id,title\na\n", "a.csv:2: must have 2 cells"),
        ("a.csv", "item_id,born_micros\na,soon\n", "a.csv:2, column 'born_micros': must be whole"),
        ("a.jsonl", '{"item_id": "a"}\n{"item', "a.jsonl:2: must be JSON"),
        ("a.jsonl", "[1]", "a.jsonl:1: must be a JSON object"),
        ("a.jsonl", '{"title": "x"}', "a.jsonl:1, column 'item_id': must not be empty"),
        ("a.jsonl", '{"item_id": "a", "title": ["x"]}', "column 'title': must be text"),
        ("a.jsonl", '{"item_id": "a", "lists": {"t": "x"}}', "column 'lists.t': must be a list"),
        ("a.jsonl", '{"item_id": "a", "vectors": {"t": ["x"]}}', "must be a list of numbers"),
        ("a.jsonl", '{"item_id": "a", "deep": {"x": 1}}', "column 'deep': must be text, a number"),
    ],
)
def test_what_is_no_item_is_refused_with_file_line_and_column(
    tmp_path: Path, name: str, text: str, error: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        list(read_items(path))
    assert error in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"item_id\n\xff\xfe\n")
    with pytest.raises(DataError, match="must be UTF-8"):
        list(read_items(path))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_items(tmp_path / "none.csv"))


def test_conditions_are_read_as_they_are_typed() -> None:
    assert parse_where(["category=Rugs", "tag=a|b", "brand!=Acme", "price<=20", "price >= 5"]) == (
        Predicate(attribute="category", any_of=("Rugs",)),
        Predicate(attribute="tag", any_of=("a", "b")),
        Predicate(attribute="brand", none_of=("Acme",)),
        Predicate(attribute="price", at_most=20.0),
        Predicate(attribute="price", at_least=5.0),
    )
    for wrong in ("category", "category=", "=x", "price<20", "price<=cheap"):
        with pytest.raises(InvalidArgument, match="--where"):
            parse_where([wrong])
