"""The gateway's column of living items agrees with its catalogue, however many come and go."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from corerec.release import Release
from corerec.serving.metrics import Metrics
from corerec.stages import Source
from corerec.store import open_store
from corerec.store.catalogue import Item, ItemChange
from gateway.checks import Checks
from gateway.feed import Feed, News
from gateway.profiles import Profiles
from gateway.view import ReleaseView
from tests.serving.fakes import ITEMS, columns, write_fake_release

MANY = 3000
"""More new items than the column has room for at first."""


async def test_what_lives_is_what_the_catalogue_says_after_every_change(tmp_path: Path) -> None:
    view = ReleaseView.load(Release.open(write_fake_release(tmp_path)))
    metrics = Metrics()
    feed = Feed(view.catalogue, metrics, every=1.0, kept=view.kept, rules=view.rules)
    profiles = Profiles(open_store(str(tmp_path / "store.db")), metrics, feed)
    checks, rng = Checks(view, profiles), np.random.default_rng(0)

    def agrees() -> None:
        for number in range(ITEMS + MANY + 5):
            asked = columns(np.array([3, number]), Source.TWO_TOWER)
            wanted = view.catalogue.is_alive(3) and view.catalogue.is_alive(number)
            assert checks.all_alive(asked) == wanted, number

    agrees()
    assert checks.all_alive(columns(np.empty(0, np.int64), Source.TWO_TOWER))
    for position, number in enumerate(rng.permutation(ITEMS + MANY)[:2000].tolist(), 1):
        item = None if position % 3 == 0 else Item(item_id=f"i{number}", title="New")
        change = ItemChange(position=position, number=number, item_id=f"i{number}", item=item)
        feed.take(News(changes=[change], began=0.0))
    agrees()
    feed.forget([5, 6, ITEMS + MANY + 10**6])
    assert not checks.all_alive(columns(np.array([5]), Source.TWO_TOWER))
    agrees()
    await profiles.close()
