"""Where a stage's replicas listen: a list that may change at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

Addresses = frozenset[str]


class Endpoints(Protocol):
    """A changing set of `host:port`."""

    def subscribe(self, changed: Callable[[Addresses], None]) -> None:
        """Call `changed`, in the event loop, with the addresses now known and at every change."""
        ...

    def close(self) -> None:
        """Stop calling."""
        ...


class StaticEndpoints:
    """Addresses written down in a configuration file; tests change them with `set`."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = frozenset(addresses)
        self._changed: list[Callable[[Addresses], None]] = []

    def subscribe(self, changed: Callable[[Addresses], None]) -> None:
        """Call `changed` now and at every `set`."""
        self._changed.append(changed)
        changed(self._addresses)

    def set(self, addresses: Sequence[str]) -> None:
        """Replace the addresses."""
        self._addresses = frozenset(addresses)
        for changed in self._changed:
            changed(self._addresses)

    def close(self) -> None:
        """Forget the subscribers."""
        self._changed.clear()
