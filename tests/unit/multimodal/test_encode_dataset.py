"""`corerec data encode` and what is below it: a data set that is whole at every moment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corerec.cli.encode import encode_items
from corerec.data import load_dataset
from corerec.errors import ConfigError, CoreRecError, DataError, InvalidArgument
from corerec.multimodal import EncodeJob, HashedNgramEncoder, VectorCache, encode_dataset
from corerec.multimodal.columns import pictures, texts
from corerec.stages import Float32s

_SPEC = """\
# Written by hand.
format = 1
name = "corner shop"

[items]
file = "items.csv"  # the catalogue
title = "title"
multi = ["tags"]

[interactions]
file = "events.csv"
time = "at"
"""
_ITEMS = """\
item_id,title,tags,picture
a,Alpine Backpack,outdoor|gift,pictures/a.png
b,Oak Chair,,
c,,vegan,pictures/c.png
d,,,pictures/a.png
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "dataset.toml").write_text(_SPEC)
    (folder / "items.csv").write_text(_ITEMS)
    (folder / "events.csv").write_text("user_id,item_id,at\nu,a,1\nu,b,2\nv,c,3\n")
    return folder


class Bytes:
    """An image encoder that looks at the first bytes of a file."""

    name, dim, fingerprint = "bytes", 3, "bytes-1"

    def encode(self, contents: Sequence[Path | None]) -> Float32s:
        found = np.zeros((len(contents), 3), np.float32)
        for row, path in enumerate(contents):
            if path is not None:
                found[row] = list(path.read_bytes()[:3])
        return found


def text_job(encoder: HashedNgramEncoder | None = None) -> EncodeJob:
    own = encoder or HashedNgramEncoder(16)
    return EncodeJob(name="text", text=("title", "tags"), text_encoder=own)


def test_texts_put_columns_together_and_leave_out_what_is_empty(shop: Path) -> None:
    assert texts(shop, ["title", "tags"]) == [
        "Alpine Backpack. outdoor, gift", "Oak Chair", "vegan", ""
    ]  # fmt: skip


def test_vectors_become_sets_of_the_data_set_and_zero_is_missing(shop: Path) -> None:
    (shop / "pictures").mkdir()
    (shop / "pictures/a.png").write_bytes(b"aaa")
    (shop / "pictures/c.png").write_bytes(b"ccc")
    image = EncodeJob(name="image", image="picture", image_encoder=Bytes())
    seen: list[tuple[str, int, int]] = []
    with VectorCache(shop / ".vectors") as cache:
        made = encode_dataset(
            shop, [text_job(), image], cache=cache, report=lambda *step: seen.append(step)
        )
    assert [(one.name, one.dim, one.items, one.missing) for one in made] == [
        ("text", 16, 4, 1), ("image", 3, 4, 1)
    ]  # fmt: skip
    assert seen == [("text", 4, 4), ("image", 4, 4)]
    data = load_dataset(shop)
    assert sorted(data.vectors) == ["image", "text"]
    assert data.vectors["image"].tolist() == [[97] * 3, [0] * 3, [99] * 3, [97] * 3]
    assert (data.vectors["text"][3] == 0).all()
    written = (shop / "dataset.toml").read_text()
    assert written.startswith(_SPEC)  # comments and all
    assert not list(shop.glob(".tmp-*"))


def test_encoding_again_replaces_its_own_files_and_leaves_yours(shop: Path) -> None:
    np.save(shop / "mine.npy", np.ones((4, 2), np.float32))
    (shop / "dataset.toml").write_text(
        _SPEC + '\n[vectors]\ntext = "mine.npy"\nother = "mine.npy"\n'
    )
    first = encode_dataset(shop, [text_job()])[0]
    assert (shop / "mine.npy").is_file()
    fitted = HashedNgramEncoder(16).fit(texts(shop, ["title"]))
    second = encode_dataset(shop, [text_job(fitted)])[0]
    assert not (shop / first.file).exists()
    assert [folder.name for folder in (shop / "encoders").iterdir()] == [
        second.encoder.removeprefix("encoders/")
    ]
    data = load_dataset(shop)
    assert data.vectors["other"].tolist() == [[1, 1]] * 4
    kept = HashedNgramEncoder.load(shop / second.encoder)
    assert np.array_equal(kept.encode(texts(shop, ["title", "tags"])), data.vectors["text"])
    third = encode_dataset(shop, [text_job(fitted)])[0]
    assert third == second


