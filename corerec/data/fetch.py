"""Downloads public data sets from their publisher, verifies them and imports them."""

from __future__ import annotations

import hashlib
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from corerec.data.importers import import_dataset
from corerec.data.write import check_target
from corerec.errors import DataError, InvalidArgument, Unavailable

_BLOCK = 1 << 16
_TIMEOUT_S = 30.0
Report = Callable[[str, int, int], None]
"""Called with the name of a step, bytes done, and bytes in all (0 where that is not known)."""


@dataclass(frozen=True)
class Download:
    """Where a data set is published, and the MD5 that its publisher states for it."""

    url: str
    md5: str


DOWNLOADS: Mapping[str, Download] = {
    "movielens-100k": Download(
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        "0e33842e24a9c977be4e0107933c0723",
    ),
    "movielens-1m": Download(
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        "c4d9eecfca2ab87c1945afe126590906",
    ),
}


def _silent(step: str, done: int, total: int) -> None:
    return None


def fetch_dataset(
    name: str,
    out: Path,
    *,
    overwrite: bool = False,
    report: Report = _silent,
    downloads: Mapping[str, Download] = DOWNLOADS,
) -> tuple[str, ...]:
    """Download `name`, verify it, and write it as the data set folder `out`; return notes.

    Raises:
        InvalidArgument: no such data set, or `out` exists and may not be replaced.
        Unavailable: the publisher cannot be reached; says which file to get and what to run.
        DataError: what was downloaded is not what was published.
    """
    if name not in downloads:
        raise InvalidArgument(f"data set must be one of {', '.join(downloads)}, got {name!r}")
    check_target(out, overwrite=overwrite)
    source = downloads[name]
    with tempfile.TemporaryDirectory(prefix="corerec-fetch-") as folder:
        file = Path(folder) / source.url.rsplit("/", 1)[-1]
        try:
            digest = _download(source.url, file, report)
        except (urllib.error.URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Unavailable(
                f"cannot download {source.url}: {reason}. Get that file where there is internet "
                f"(MD5 {source.md5}), copy it here and run: "
                f"corerec data import {name} {file.name} {out}"
            ) from None
        if digest != source.md5:
            rule = f"the MD5 of the download must be {source.md5}; try again"
            raise DataError(rule, file=source.url, value=digest)
        return import_dataset(name, file, out, overwrite=overwrite)


def _download(url: str, file: Path, report: Report) -> str:
    """Write the content of `url` to `file` and return its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, file.open("wb") as target:
        total = int(answer.headers.get("Content-Length") or 0)
        done = 0
        while block := answer.read(_BLOCK):
            target.write(block)
            digest.update(block)
            done += len(block)
            report("download", done, total)
    return digest.hexdigest()
