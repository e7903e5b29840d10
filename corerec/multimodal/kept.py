"""Encoders that are kept beside the vectors that they made, and what they read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from corerec.config import build_config
from corerec.data.spec import FILE_NAME, load_spec
from corerec.errors import ConfigError

ENCODERS = "encoders"
"""Folder of fitted encoders inside a data set folder, and inside a release."""
READS = "columns.json"
"""Inside the folder of an encoder: what it reads."""


@dataclass(frozen=True, kw_only=True)
class EncoderReads:
    """What a kept encoder reads and made, in its folder's columns.json."""

    file: str
    """The vectors that it made."""
    columns: tuple[str, ...]
    """title, category, creator, or attributes and lists of items, in the order of the text."""

    def save(self, folder: Path) -> None:
        """Write columns.json into a folder."""
        (folder / READS).write_text(json.dumps(asdict(self), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> EncoderReads:
        """Return what `save` wrote. Raises ConfigError when it is not that."""
        path = folder / READS
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not readable as JSON: {error}") from None
        return build_config(cls, values, source=path)


def kept_encoders(data: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the folder of the encoder that made each vector set of a data set, where it is kept.

    Sets whose file something else has made since are left out.
    """
    if not (data / FILE_NAME).is_file():
        return {}
    spec, found = load_spec(data), {}
    for name in names:
        for folder in sorted((data / ENCODERS).glob(f"{name}-*")):
            own = re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{12}}", folder.name)
            if not own or not (folder / READS).is_file():
                continue
            if EncoderReads.load(folder).file == spec.vectors.get(name):
                found[name] = folder
    return found
