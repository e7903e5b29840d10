"""Imports goodbooks-10k (Zajac 2017, CC BY-SA 4.0), first and second edition."""

from __future__ import annotations

import polars as pl

from corerec.data.importers.source import Imported, Source, csv_table
from corerec.data.spec import DatasetSpec, InteractionsSpec, ItemsSpec


def read_goodbooks(source: Source) -> Imported:
    """Return books and ratings. There are no times: a user's order is that of the file."""
    books = csv_table(source.need("books.csv"))
    # The first edition's ratings name books by `id`, the second's by `book_id`.
    key = "id" if "id" in books.frame.columns else "book_id"
    year = books.numbers("original_publication_year").rename("year")
    items = books.frame.with_columns(books.unique_ids(key).rename("item_id"), year).select(
        "item_id",
        "title",
        pl.col("authors").str.split(", ").list.first().alias("creator"),
        pl.col("authors").str.split(", ").alias("authors"),
        "language_code",
        "year",
    )
    ratings = csv_table(source.need("ratings.csv"))
    interactions = pl.DataFrame(
        [
            ratings.ids("user_id").rename("user_id"),
            ratings.ids("book_id").rename("item_id"),
            ratings.numbers("rating").rename("rating"),
        ]
    )
    once = interactions.with_row_index("order").unique(
        ["user_id", "item_id"], keep="first", maintain_order=True
    )
    repeats = interactions.height - once.height
    notes = ["there are no times: a user's order is that of the file"]
    if repeats:
        notes.append(f"left out {repeats:,} repeated ratings of the same book by the same user")
    return Imported(
        spec=DatasetSpec(
            format=1,
            name="goodbooks",
            interactions=InteractionsSpec(
                file="interactions.parquet", order="order", rating="rating"
            ),
            items=ItemsSpec(
                file="items.parquet",
                title="title",
                creator="creator",
                categorical=("language_code",),
                multi=("authors",),
                numeric=("year",),
            ),
        ),
        items=items,
        interactions=once,
        notes=tuple(notes),
    )
