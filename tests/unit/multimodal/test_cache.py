"""The cache of vectors: hits never ask the encoder, and what is damaged is encoded again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from corerec.errors import InvalidArgument
from corerec.multimodal import VectorCache, encode_cached
from corerec.multimodal.cache import FILE_NAME, content_key
from corerec.stages import Float32s


class Letters:
    """Counts letters; remembers what it was asked."""

    name, dim, fingerprint = "letters", 26, "letters-1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, contents: Sequence[str]) -> Float32s:
        self.asked += contents
        found = np.zeros((len(contents), 26), np.float32)
        for row, text in enumerate(contents):
            for letter in text:
                found[row, ord(letter) - ord("a")] += 1
        return found


WORDS = ["alpha", "beta", "alpha", "", "gamma"]


@pytest.fixture
def cache(tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path / "cache")


def test_what_was_encoded_once_is_not_asked_for_again(cache: VectorCache) -> None:
    first, seen = Letters(), []
    vectors = encode_cached(first, WORDS, cache, lambda done, total: seen.append((done, total)))
    assert np.array_equal(vectors, Letters().encode(WORDS))
    assert first.asked == ["alpha", "beta", "", "gamma"]
    assert seen == [(5, 5)]
    assert (cache.hits, cache.misses, len(cache)) == (0, 5, 3)
    second = Letters()
    again = encode_cached(second, [*WORDS, "delta"], cache)
    assert np.array_equal(again, Letters().encode([*WORDS, "delta"]))
    assert second.asked == ["", "delta"]  # nothing is kept of what is zero
    assert (cache.hits, cache.misses) == (4, 7)
    cache.close()


def test_another_encoder_or_content_has_another_key(cache: VectorCache, tmp_path: Path) -> None:
    file = tmp_path / "alpha"
    file.write_text("alpha")
    keys = {content_key("a", "alpha"), content_key("b", "alpha"), content_key("a", "beta"),
            content_key("a", file)}  # fmt: skip
    assert len(keys) == 4
    encode_cached(Letters(), WORDS, cache)
    other = Letters()
    other.fingerprint = "letters-2"
    encode_cached(other, WORDS, cache)
    assert "alpha" in other.asked
    cache.close()


def test_files_go_by_their_bytes_not_their_names(cache: VectorCache, tmp_path: Path) -> None:
    class Sizes:
        name, dim, fingerprint = "sizes", 1, "sizes-1"

        def __init__(self) -> None:
            self.asked: list[Path | None] = []

        def encode(self, contents: Sequence[Path | None]) -> Float32s:
            self.asked += contents
            sizes = [path.stat().st_size if path and path.exists() else 0 for path in contents]
            return np.array(sizes, np.float32).reshape(-1, 1)

    for name, content in (("a", "one"), ("b", "one"), ("c", "three")):
        (tmp_path / name).write_text(content)
    paths = [tmp_path / "a", tmp_path / "b", None, tmp_path / "lost", tmp_path / "c"]
    sizes = Sizes()
    assert encode_cached(sizes, paths, cache).ravel().tolist() == [3, 3, 0, 0, 5]
    assert sizes.asked == [paths[0], None, paths[3], paths[4]]
    (tmp_path / "c").write_text("one")
    again = Sizes()
    assert encode_cached(again, paths, cache).ravel().tolist() == [3, 3, 0, 0, 3]
    assert again.asked == [None, paths[3]]
    cache.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE vectors SET vector = zeroblob(104)",
        "UPDATE vectors SET vector = substr(vector, 1, 50)",
        "UPDATE vectors SET vector = 'text'",
        "UPDATE vectors SET vector = NULL",
        "UPDATE vectors SET crc = crc + 1",
    ],
)
def test_a_damaged_vector_is_found_out_and_encoded_again(damage: str, tmp_path: Path) -> None:
    with VectorCache(tmp_path) as cache:
        encode_cached(Letters(), WORDS, cache)
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute(damage)
    database.close()
    with VectorCache(tmp_path) as cache:
        encoder = Letters()
        assert np.array_equal(encode_cached(encoder, WORDS, cache), Letters().encode(WORDS))
        assert sorted(encoder.asked) == ["", "alpha", "beta", "gamma"]
        assert cache.corrupt == 3
    with VectorCache(tmp_path) as cache:
        encode_cached(encoder := Letters(), WORDS, cache)
        assert encoder.asked == [""]
        assert cache.corrupt == 0


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_is_no_database_any_more_is_set_aside(whole: bool, tmp_path: Path) -> None:
    words = [f"{a}{b}{c}" for a in "abcdefgh" for b in "abcdefgh" for c in "abcdefgh"]
    with VectorCache(tmp_path) as cache:
        encode_cached(Letters(), words, cache)
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    content[0 if whole else 4096 :] = os.urandom(len(content) - (0 if whole else 4096))
    path.write_bytes(content)
    with VectorCache(tmp_path) as cache:
        encoder = Letters()
        assert np.array_equal(encode_cached(encoder, words, cache), Letters().encode(words))
        assert len(encoder.asked) == len(words)
        assert cache.corrupt == 1
    assert len(list(tmp_path.glob("*.broken-*"))) == 1
    with VectorCache(tmp_path) as cache:
        encode_cached(encoder := Letters(), words, cache)
        assert encoder.asked == []


_KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
from corerec.multimodal import VectorCache, encode_cached

class Slow:
    name, dim, fingerprint = "slow", 4, "slow-1"
    def encode(self, contents):
        if any(text == "3000" for text in contents):
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([[float(text) + 1] * 4 for text in contents], np.float32)

encode_cached(Slow(), [str(n) for n in range(5000)], VectorCache(Path(sys.argv[1])))
"""


def test_a_killed_run_loses_only_the_part_that_it_was_at(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    killed = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    class Counting:
        name, dim, fingerprint = "slow", 4, "slow-1"
        asked = 0

        def encode(self, contents: Sequence[str]) -> Float32s:
            self.asked += len(contents)
            return np.array([[float(text) + 1] * 4 for text in contents], np.float32)

    with VectorCache(tmp_path) as cache:
        found = encode_cached(encoder := Counting(), [str(n) for n in range(5000)], cache)
    assert np.array_equal(found[:, 0], np.arange(1, 5001))
    assert encoder.asked == 5000 - 2048
    assert cache.hits == 2048


def test_an_encoder_that_breaks_its_word_is_named(cache: VectorCache) -> None:
    encoder = Letters()
    encoder.encode = lambda contents: np.full((len(contents), 26), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(InvalidArgument, match="letters: vectors must be finite, that of 'alpha'"):
        encode_cached(encoder, WORDS, cache)
    encoder.encode = lambda contents: np.ones((1, 26), np.float32)  # type: ignore[method-assign]
    with pytest.raises(InvalidArgument, match=r"must have shape \(4, 26\), got \(1, 26\)"):
        encode_cached(encoder, WORDS, cache)
    assert len(cache) == 0
    cache.close()


def test_batches_of_none_and_one_and_no_cache_at_all(cache: VectorCache, tmp_path: Path) -> None:
    assert encode_cached(Letters(), [], cache).shape == (0, 26)
    assert encode_cached(Letters(), ["a"], cache).shape == (1, 26)
    assert encode_cached(Letters(), WORDS, None).shape == (5, 26)
    cache.close()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InvalidArgument, match="a cache must be a folder"):
        VectorCache(file)
