"""The one tree of errors that CoreRec raises; serving maps it to gRPC statuses in one place.

    CoreRecError
    ├── InvalidArgument       a broken contract: bad k, wrong dimension, NaN
    │   ├── DataError         a data file is wrong: names file, line, column, rule and value
    │   └── ConfigError       a configuration file is wrong: names file, key and value
    ├── NotFound              an unknown item, a user where one is needed, a release
    ├── FailedPrecondition    a stage does not hold the pinned release
    │   └── ReleaseError      a release does not verify: names the file
    ├── ResourceExhausted     a queue is full, a message is too large
    ├── Unavailable           not warm, a shard or the store is lost
    └── DeadlineExceeded      out of time

A message states the rule and the value, and what to do: ``page_size must be in [1, 500], got 0``.
"""

from __future__ import annotations

from pathlib import Path


class CoreRecError(Exception):
    """Base of every error that CoreRec raises on purpose."""


class InvalidArgument(CoreRecError, ValueError):
    """The caller broke a contract; the same call will fail again."""


class DataError(InvalidArgument):
    """A data file breaks a rule. The text names what is known of file, line, column and value."""

    def __init__(
        self,
        rule: str,
        *,
        file: Path | str | None = None,
        line: int | None = None,
        column: str | None = None,
        value: object = None,
    ) -> None:
        self.rule, self.file, self.line, self.column, self.value = rule, file, line, column, value
        place = str(file) if file is not None else ""
        if line is not None:
            place += f":{line}"
        if column is not None:
            place += f", column {column!r}" if place else f"column {column!r}"
        text = f"{place}: {rule}" if place else rule
        if value is not None:
            text += f", got {value!r}"
        super().__init__(text)


class ConfigError(InvalidArgument):
    """A configuration file breaks a rule. The text names file, key and value."""


class NotFound(CoreRecError, LookupError):
    """Something that was named does not exist."""


class FailedPrecondition(CoreRecError):
    """The request is right, but this process is not in the state that it needs."""


class ReleaseError(FailedPrecondition):
    """A release does not verify. The text names the file."""


class ResourceExhausted(CoreRecError):
    """A queue is full or a message too large; a later or smaller call may succeed."""


class Unavailable(CoreRecError):
    """Not ready, or a needed part is lost; the same call may succeed later."""


class DeadlineExceeded(CoreRecError, TimeoutError):
    """The time that the caller gave has run out."""
