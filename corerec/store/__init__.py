"""Stores: what the cluster knows of its users and what they did, durable when acknowledged."""

from corerec.store.base import Event, Progress, Store, UserState
from corerec.store.sqlite import SqliteStore

__all__ = ["Event", "Progress", "SqliteStore", "Store", "UserState"]
