"""The encoders that a release keeps, for vector sets that an item does not bring itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from corerec.multimodal.hashed import HashedNgramEncoder
from corerec.multimodal.kept import ENCODERS, READS, EncoderReads
from corerec.release import OpenRelease
from corerec.stages import Float32s
from corerec.store.catalogue import Item


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """An encoder and the columns of an item that it reads, put together."""

    encoder: HashedNgramEncoder
    columns: tuple[str, ...]
    """title, category, creator, or names of attributes and lists."""

    def text(self, item: Item) -> str:
        """Return the text of an item: `. ` between columns, commas in lists."""
        parts = (_words(item, column) for column in self.columns)
        return ". ".join(part for part in parts if part)


class ContentEncoders:
    """Encoders by vector set."""

    def __init__(self, encoders: Mapping[str, TextEncoder]) -> None:
        self._encoders = encoders

    @classmethod
    def load(cls, release: OpenRelease) -> Self:
        """Return the encoders of a release, none where it keeps none.

        Raises:
            ReleaseError, ConfigError: naming the file that is not as it must be.
        """
        found = {}
        for name in release.names:
            folder, _, rest = name.partition("/")
            if folder != ENCODERS or not rest.endswith(f"/{READS}"):
                continue
            path = release.file(name).parent
            found[rest.split("/")[0]] = TextEncoder(
                encoder=HashedNgramEncoder.load(path), columns=EncoderReads.load(path).columns
            )
        return cls(found)

    def encode(self, name: str, items: Sequence[Item]) -> Float32s | None:
        """Return (n, d) of a vector set, None when there is no encoder of it."""
        own = self._encoders.get(name)
        if own is None:
            return None
        return own.encoder.encode([own.text(item) for item in items])


def _words(item: Item, column: str) -> str:
    if column in ("title", "category", "creator"):
        return str(getattr(item, column)).strip()
    if column in item.lists:
        return ", ".join(item.lists[column])
    return item.attributes.get(column, "").strip()
