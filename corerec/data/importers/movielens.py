"""Imports MovieLens 100K and 1M (Harper & Konstan, ACM TiiS 2015) in their published forms."""

from __future__ import annotations

import polars as pl

from corerec.data.importers.source import Imported, Source, csv_table, delimited
from corerec.data.spec import DatasetSpec, InteractionsSpec, ItemsSpec, UsersSpec
from corerec.data.tables import Table

_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
_JOBS = (
    "other",
    "educator",
    "artist",
    "clerical",
    "student (college)",
    "customer service",
    "doctor",
    "executive",
    "farmer",
    "homemaker",
    "student (school)",
    "lawyer",
    "programmer",
    "retired",
    "sales",
    "scientist",
    "self-employed",
    "technician",
    "craftsman",
    "unemployed",
    "writer",
)

USER_COLUMNS = ("gender", "age", "occupation")
"""Attribute columns of `users_1m`."""


def read_movielens_1m(source: Source) -> Imported:
    """Return MovieLens 1M: ratings.dat with times, or ratings_notime.csv with an order."""
    items = movies_1m(source)
    if found := source.find("ratings.dat"):
        table = delimited(found, "::", ["user_id", "item_id", "rating", "timestamp"])
    else:
        found = source.need("ratings_notime.csv", "ratings.dat")
        columns = ["user_id", "item_id", "rating", "seq_pos"]
        table = delimited(found, ",", columns, header=True)
    interactions, spec, notes = _interactions(table)
    return Imported(
        spec=DatasetSpec(
            format=1,
            name="movielens-1m",
            interactions=spec,
            items=_items_spec(items),
            users=UsersSpec(file="users.parquet", categorical=USER_COLUMNS),
        ),
        items=items,
        interactions=interactions,
        notes=notes,
        users=users_1m(source),
    )


def movies_1m(source: Source) -> pl.DataFrame:
    """Return item_id, title, category, genres, year and, where known, the director as creator."""
    table = delimited(source.need("movies.dat"), "::", ["item_id", "title", "genres"])
    genres = pl.col("genres").str.split("|")
    items = table.frame.with_columns(table.unique_ids("item_id")).select(
        "item_id",
        _readable_title(),
        genres.list.first().alias("category"),
        genres.alias("genres"),
        _year(pl.col("title")),
    )
    extra = source.find("movies_extrainfos.dat")
    if extra is None:
        return items
    fields = extra.lines().str.split("::").to_frame()
    directors = fields.select(
        pl.col("line").list.get(0, null_on_oob=True).alias("item_id"),
        pl.col("line").list.get(6, null_on_oob=True).str.split(",").list.first().alias("creator"),
    ).unique("item_id", keep="first")
    directors = directors.with_columns(pl.col("creator").replace(["N/A", ""], [None, None]))
    return items.join(directors, on="item_id", how="left", maintain_order="left")


def users_1m(source: Source) -> pl.DataFrame:
    """Return user_id, gender, age band and occupation in words."""
    found = source.need("users.dat")
    table = delimited(found, "::", ["user_id", "gender", "age", "occupation", "zip"])
    jobs = {str(number): name for number, name in enumerate(_JOBS)}
    return table.frame.with_columns(table.unique_ids("user_id")).select(
        "user_id",
        "gender",
        pl.col("age").replace(_AGES),
        pl.col("occupation").replace(jobs),
    )


def read_movielens_100k(source: Source) -> Imported:
    """Return MovieLens 100K from u.data, u.item, u.user, or the same as .inter, .item, .user."""
    columns = ["user_id", "item_id", "rating", "timestamp"]
    if found := source.find("u.data"):
        table = delimited(found, "\t", columns)
    else:
        found = source.need("ml-100k.inter", "u.data")
        table = delimited(found, "\t", columns, header=True)
    interactions, spec, notes = _interactions(table)
    items = _movies_100k(source)
    return Imported(
        spec=DatasetSpec(
            format=1,
            name="movielens-100k",
            interactions=spec,
            items=_items_spec(items),
            users=UsersSpec(
                file="users.parquet", categorical=("gender", "occupation"), numeric=("age",)
            ),
        ),
        items=items,
        interactions=interactions,
        notes=notes,
        users=_users_100k(source),
    )


