"""LiveCatalogue: a release's catalogue and the changes since, read like `release.Catalogue`.

Imports neither torch nor faiss: the gateway and rerank hold one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corerec.live.arrays import Growing
from corerec.release.catalogue import Catalogue
from corerec.store.catalogue import ItemChange


class LiveCatalogue:
    """What is shown of each item by item number, as of a position of the store's changes.

    Not safe for threads: one at a time applies and reads. Columns may be replaced by `apply`, so
    take them anew for each request; whoever holds an older one keeps what it showed.
    """

    def __init__(self, base: Catalogue, position: int = 0) -> None:
        """Begin with the items of a release, which holds the changes up to `position`."""
        self.position = position
        """Position of the newest change that was applied; the release's own at first."""
        self.ids: list[str] = list(base.ids)
        """The caller's id of each item, "" for a number that nothing is known of yet."""
        self.titles: list[str] = list(base.titles)
        """Title of each item, "" when it has none."""
        self.categories: list[str] = list(base.categories)
        """Category of each item, "" when it has none."""
        self.creators: list[str] = list(base.creators)
        """Creator of each item, "" when it has none."""
        self.category_names: list[str] = list(base.category_names)
        """The distinct categories ever seen, new ones last; `category_codes` indexes it."""
        self.creator_names: list[str] = list(base.creator_names)
        """The distinct creators ever seen, new ones last; `creator_codes` indexes it."""
        self._numbers = dict(zip(self.ids, range(len(self.ids)), strict=True))
        self._category_rows = {name: row for row, name in enumerate(self.category_names)}
        self._creator_rows = {name: row for row, name in enumerate(self.creator_names)}
        count = len(base)
        self._born = Growing(base.born_micros, -1)
        self._category_codes = Growing(base.category_codes, -1)
        self._creator_codes = Growing(base.creator_codes, -1)
        self._known = Growing(np.ones(count, np.bool_), False)
        self._deleted = Growing(np.zeros(count, np.bool_), False)

    def __len__(self) -> int:
        """N: one more than the highest number that is known."""
        return len(self.ids)

    @property
    def born_micros(self) -> NDArray[np.int64]:
        """(N,) when each item came to be, microseconds since 1970; -1 when unknown."""
        return self._born.values

    @property
    def category_codes(self) -> NDArray[np.int32]:
        """(N,) row of each item's category in `category_names`; -1 when it has none."""
        return self._category_codes.values

    @property
    def creator_codes(self) -> NDArray[np.int32]:
        """(N,) row of each item's creator in `creator_names`; -1 when it has none."""
        return self._creator_codes.values

    @property
    def deleted(self) -> NDArray[np.bool_]:
        """(N,) which items were deleted; they keep what was known of them."""
        return self._deleted.values

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) which numbers have an item, deleted or not; the others' changes did not come yet."""
        return self._known.values

    def number_of(self, item_id: str) -> int | None:
        """Return the item number of an id, deleted or not, None when no item ever had it."""
        return self._numbers.get(item_id)

    def is_alive(self, number: int) -> bool:
        """Say whether a number has an item that was not deleted."""
        return 0 <= number < len(self) and bool(self.known[number] and not self.deleted[number])

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take changes, in the order of their positions with none left out, at O(1) each.

        What was applied already, up to `position`, is skipped, so that a replay changes nothing.
        """
        fresh = [change for change in changes if change.position > self.position]
        if not fresh:
            return
        self.reach(max(change.number for change in fresh) + 1)
        for change in fresh:
            self._put(change)
        self.position = fresh[-1].position

    def reach(self, count: int) -> None:
        """Have a row for every number below `count`; nothing is known of those that are new."""
        for texts in (self.ids, self.titles, self.categories, self.creators):
            texts.extend([""] * (count - len(texts)))
        columns = (self._category_codes, self._creator_codes, self._known, self._deleted)
        for column in (self._born, *columns):
            column.grow(count)

    def _put(self, change: ItemChange) -> None:
        number, item = change.number, change.item
        self.ids[number] = change.item_id
        self._numbers[change.item_id] = number
        self.known[number] = True
        self.deleted[number] = item is None
        if item is None:
            return
        self.titles[number] = item.title
        self.categories[number], self.creators[number] = item.category, item.creator
        self.born_micros[number] = item.born_micros
        self.category_codes[number] = _code(item.category, self.category_names, self._category_rows)
        self.creator_codes[number] = _code(item.creator, self.creator_names, self._creator_rows)


def _code(name: str, names: list[str], rows: dict[str, int]) -> int:
    """Return the row of a name, which is added when it is new; -1 for no name."""
    if not name:
        return -1
    if (row := rows.get(name)) is None:
        row = rows[name] = len(names)
        names.append(name)
    return row
