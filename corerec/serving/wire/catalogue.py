"""CatalogService's messages: items of the live catalogue and their changes."""

from __future__ import annotations

import numpy as np

from corerec.errors import InvalidArgument
from corerec.serving.wire.common import FLOAT32, column
from corerec.stages import Float32s
from corerec.store.catalogue import Item, ItemChange
from corerec.v1 import catalog_pb2


def catalogue_item_to_proto(item: Item) -> catalog_pb2.Item:
    """Return the message."""
    return catalog_pb2.Item(
        item_id=item.item_id,
        title=item.title,
        category=item.category,
        creator=item.creator,
        born_micros=item.born_micros,
        attributes=item.attributes,
        lists={name: catalog_pb2.Values(values=own) for name, own in item.lists.items()},
        vectors={
            name: catalog_pb2.Vector(values=np.asarray(own, FLOAT32).tobytes())
            for name, own in item.vectors.items()
        },
    )


def catalogue_item_from_proto(message: catalog_pb2.Item, now: int) -> Item:
    """Return the item, born `now` when the message does not say. Limits are the store's to check.

    Raises:
        InvalidArgument: a vector is not made of float32.
    """
    return Item(
        item_id=message.item_id,
        title=message.title,
        category=message.category,
        creator=message.creator,
        born_micros=message.born_micros or now,
        attributes=dict(message.attributes),
        lists={name: tuple(own.values) for name, own in message.lists.items()},
        vectors={name: _vector(name, own.values) for name, own in message.vectors.items()},
    )


def _vector(name: str, raw: bytes) -> Float32s:
    width, rest = divmod(len(raw), FLOAT32.itemsize)
    if rest:
        raise InvalidArgument(f"vectors[{name!r}] must be float32, got {len(raw)} bytes")
    return column("values", raw, FLOAT32, width)


def change_to_proto(change: ItemChange) -> catalog_pb2.ItemChange:
    """Return the message; of a deleted item, without the item."""
    return catalog_pb2.ItemChange(
        position=change.position,
        item_number=change.number,
        item_id=change.item_id,
        item=None if change.item is None else catalogue_item_to_proto(change.item),
    )