@pytest.mark.parametrize(
    "vectors", ['vectors = { other = "mine.npy" }\n', 'vectors.other = "mine.npy"\n']
)
def test_other_ways_to_write_the_table_are_kept_too(vectors: str, shop: Path) -> None:
    np.save(shop / "mine.npy", np.ones((4, 2), np.float32))
    (shop / "dataset.toml").write_text(vectors + _SPEC)
    encode_dataset(shop, [text_job()])
    assert sorted(load_dataset(shop).vectors) == ["other", "text"]


def test_an_encoder_that_fails_leaves_everything_as_it_was(shop: Path) -> None:
    encode_dataset(shop, [text_job()])
    before = {path: path.read_bytes() for path in shop.rglob("*") if path.is_file()}
    image = EncodeJob(name="image", image="picture", image_encoder=Bytes())
    with pytest.raises(FileNotFoundError):
        encode_dataset(shop, [image])
    assert {path: path.read_bytes() for path in shop.rglob("*") if path.is_file()} == before
    assert sorted(load_dataset(shop).vectors) == ["text"]


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("https://example.org/a.png", "nothing is downloaded"),
        ("../a.png", "must lie inside"),
        ("/etc/a.png", "must lie inside"),
    ],
)
def test_images_come_from_inside_the_folder(value: str, rule: str, shop: Path) -> None:
    items = (shop / "items.csv").read_text().replace("pictures/c.png", value)
    (shop / "items.csv").write_text(items)
    with pytest.raises(DataError, match=rf"items\.csv:4, column 'picture': .*{rule}"):
        pictures(shop, "picture")


def test_jobs_that_make_no_sense_are_refused(shop: Path) -> None:
    with pytest.raises(InvalidArgument, match="at least one vector set"):
        encode_dataset(shop, [])
    with pytest.raises(InvalidArgument, match="one name each, got"):
        encode_dataset(shop, [text_job(), text_job()])
    with pytest.raises(ConfigError, match="name must consist of"):
        EncodeJob(name="a.b", text=("title",), text_encoder=HashedNgramEncoder(16))
    with pytest.raises(ConfigError, match="text: a job must have text columns and a text encoder"):
        EncodeJob(name="text", text=("title",), image_encoder=Bytes())
    with pytest.raises(DataError, match="the column is missing; did you mean 'title'"):
        encode_dataset(
            shop, [EncodeJob(name="t", text=("titel",), text_encoder=HashedNgramEncoder(16))]
        )


def _corerec(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from corerec.cli import main; main()", "data", "encode"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_encodes_and_says_what_it_did(shop: Path) -> None:
    done = _corerec(str(shop), "--text", "title, tags", "--dim", "32")
    assert done.returncode == 0, done.stderr
    assert "text: 4 items, 32 wide, 1 missing" in done.stdout
    assert "encoder in encoders/text-" in done.stdout
    data = load_dataset(shop)
    assert data.vectors["text"].shape == (4, 32)
    shutil.rmtree(shop / ".vectors")
    assert load_dataset(shop).vectors["text"].shape == (4, 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "name what to encode"),
        ({"image": "picture"}, "images need the weights of resnet18"),
        ({"text": ("title",), "encoder": "all-MiniLM"}, "must be a local folder"),
    ],
)
def test_the_command_refuses_with_one_line(options: dict[str, Any], words: str, shop: Path) -> None:
    usual = {"text": (), "encoder": "hashed", "dim": 16, "image": "", "backbone": "resnet18",
             "library": "timm", "weights": None, "skip_broken": False}  # fmt: skip
    with pytest.raises(CoreRecError, match=words):
        encode_items(shop, cache=shop / ".vectors", report=lambda *_: None, **{**usual, **options})
