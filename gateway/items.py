"""Items as the release has them, and the checks of what CatalogService is sent."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from corerec.errors import InvalidArgument
from corerec.features import FeatureSchema
from corerec.live.rows import check_columns, items_of
from corerec.release import Release
from corerec.serving.wire import catalogue_item_from_proto
from corerec.store.catalogue import MAX_MICROS, Item, check_item
from corerec.store.limits import MAX_ID_BYTES
from corerec.v1 import catalog_pb2

MAX_ITEMS = 1000
MAX_CHANGES = 1000
DEFAULT_CHANGES = 100
_TABLE = "attributes.parquet"
_OWN = ("title", "category", "creator", "born_micros")


class ReleaseItems:
    """What the release says of its items, read from its file when it is asked for."""

    def __init__(self, release: Release) -> None:
        self._path = release.file(_TABLE) if release.has(_TABLE) else None
        self._catalogue = release.catalogue
        self._schema = (
            FeatureSchema.load(release.file("schema.json")) if release.has("schema.json") else None
        )

    def read(self, numbers: Sequence[int]) -> dict[int, Item]:
        """Return items by number; the numbers are the release's, ascending. Reads the disk."""
        known = [n for n in numbers if n < len(self._catalogue)]
        if not known:
            return {}
        if self._path is None:
            return {number: self._named(number) for number in known}
        table = pl.scan_parquet(self._path)
        wanted = pl.LazyFrame({"item_number": pl.Series(known, dtype=pl.UInt32)})
        rows = wanted.join(
            table.drop("item_number", strict=False).with_row_index("item_number"),
            on="item_number",
            how="left",
            maintain_order="left",
        ).collect()
        missing = [pl.lit(None).alias(name) for name in _OWN if name not in rows.columns]
        return dict(zip(known, items_of(rows.with_columns(missing)), strict=True))

    def _named(self, number: int) -> Item:
        catalogue = self._catalogue
        return Item(
            item_id=catalogue.ids[number],
            title=catalogue.titles[number],
            category=catalogue.categories[number],
            creator=catalogue.creators[number],
            born_micros=int(catalogue.born_micros[number]),
        )

    def check(self, item: Item) -> None:
        """Raise InvalidArgument when an item breaks a limit or the models cannot read it."""
        check_item(item)
        if self._schema is not None:
            check_columns(self._schema, item)


def items_to_store(
    request: catalog_pb2.UpsertItemsRequest, items: ReleaseItems, now: int
) -> tuple[Item, ...]:
    """Return the checked items. Raises InvalidArgument."""
    if not 1 <= len(request.items) <= MAX_ITEMS:
        raise InvalidArgument(f"items must number in [1, {MAX_ITEMS}], got {len(request.items)}")
    found: dict[str, Item] = {}
    for message in request.items:
        item = catalogue_item_from_proto(message, now)
        items.check(item)
        if item.item_id in found:
            raise InvalidArgument(f"items must differ in item_id, got {item.item_id!r} twice")
        found[item.item_id] = item
    return tuple(found.values())


def checked_ids(ids: Sequence[str]) -> tuple[str, ...]:
    """Return the ids. Raises InvalidArgument."""
    if not 1 <= len(ids) <= MAX_ITEMS:
        raise InvalidArgument(f"item_ids must number in [1, {MAX_ITEMS}], got {len(ids)}")
    for item_id in ids:
        size = len(item_id.encode())
        if not 1 <= size <= MAX_ID_BYTES:
            raise InvalidArgument(
                f"item_ids must have [1, {MAX_ID_BYTES}] bytes of UTF-8, got {size}"
            )
    return tuple(ids)


def page_of(request: catalog_pb2.ListChangesRequest) -> tuple[int, int]:
    """Return the position to read after and the most changes to return. Raises InvalidArgument."""
    if not 0 <= request.after_position <= MAX_MICROS:
        raise InvalidArgument(f"after_position must be >= 0, got {request.after_position}")
    if not 0 <= request.page_size <= MAX_CHANGES:
        raise InvalidArgument(
            f"page_size must be in [1, {MAX_CHANGES}] or 0 for {DEFAULT_CHANGES}, "
            f"got {request.page_size}"
        )
    return request.after_position, request.page_size or DEFAULT_CHANGES
