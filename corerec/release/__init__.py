"""Releases: immutable, verified directories with everything that was trained together."""

from corerec.release.catalogue import Catalogue, read_catalogue, write_catalogue
from corerec.release.manifest import FORMAT_VERSION
from corerec.release.reader import OpenRelease, Release
from corerec.release.writer import ReleaseWriter

__all__ = [
    "FORMAT_VERSION",
    "Catalogue",
    "OpenRelease",
    "Release",
    "ReleaseWriter",
    "read_catalogue",
    "write_catalogue",
]