def _movies_100k(source: Source) -> pl.DataFrame:
    if found := source.find("u.item"):
        named = ["item_id", "title", "released", "video", "url"]
        table = delimited(found, "|", [*named, *_GENRES])
        flags = [pl.when(pl.col(g) == "1").then(pl.lit(g)) for g in _GENRES]
        genres = pl.concat_list(flags).list.drop_nulls()
        released = pl.col("released").str.to_date("%d-%b-%Y", strict=False)
        title, year = _readable_title(), _year(pl.col("title"))
    else:
        found = source.need("ml-100k.item", "u.item")
        table = delimited(found, "\t", ["item_id", "title", "year", "genres"], header=True)
        genres = pl.col("genres").str.split(" ")
        released = pl.col("year").str.to_date("%Y", strict=False)
        title, year = pl.col("title"), pl.col("year").cast(pl.Float64, strict=False)
    # The format has no moments before 1970; a film of 1939 is old enough as one of 1970.
    born = pl.max_horizontal(released.cast(pl.Datetime("us")).cast(pl.Int64), pl.lit(0))
    born = pl.when(released.is_not_null()).then(born).alias("born")
    return table.frame.with_columns(table.unique_ids("item_id")).select(
        "item_id",
        title.alias("title"),
        genres.list.first().alias("category"),
        genres.alias("genres"),
        year.alias("year"),
        born,
    )


def _users_100k(source: Source) -> pl.DataFrame:
    if found := source.find("u.user"):
        columns = ["user_id", "age", "gender", "occupation", "zip"]
        table = delimited(found, "|", columns)
    else:
        table = csv_table(source.need("ml-100k.user", "u.user"), "\t")
        names = {name: name.split(":")[0] for name in table.frame.columns}
        table = Table(table.path, table.frame.rename(names), table.first_line)
    ids, age = table.unique_ids("user_id"), table.numbers("age").rename("age")
    return table.frame.select(ids, "gender", "occupation", age)


def _interactions(table: Table) -> tuple[pl.DataFrame, InteractionsSpec, tuple[str, ...]]:
    columns = [table.ids("user_id"), table.ids("item_id"), table.numbers("rating").rename("rating")]
    if "timestamp" in table.frame.columns:
        when = (table.micros("timestamp", "s") // 1_000_000).rename("timestamp")
        spec = InteractionsSpec(file="interactions.parquet", time="timestamp", rating="rating")
    else:
        when = table.numbers("seq_pos").cast(pl.Int64).rename("order")
        spec = InteractionsSpec(file="interactions.parquet", order="order", rating="rating")
    # A rating without a position cannot be put before or after another.
    frame = pl.DataFrame([*columns, when])
    kept = frame.filter(when.is_not_null())
    lost = frame.height - kept.height
    notes = (f"left out {lost:,} ratings that have no position",) if lost else ()
    return kept, spec, notes


def _items_spec(items: pl.DataFrame) -> ItemsSpec:
    return ItemsSpec(
        file="items.parquet",
        title="title",
        category="category",
        creator="creator" if "creator" in items.columns else "",
        born="born" if "born" in items.columns else "",
        born_unit="us" if "born" in items.columns else "s",
        multi=("genres",),
        numeric=("year",),
    )


def _readable_title() -> pl.Expr:
    """Return `The Matrix (1999)` for `Matrix, The (1999)`."""
    return pl.col("title").str.replace(
        r"^(.*), (The|A|An|Les|La|Le|L'|Il|El|Das|Der|Die) (\(\d{4}\))$", "$2 $1 $3"
    )


def _year(title: pl.Expr) -> pl.Expr:
    return title.str.extract(r"\((\d{4})\)\s*$").cast(pl.Float64).alias("year")
