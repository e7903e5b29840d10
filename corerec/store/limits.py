"""Limits of what a store takes, and their checks."""

from __future__ import annotations

from corerec.errors import InvalidArgument

MAX_ID_BYTES = 256
"""Longest user or item id, bytes of UTF-8."""
MAX_TAG_BYTES = 64
"""Longest event type or event id, bytes of UTF-8."""


def check_id(text: str, name: str) -> None:
    """Raise InvalidArgument unless an id has 1 to 256 bytes."""
    if not 1 <= (size := size_of(text, name)) <= MAX_ID_BYTES:
        raise InvalidArgument(f"{name} must have 1 to {MAX_ID_BYTES} bytes, got {size}")


def check_text(text: str, name: str, most: int) -> None:
    """Raise InvalidArgument unless a text has at most so many bytes."""
    if (size := size_of(text, name)) > most:
        raise InvalidArgument(f"{name} must be at most {most} bytes, got {size}")


def check_limit(limit: int) -> None:
    """Raise InvalidArgument unless a read asks for at least one row."""
    if limit < 1:
        raise InvalidArgument(f"limit must be at least 1, got {limit}")


def size_of(text: object, name: str) -> int:
    """Return the bytes of a text in UTF-8. Raises InvalidArgument when it is none."""
    if not isinstance(text, str):
        raise InvalidArgument(f"{name} must be text, got {text!r}")
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{name} must be valid Unicode, got {text!r}") from None
