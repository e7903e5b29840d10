"""Hashes words and character n-grams of many texts at once, the same on every machine.

No loop over n-grams: a text is a row of code points, and the hash of any stretch of it is a
difference of prefix sums, modulo 2^64.
"""

# n texts, P code points of all texts, G n-grams of all texts

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corerec.stages import Int64s

UInt64s = NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_SPACE = 32
_BASE = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_BASE, -1, 1 << 64)


class Ngrams(NamedTuple):
    """The n-grams of texts, in no order that matters."""

    rows: Int64s
    """(G,) which text."""
    hashes: UInt64s
    """(G,) well mixed, so that any bits of them may be taken."""


def clean(text: str) -> str:
    """Return the text's words, in one form of Unicode and without case, one space between."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def mix(values: UInt64s) -> UInt64s:
    """Return well-mixed values, a bijection. Source: Steele et al., OOPSLA 2014 (SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Page:
    """Texts laid out in one row of code points, each word with a space before and after."""

    def __init__(self, texts: Sequence[str]) -> None:
        cleaned = [f" {text} " if (text := clean(raw)) else "" for raw in texts]
        self.codes = np.frombuffer("".join(cleaned).encode("utf-32-le"), np.uint32)  # (P,)
        lengths = np.fromiter((len(text) for text in cleaned), np.int64, len(cleaned))
        self.rows = np.repeat(np.arange(len(cleaned)), lengths)  # (P,)
        self.space = self.codes == _SPACE
        count = len(self.codes)
        self.powers = _powers(_BASE, count + 1)
        letters = mix(self.codes.astype(np.uint64)) * _powers(_INVERSE, count)
        self.prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum(letters, dtype=np.uint64)])

    def words(self, longest: int) -> list[Ngrams]:
        """Return runs of one word, two words, .. up to `longest`, one entry a length."""
        starts = np.flatnonzero(self.space[:-1] & ~self.space[1:]) + 1
        ends = np.flatnonzero(~self.space[:-1] & self.space[1:]) + 1
        found = []
        for length in range(1, longest + 1):
            first, last = starts[: len(starts) - length + 1], ends[length - 1 :]
            inside = self.rows[first] == self.rows[last - 1]
            found.append(self._ngrams(first[inside], last[inside], salt=length))
        return found

    def characters(self, shortest: int, longest: int) -> list[Ngrams]:
        """Return n-grams within words, a word's bounding spaces included, one entry a length."""
        spaces = np.concatenate([[0], np.cumsum(self.space)])
        found = []
        for length in range(shortest, longest + 1):
            first = np.arange(max(0, len(self.codes) - length + 1))
            inside = spaces[first + length - 1] == spaces[first + 1]  # no space but at the ends
            inside &= self.rows[first] == self.rows[first + length - 1]
            found.append(self._ngrams(first[inside], first[inside] + length, salt=64 + length))
        return found

    def _ngrams(self, first: Int64s, last: Int64s, salt: int) -> Ngrams:
        """Return the hashes of the stretches [first, last); a salt keeps kinds apart."""
        stretch = (self.prefix[last] - self.prefix[first]) * self.powers[first]
        return Ngrams(self.rows[first], mix(stretch + np.uint64(salt * _BASE % (1 << 64))))


def _powers(base: int, count: int) -> UInt64s:
    """Return base^0 .. base^(count - 1) modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
