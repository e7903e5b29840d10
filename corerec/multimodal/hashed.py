"""The built-in text encoder: hashed n-grams, nothing to download, nothing to train."""

# n texts, D width of a vector, B buckets, G n-grams, E distinct (text, bucket) pairs

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corerec.errors import ConfigError, InvalidArgument
from corerec.multimodal.encoder import fingerprint_of
from corerec.multimodal.ngrams import Ngrams, Page, mix
from corerec.stages import Float32s, Int64s

_CHUNK = 2048
"""Texts that are in memory as n-grams at once."""
_KIND = "hashed_ngrams"


@dataclass(frozen=True, kw_only=True)
class HashedNgramConfig:
    """What the encoder counts, and into how much room it puts that."""

    dim: int = 256
    """Width of a vector, >= 8."""
    words: int = 2
    """Longest run of words that is counted, in words, >= 1."""
    shortest: int = 3
    """Shortest n-gram of characters, a word's bounding spaces included, >= 2."""
    longest: int = 5
    """Longest n-gram of characters; below `shortest` there are none, so 0 counts words alone."""
    bucket_bits: int = 18
    """2^bits buckets for n-grams, in [8, 24]; their document frequencies are 4 bytes each."""
    signs: int = 8
    """Places of a vector that one bucket adds to, in [1, dim]."""
    seed: int = 0
    """Chooses places and signs."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name, low in (("dim", 8), ("words", 1), ("shortest", 2), ("longest", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 8 <= self.bucket_bits <= 24:
            raise ConfigError(f"bucket_bits must be in [8, 24], got {self.bucket_bits}")
        if not 1 <= self.signs <= self.dim:
            raise ConfigError(f"signs must be in [1, dim], got {self.signs} and dim {self.dim}")


class HashedNgramEncoder:
    """Encodes text as hashed words and character n-grams, projected at random to `dim`.

    Words and characters weigh the same: each is a tf-idf vector of unit length over the buckets,
    (1 + log tf) * idf. A bucket adds to `signs` places of the vector, each with a random sign,
    which keeps cosines up to noise of about 1 / sqrt(dim). Without `fit` every idf is 1. An empty
    text, or one without a letter or digit, is the zero vector: missing.

    Sources: Weinberger et al., ICML 2009 (hashing with signs); Kane and Nelson, J. ACM 2014,
    sec. 3 (sparse projection; what differs: places come from one hash each, so two may be the
    same); n-grams with word bounds as in Bojanowski et al., TACL 2017, sec. 3.2.
    """

    name = "hashed"

    def __init__(self, dim: int | None = None, *, config: HashedNgramConfig | None = None) -> None:
        config = config or HashedNgramConfig()
        self.config = config if dim is None else HashedNgramConfig(**{**asdict(config), "dim": dim})
        self.idf: Float32s = np.ones(1 << self.config.bucket_bits, np.float32)  # (B,)
        self.fitted_on = 0
        buckets = np.arange(len(self.idf), dtype=np.uint64)
        salts = (np.arange(self.config.signs, dtype=np.uint64) + np.uint64(1)) << np.uint64(32)
        drawn = mix(mix(buckets[:, None] + salts) + np.uint64(self.config.seed))  # (B, signs)
        self._places = (drawn % np.uint64(self.config.dim)).astype(np.int32)
        self._signs = np.where(drawn >> np.uint64(63), np.float32(-1), np.float32(1))

    @property
    def dim(self) -> int:
        """D."""
        return self.config.dim

    @property
    def fingerprint(self) -> str:
        """Digest of the settings and of the fitted document frequencies."""
        return fingerprint_of(_KIND, asdict(self.config), self.idf.tobytes())

    def fit(self, texts: Iterable[str]) -> HashedNgramEncoder:
        """Learn how rare each n-gram is from texts that are not empty, and return itself.

        idf is log((1 + n) / (1 + df)) + 1, so an n-gram that no text had weighs most.
        """
        frequency = np.zeros(len(self.idf), np.int64)
        count = 0
        for chunk in _chunks(texts):
            page = Page(_checked(chunk))
            count += len(np.unique(page.rows))
            for family in self._families(page):
                buckets = self._counted(family)[1]
                frequency += np.bincount(buckets, minlength=len(frequency))
        self.idf = (np.log((1 + count) / (1 + frequency)) + 1).astype(np.float32)
        self.fitted_on = count
        return self

    def encode(self, contents: Sequence[str]) -> Float32s:
        """Return (n, D), L2-normalised, zero for a text without a letter or digit.

        Raises:
            InvalidArgument: for a content that is not text.
        """
        found = np.zeros((len(contents), self.dim), np.float32)
        for start in range(0, len(contents), _CHUNK):
            part = contents[start : start + _CHUNK]
            found[start : start + len(part)] = self._encode(_checked(part))
        return found

    def save(self, folder: Path) -> None:
        """Write `hashed_ngrams.json` and `hashed_ngrams.safetensors`."""
        import torch

        from corerec.engines.files import save_model

        header = _Header(config=self.config, fitted_on=self.fitted_on)
        save_model(folder, _KIND, header, {"idf": torch.from_numpy(self.idf)})

    @classmethod
    def load(cls, folder: Path) -> HashedNgramEncoder:
        """Return what `save` wrote.

        Raises:
            ReleaseError, ConfigError: naming the file, when it is not whole.
        """
        from corerec.engines.files import load_model

        header, tensors, _ = load_model(folder, _KIND, _Header)
        found = cls(config=header.config)
        found.idf, found.fitted_on = tensors["idf"].numpy(), header.fitted_on
        return found

    def _encode(self, texts: Sequence[str]) -> Float32s:
        page, size = Page(texts), len(texts) * self.dim
        total = np.zeros(size)
        for family in self._families(page):
            rows, buckets, counts = self._counted(family)
            tf_idf = (1 + np.log(counts)) * self.idf[buckets]
            norms = np.sqrt(np.bincount(rows, tf_idf * tf_idf, minlength=len(texts)))
            weights = tf_idf / norms[rows]
            for place in range(self.config.signs):
                into = rows * self.dim + self._places[buckets, place]
                total += np.bincount(into, weights * self._signs[buckets, place], minlength=size)
        vectors = total.reshape(len(texts), self.dim)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)

    def _families(self, page: Page) -> Iterator[list[Ngrams]]:
        yield page.words(self.config.words)
        yield page.characters(self.config.shortest, self.config.longest)

    def _counted(self, family: list[Ngrams]) -> tuple[Int64s, Int64s, NDArray[np.int64]]:
        """Return (E,) text, (E,) bucket and (E,) count of each distinct pair."""
        bits = self.config.bucket_bits
        empty = np.empty(0, np.int64)
        keys = [(g.rows << bits) | (g.hashes >> np.uint64(64 - bits)).astype(np.int64)
                for g in family]  # fmt: skip
        pairs, counts = np.unique(np.concatenate([empty, *keys]), return_counts=True)
        return pairs >> bits, pairs & ((1 << bits) - 1), counts


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What `hashed_ngrams.json` says."""

    config: HashedNgramConfig
    fitted_on: int
    """Texts that the document frequencies come from; 0 where every idf is 1."""


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    source = iter(texts)
    while chunk := list(islice(source, _CHUNK)):
        yield chunk


def _checked(texts: Sequence[str]) -> Sequence[str]:
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidArgument(
                f"a text must be a str, empty where it is missing, got {type(text).__name__} "
                f"at place {place}"
            )
    return texts
