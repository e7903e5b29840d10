"""Imports plain files: user,item,timestamp tables, and sequences in the form of SASRec's data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl

from corerec.data.importers.movielens import USER_COLUMNS, movies_1m, users_1m
from corerec.data.importers.source import Found, Imported, Source, csv_table, delimited, unpack
from corerec.data.spec import DatasetSpec, InteractionsSpec, ItemsSpec, TimeUnit, UsersSpec
from corerec.data.tables import Table
from corerec.errors import DataError

_USER = ("user", "user_id", "userid", "uid", "customer", "customer_id")
_ITEM = ("item", "item_id", "itemid", "iid", "movie_id", "movieid", "product", "product_id")
_TIME = ("timestamp", "time", "ts", "date", "datetime", "event_time", "t")
_RATING = ("rating", "score", "value", "weight")
_SECONDS_UNTIL = 10_000_000_000
_MILLIS_UNTIL = 10_000_000_000_000


def read_csv(source: Source) -> Imported:
    """Return a file of user, item, and maybe timestamp and rating.

    A header names the columns; without one they are user,item,timestamp,rating. Without
    timestamps the lines are taken to be in each user's order.
    """
    found = source.single()
    separator = next((s for s in ("\t", ";", ",") if s in found.text()[:4096]), ",")
    table = _with_roles(found, separator)
    columns = [table.ids("user_id").rename("user_id"), table.ids("item_id").rename("item_id")]
    if "timestamp" in table.frame.columns:
        unit = _unit(table)
        columns.append(table.micros("timestamp", unit).rename("timestamp"))
    if "rating" in table.frame.columns:
        columns.append(table.numbers("rating").rename("rating"))
    return _of_events(pl.DataFrame(columns), _stem(found.path))


def _with_roles(found: Found, separator: str) -> Table:
    first = re.split(re.escape(separator), found.lines()[0])
    names = [name.strip().strip('"').lower() for name in first]
    roles = {"user_id": _USER, "item_id": _ITEM, "timestamp": _TIME, "rating": _RATING}
    if not set(names) & set(_USER):
        if not 2 <= len(names) <= 4:
            rule = "a file without a header must have the columns user,item[,timestamp[,rating]]"
            raise DataError(rule, file=found.path, line=1, value=len(names))
        return delimited(found, separator, list(roles)[: len(names)])
    table = csv_table(found, separator)
    renamed = {}
    for role, known in roles.items():
        column = next(
            (c for c, n in zip(table.frame.columns, names, strict=True) if n in known), ""
        )
        if column:
            renamed[column] = role
        elif role in ("user_id", "item_id"):
            rule = f"the header must name the {role} column, one of {', '.join(known)}"
            raise DataError(rule, file=found.path, line=1, value=",".join(names))
    return Table(table.path, table.frame.select(list(renamed)).rename(renamed), table.first_line)


def _unit(table: Table) -> TimeUnit:
    """Return the unit that the size of the timestamps speaks for; text is ISO 8601."""
    numbers = table.frame["timestamp"].str.strip_chars().cast(pl.Float64, strict=False)
    if numbers.null_count() * 2 > len(numbers):
        return "iso"
    middle = numbers.median()
    largest = float(middle) if isinstance(middle, (int, float)) else 0.0
    if largest < _SECONDS_UNTIL:
        return "s"
    return "ms" if largest < _MILLIS_UNTIL else "us"


def read_sequences(source: Source) -> Imported:
    """Return a file whose lines are `user item [item..]`, each user's items in order.

    Beside ml-1m.txt the id maps and movies.dat give titles and genres, beside Beauty.txt the
    attribute file gives attributes.
    """
    found = source.single()
    lines = found.lines().str.strip_chars()
    parts = lines.str.replace_all(r"\s+", " ").str.split(" ")
    short = parts.list.len() < 2
    bad = short.arg_max() if short.any() else None
    if bad is not None:
        rule = "a line must be a user and at least one item"
        raise DataError(rule, file=found.path, line=bad + 1, value=lines[bad])
    events = (
        parts.to_frame()
        .select(pl.col("line").list.first().alias("user_id"), pl.col("line").list.slice(1))
        .explode("line")
        .rename({"line": "item_id"})
    )
    made = _of_events(events, _stem(found.path))
    return _with_movies(made, source.path) or _with_attributes(made, source.path) or made


def _of_events(events: pl.DataFrame, name: str) -> Imported:
    """Return a data set whose catalogue is the items that occur, in order of appearance."""
    timed = "timestamp" in events.columns
    rated = "rating" if "rating" in events.columns else ""
    if timed:
        spec = InteractionsSpec(
            file="interactions.parquet", time="timestamp", time_unit="us", rating=rated
        )
    else:
        events = events.with_row_index("order")
        spec = InteractionsSpec(file="interactions.parquet", order="order", rating=rated)
    items = events.select("item_id").unique(maintain_order=True)
    return Imported(
        spec=DatasetSpec(
            format=1, name=name, interactions=spec, items=ItemsSpec(file="items.parquet")
        ),
        items=items,
        interactions=events,
    )


def _with_movies(made: Imported, path: Path) -> Imported | None:
    """Return the same with titles, genres and years, where the id maps of ml-1m.txt lie beside."""
    maps = path.parent / "sas_to_original_items.txt"
    folder = path.parent.parent
    if not (maps.is_file() and (folder / "movies.dat").is_file()):
        return None
    table = delimited(unpack(maps), " ", ["item_id", "movie_id"])
    movies = movies_1m(Source(folder)).rename({"item_id": "movie_id"})
    items = (
        made.items.join(table.frame, on="item_id", how="left", maintain_order="left")
        .join(movies, on="movie_id", how="left", maintain_order="left")
        .drop("movie_id")
        .with_columns(pl.col("genres").fill_null([]))
    )
    spec = ItemsSpec(
        file="items.parquet",
        title="title",
        category="category",
        creator="creator" if "creator" in items.columns else "",
        multi=("genres",),
        numeric=("year",),
    )
    users = _users_of_movies(made, path.parent, folder)
    return _replaced(made, spec, items, users)


def _users_of_movies(made: Imported, maps: Path, folder: Path) -> pl.DataFrame | None:
    file = maps / "sas_to_original_users.txt"
    if not (file.is_file() and (folder / "users.dat").is_file()):
        return None
    table = delimited(unpack(file), " ", ["user_id", "original"])
    known = users_1m(Source(folder)).rename({"user_id": "original"})
    users = table.frame.join(known, on="original", how="left", maintain_order="left")
    return users.drop("original")


def _with_attributes(made: Imported, path: Path) -> Imported | None:
    """Return the same with attributes, where `NAME_item2attributes.json` lies beside `NAME.txt`."""
    stem = _stem(path)
    beside = [path.parent / f"{stem}_item2attributes.json{end}" for end in ("", ".gz")]
    file = next((candidate for candidate in beside if candidate.is_file()), None)
    if file is None:
        return None
    try:
        known = json.loads(unpack(file).text())
        attributes = {str(item): [str(word) for word in words] for item, words in known.items()}
    except (ValueError, AttributeError, TypeError) as error:
        rule = f"the file must be a JSON object of item -> list of attributes: {error}"
        raise DataError(rule, file=file) from None
    column = [attributes.get(item, []) for item in made.items["item_id"]]
    items = made.items.with_columns(pl.Series("attributes", column, dtype=pl.List(pl.String)))
    return _replaced(made, ItemsSpec(file="items.parquet", multi=("attributes",)), items)


def _replaced(
    made: Imported, items: ItemsSpec, frame: pl.DataFrame, users: pl.DataFrame | None = None
) -> Imported:
    known = UsersSpec(file="users.parquet", categorical=USER_COLUMNS) if users is not None else None
    spec = DatasetSpec(
        format=1,
        name=made.spec.name,
        interactions=made.spec.interactions,
        items=items,
        users=known or UsersSpec(),
    )
    return Imported(spec=spec, items=frame, interactions=made.interactions, users=users)


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or "data"
