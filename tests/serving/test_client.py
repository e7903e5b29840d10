"""The two clients on a real gateway: the live catalogue and conditions, as records."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from corerec.client import AsyncClient, CatalogItem, Client, Predicate
from corerec.errors import InvalidArgument, NotFound
from tests.serving.fakes import ITEMS, FakeCluster

ITEM = CatalogItem(
    item_id="new",
    title="New",
    category="c",
    creator="m",
    born_micros=5,
    attributes={"price": "3"},
    lists={"tags": ("x", "y")},
    vectors={"text": (1.5, -2.0)},
)


def use(client: Client) -> None:
    stored = client.upsert_items([ITEM])
    assert stored.numbers == (ITEMS,)
    (entry,) = client.get_items(["new"])
    assert (entry.item, entry.number, entry.position) == (ITEM, ITEMS, stored.position)
    assert client.delete_items(["new", "nope"]) == 1
    with pytest.raises(NotFound, match="item 'new' was deleted"):
        client.get_items(["new"])
    page = client.changes(0, 10)
    assert [(c.item_id, c.number, c.item) for c in page.changes] == [("new", ITEMS, None)]
    assert page.position == page.changes[0].position > stored.position
    with pytest.raises(InvalidArgument, match="at_most must be finite"):
        client.recommend(where=[Predicate(attribute="price", at_most=float("inf"))])
    assert len(client.recommend(where=[Predicate(attribute="price", at_most=3)]).items) == 10


async def test_the_clients_change_and_read_the_catalogue(tmp_path: Path) -> None:
    cluster = await FakeCluster(tmp_path, tail_ms=20, default_deadline_ms=3000).start()
    client = Client(cluster.address, timeout=5)
    await asyncio.to_thread(use, client)
    await asyncio.to_thread(client.close)
    async with AsyncClient(cluster.address, timeout=5) as other:
        stored = await other.upsert_items([ITEM])
        assert stored.numbers == (ITEMS,)
        (entry,) = await other.get_items(["new"])
        assert entry.item == ITEM
        assert (await other.changes(stored.position - 1)).changes[0].item == ITEM
        assert await other.delete_items(["new"]) == 1
        where = [Predicate(attribute="price", at_most=3)]
        assert len((await other.recommend(where=where)).items) == 10
    await cluster.stop()
