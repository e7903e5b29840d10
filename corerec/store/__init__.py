"""Stores: what the cluster knows of its users, what they did, and its items; durable when acked."""

from corerec.store.base import Event, Progress, Store, UserState
from corerec.store.catalogue import Item, ItemChange
from corerec.store.open import open_store
from corerec.store.sqlite import SqliteStore

__all__ = [
    "Event",
    "Item",
    "ItemChange",
    "Progress",
    "SqliteStore",
    "Store",
    "UserState",
    "open_store",
]
