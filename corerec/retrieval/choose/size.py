"""Sizes in bytes as people write them: 400MB, 2GiB, 1.5 GiB."""

from __future__ import annotations

import re

from corerec.errors import InvalidArgument

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{end}": base ** (power + 1)
    for power, letter in enumerate("kmgt")
    for end, base in (("", 1024), ("b", 1000), ("ib", 1024))
}
_SHAPE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 2GiB, 2G (the same) or 2GB (2,000,000,000).

    Raises:
        InvalidArgument: when the text is no size above 0.
    """
    found = _SHAPE.fullmatch(text.strip())
    unit = _UNITS.get(found[2].lower()) if found else None
    size = int(float(found[1]) * unit) if found and unit else 0
    if size < 1:
        raise InvalidArgument(f"a size must be a number above 0 and B, KiB, MiB, GiB, MB, GB, "
                              f"such as 2GiB, got {text!r}")  # fmt: skip
    return size


def format_size(size: float) -> str:
    """Return bytes in the largest unit that leaves at least 1, such as 1.4 GiB."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} B"
