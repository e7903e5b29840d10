"""What Redis and its connections say when they fail, and what to do about it."""

from __future__ import annotations

from redis import exceptions


class Refused(exceptions.ConnectionError):
    """The server is not one to keep a store in; the text says why."""


def explained(name: str, seconds: float, error: Exception) -> str:
    """Return the text of a failure: the store, what happened, and what to do about it."""
    text = str(error)
    if isinstance(error, Refused):
        return f"store {name}: {text}"
    if isinstance(error, exceptions.BusyLoadingError):
        return f"store {name}: Redis is still reading its log; try again in a while"
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
        return f"store {name}: {text}; put user and password into the store's address"
    if isinstance(error, exceptions.TimeoutError):
        return (
            f"store {name}: no answer within {seconds} s, a write may or may "
            "not have happened; try again"
        )
    if text.startswith("No connection available"):
        return f"store {name}: no turn within {seconds} s, all connections are in use; try again"
    if isinstance(error, exceptions.ConnectionError | OSError):
        return (
            f"store {name}: the connection failed ({text}), a write may or may not have "
            "happened; see that redis-server runs there, and try again"
        )
    for kind, mark, advice in (
        (exceptions.OutOfMemoryError, "OOM", "nothing was written; raise its maxmemory"),
        (
            exceptions.ReadOnlyError,
            "READONLY",
            "nothing was written; use the primary's address",
        ),
        (None, "MISCONF", "nothing was written; make room on its disk"),
        (None, "OTHERSTORE", "nothing was done; bring the old one back, or restart"),
    ):
        if text.startswith(mark) or (kind is not None and isinstance(error, kind)):
            return f"store {name}: {text}; {advice}"
    return f"store {name}: {text} ({type(error).__name__})"
