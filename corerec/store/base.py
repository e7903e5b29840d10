"""The Store interface and what it takes and gives; every implementation passes one contract suite.

A store has the users' attributes and events, and it is the authority on item numbers: an id gets a
number once and keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from corerec.errors import InvalidArgument
from corerec.release import Release
from corerec.store.catalogue import Item, ItemChange
from corerec.store.limits import MAX_ID_BYTES, MAX_TAG_BYTES, check_id, size_of

Progress = Callable[[str, int, int], None]
"""Called while seeding with what is being loaded, how many rows are done, and of how many."""


@dataclass(frozen=True, slots=True)
class UserState:
    """What the store knows of one user. An unknown user has no attributes and no events."""

    user_id: str
    attributes: dict[str, str]
    """Attributes by column name of the training data."""
    items: NDArray[np.int64]
    """(H,) item numbers of the newest events, at most 1000, in order of time; read-only."""
    times: NDArray[np.int64]
    """(H,) times of the same events, microseconds since 1970-01-01 UTC, ascending; read-only."""
    known: bool = True
    """Whether the store has this user."""


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction of a user with an item."""

    user_id: str
    """The caller's id of the user, 1 to 256 bytes."""
    item_id: str
    """The caller's id of the item, 1 to 256 bytes."""
    item_number: int
    """The number that the catalogue gives this id."""
    time_micros: int
    """When, microseconds since 1970-01-01 UTC, in [0, 2^63)."""
    event_type: str = "interaction"
    """Kind of the event, at most 64 bytes."""
    event_id: str = ""
    """Makes a retry safe: stored once per user. At most 64 bytes; empty means none."""


class Store(Protocol):
    """Users, their events and the item numbers. Safe to use from many threads.

    Every method raises Unavailable when the store cannot be read or written; the same call may
    succeed later.
    """

    def read_users(self, ids: Sequence[str]) -> list[UserState]:
        """Return the state of each user, in the order asked; unknown users are empty.

        Everything that was acknowledged before the call is in the answer.
        """
        ...

    def read_users_and_changes(
        self, ids: Sequence[str], after: int, limit: int = 1000
    ) -> tuple[list[UserState], list[ItemChange]]:
        """Return what `read_users` and `changes` do, both as of one moment, in one read.

        When as many changes come as `limit` allows there may be more: read on with `changes`.
        """
        ...

    def append_events(self, events: Sequence[Event]) -> int:
        """Store all the events or none, durably, and return how many were stored.

        An event whose `event_id` the store has for its user is not stored again. Late events are
        put at their place in time.

        Raises:
            InvalidArgument: an event breaks a limit.
            NotFound: an item id that the store has not been given by `seed` or `upsert_items`.
            FailedPrecondition: an item number that is not the one the store has for the id.
        """
        ...

    def put_users(self, rows: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        """Set the named attributes of users, durably; others keep their value. Returns the count.

        Raises:
            InvalidArgument: a user id or an attribute is not text of the allowed length.
        """
        ...

    def upsert_items(self, items: Sequence[Item]) -> list[ItemChange]:
        """Add items or replace them whole, durably, all or none; return their changes in order.

        An id that the store has never had gets the next number, also after a deletion of others;
        an id that it has had keeps its number, also when it was deleted.

        Raises:
            InvalidArgument: an item breaks a limit, or an id is there twice.
        """
        ...

    def delete_items(self, ids: Sequence[str]) -> list[ItemChange]:
        """Delete items durably, all or none; return the changes of those that were there.

        Ids that the store does not have, or has deleted, change nothing.

        Raises:
            InvalidArgument: an id is malformed.
        """
        ...

    def read_items(self, ids: Sequence[str]) -> list[ItemChange | None]:
        """Return the newest change of each item, None for an id without one.

        An item that a release brought and nobody changed since has none.
        """
        ...

    def item_numbers(self, ids: Sequence[str]) -> list[int | None]:
        """Return the number of each id that the store has ever had, None for others."""
        ...

    def changes(self, after: int, limit: int = 1000) -> list[ItemChange]:
        """Return items that changed after a position, by position, each once: at its newest.

        Cheap when there is nothing new. Reading on from the last position that was returned until
        nothing comes gives every item's newest state.
        """
        ...

    def position(self) -> int:
        """Return the position of the newest change, 0 when there was none. Cheap."""
        ...

    def events_after(self, seq: int, limit: int = 10_000) -> tuple[int, NDArray[np.int64]]:
        """Return the place in the event log up to which was read, and (E, 2) item numbers and times
        in microseconds of at most `limit` events after place `seq`, in the order of their arrival.

        Events that a release brought are not in the log.
        """
        ...

    def seed(self, release: Release, progress: Progress | None = None) -> bool:
        """Register the items of a release and load the users that the store does not have yet.

        All or nothing. Returns False when the store had this very data already. The events of a
        release become histories only; the log of single events holds what came after. Live items
        that a release was rebuilt with are taken by a store that has none of its own; live items
        of the store that the release lacks stay.

        Raises:
            FailedPrecondition: an item of the release has another number in this store, or the
                release was rebuilt from a later position than the store's.
            ReleaseError: the release's tables are not as they must be.
        """
        ...

    def check(self) -> None:
        """Raise Unavailable unless the store can be read and written; cheap, changes nothing."""
        ...

    def close(self) -> None:
        """Let go of the store; later calls raise Unavailable."""
        ...


def check_event(event: Event) -> None:
    """Raise InvalidArgument when an event breaks a limit."""
    check_id(event.user_id, "user_id")
    check_id(event.item_id, "item_id")
    for name, text in (("event_type", event.event_type), ("event_id", event.event_id)):
        if size_of(text, name) > MAX_TAG_BYTES:
            raise InvalidArgument(f"{name} must be at most {MAX_TAG_BYTES} bytes, got {text!r}")
    for name, value in (("item_number", event.item_number), ("time_micros", event.time_micros)):
        if not 0 <= value < 2**63:
            raise InvalidArgument(f"{name} must be in [0, 2^63), got {value}")


def check_attributes(user_id: str, attributes: Mapping[str, str]) -> None:
    """Raise InvalidArgument unless every name and value is text of at most 256 bytes."""
    check_id(user_id, "user_id")
    for name, value in attributes.items():
        check_id(name, "attribute name")
        if size_of(value, f"attribute {name!r}") > MAX_ID_BYTES:
            raise InvalidArgument(
                f"attribute {name!r} must be at most {MAX_ID_BYTES} bytes, got {value!r}"
            )
