"""Known data sets in their published forms, and plain files, become data set folders."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from corerec.data import Dataset, load_dataset
from corerec.data.importers import import_dataset
from corerec.errors import DataError, InvalidArgument

ML_100K = {
    "u.data": "1\t10\t5\t881250949\n2\t20\t3\t881250950\n",
    "u.item": (
        "10|GoldenEye (1995)|01-Jan-1995||http://x|0|1|1" + "|0" * 16 + "\n"
        "20|Wizard of Oz, The (1939)|01-Jan-1939||http://x|0|0|0|0|1" + "|0" * 14 + "\n"
        "30|unknown||||1" + "|0" * 18 + "\n"
    ),
    "u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
}


def _folder(root: Path, files: dict[str, str]) -> Path:
    root.mkdir()
    for name, text in files.items():
        (root / name).write_bytes(text.encode("latin-1"))
    return root


def _import(kind: str, source: Path, tmp_path: Path) -> Dataset:
    import_dataset(kind, source, tmp_path / "out")
    return load_dataset(tmp_path / "out")


@pytest.mark.parametrize("zipped", [False, True])
def test_movielens_1m_as_published(tmp_path: Path, ml_1m: dict[str, str], zipped: bool) -> None:
    source = _folder(tmp_path / "ml-1m", ml_1m)
    if zipped:
        with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
            for path in source.iterdir():
                archive.write(path, f"ml-1m/{path.name}")
        source = tmp_path / "ml-1m.zip"
    data = _import("movielens-1m", source, tmp_path)
    assert data.name == "movielens-1m"
    assert data.has_times
    assert data.items["item_id"].to_list() == ["10", "20", "30"]
    assert data.items["title"].to_list()[:2] == ["The Matrix (1999)", "Café Müller (1985)"]
    assert data.items["category"].to_list() == ["Action", "Drama", "Crime"]
    assert data.items["genres"].to_list()[0] == ["Action", "Sci-Fi"]
    assert data.items["year"].to_list() == [1999.0, 1985.0, 1995.0]
    assert ("1", "F", "under 18", "student (school)") in data.users.rows()
    assert data.interactions["time_micros"].to_list() == [
        978300700000000,
        978300760000000,
        978300761000000,
    ]
    assert data.interactions["rating"].to_list() == [4.0, 5.0, 3.0]


def test_movielens_1m_with_positions_leaves_out_what_has_none(
    tmp_path: Path, ml_1m: dict[str, str]
) -> None:
    files = {name: text for name, text in ml_1m.items() if name != "ratings.dat"}
    source = _folder(tmp_path / "ml-1m", files)
    rows = "user_id,movie_id,rating,seq_pos\n1,10,5,2\n1,20,3,1\n1,30,1,\n2,10,4,1\n"
    (source / "ratings_notime.csv.gz").write_bytes(gzip.compress(rows.encode()))
    notes = import_dataset("movielens-1m", source, tmp_path / "out")
    assert notes == ("left out 1 ratings that have no position",)
    data = load_dataset(tmp_path / "out")
    assert not data.has_times
    assert data.interactions["item_number"].to_list() == [1, 0, 0]


def test_movielens_100k_as_published(tmp_path: Path) -> None:
    data = _import("movielens-100k", _folder(tmp_path / "ml-100k", ML_100K), tmp_path)
    assert data.items["genres"].to_list() == [["Action", "Adventure"], ["Children's"], ["unknown"]]
    assert data.items["title"].to_list()[1] == "The Wizard of Oz (1939)"
    # 1939 lies before 1970, where the format's moments begin.
    assert data.items["born_micros"].to_list() == [788_918_400_000_000, 0, None]
    assert data.users["age"].to_list() == [24.0, 53.0]


def test_goodbooks_keeps_the_order_of_the_file_and_the_first_of_repeats(tmp_path: Path) -> None:
    books = "id,book_id,authors,original_publication_year,title,language_code\n"
    books += '1,99,"Ann A, Bob B",2008.0,"Hunger, #1",eng\n2,98,Cid C,,Two,\n'
    ratings = "book_id,user_id,rating\n2,7,5\n1,7,3\n2,7,1\n1,8,4\n"
    source = _folder(tmp_path / "books", {"books.csv": books, "ratings.csv": ratings})
    notes = import_dataset("goodbooks", source, tmp_path / "out")
    assert any("left out 1 repeated" in note for note in notes)
    data = load_dataset(tmp_path / "out")
    assert data.items["creator"].to_list() == ["Ann A", "Cid C"]
    assert data.items["title"].to_list() == ["Hunger, #1", "Two"]
    assert data.interactions.select("user_row", "item_number").rows() == [(0, 1), (0, 0), (1, 0)]


@pytest.mark.parametrize(
    "text",
    [
        "u1,x,20\nu2,y,10\n",
        "user,item,timestamp\nu1,x,20\nu2,y,10\n",
        "timestamp\tItem_ID\tUserId\n20\tx\tu1\n10\ty\tu2\n",
        "u1;x;1970-01-01T00:00:20Z\nu2;y;1970-01-01T00:00:10Z\n",
    ],
)
def test_a_plain_file_with_and_without_a_header(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.csv").write_text(text)
    data = _import("csv", tmp_path / "log.csv", tmp_path)
    assert data.has_times
    assert data.items["item_id"].to_list() == ["x", "y"]
    assert data.users["user_id"].to_list() == ["u1", "u2"]
    assert data.interactions["time_micros"].to_list() == [10_000_000, 20_000_000]


def test_a_plain_file_without_times_keeps_the_order_of_its_lines(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,x\nb,y\na,y\n")
    data = _import("csv", tmp_path / "log.csv", tmp_path)
    assert not data.has_times
    assert data.interactions.rows() == [(0, 0, 0), (0, 1, 1), (1, 1, 0)]


@pytest.mark.parametrize("text", ["1 5\n1 6\n2 5\n", "1 5 6\n2 5\n"])
def test_sequences_in_both_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "seq.txt.gz").write_bytes(gzip.compress(text.encode()))
    data = _import("sequences", tmp_path / "seq.txt.gz", tmp_path)
    assert data.interactions.rows() == [(0, 0, 0), (0, 1, 1), (1, 0, 0)]


@pytest.mark.parametrize(
    ("kind", "name", "text", "said"),
    [
        ("csv", "log.csv", "u1,x,20\nu2,y,soon\n", "log.csv:2, column 'timestamp'"),
        ("csv", "log.csv", "u1,x,20\nu2,y\n", "log.csv:2: a line must have 3 fields"),
        ("csv", "log.csv", "user,thing\nu,x\n", "log.csv:1: the header must name the item_id"),
        ("csv", "log.csv", "", "at least one row"),
        ("sequences", "s.txt", "1 5\n2\n", "s.txt:2: a line must be a user and at least one item"),
    ],
)
def test_broken_sources_are_refused_with_their_line_and_nothing_is_written(
    tmp_path: Path, kind: str, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        import_dataset(kind, tmp_path / name, tmp_path / "out")
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_source_without_its_files_says_which_one_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"movies\.dat \(plain, \.gz or \.zip\)"):
        import_dataset("movielens-1m", tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InvalidArgument, match="kind must be one of movielens-100k"):
        import_dataset("netflix", tmp_path / "empty", tmp_path / "out")


REAL = [
    ("movielens-1m", "ml-1m", (6_040, 3_883, 999_611)),
    ("movielens-100k", "ml-100k", (943, 1_682, 100_000)),
    ("sequences", "ml-1m/sasrec/ml-1m.txt.gz", (6_040, 3_416, 999_611)),
    ("sequences", "amazon-beauty/Beauty.txt.gz", (22_363, 12_101, 198_502)),
]


@pytest.mark.parametrize(("kind", "place", "counts"), REAL)
def test_the_real_data_sets_have_their_published_counts(
    shared_data: Path, tmp_path: Path, kind: str, place: str, counts: tuple[int, int, int]
) -> None:
    data = _import(kind, shared_data / place, tmp_path)
    assert (data.users.height, data.items.height, data.interactions.height) == counts
    if "ml-1" in place:
        assert data.items["title"].null_count() == 0
