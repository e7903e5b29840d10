"""Who is new gets useful candidates: nothing known, popular items; three events, better ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from corerec.data.dataset import load_dataset
from corerec.data.generate import generate
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.progress import Steps
from corerec.pipelines.train import train_funnel
from corerec.pipelines.write import Own, write_release
from corerec.release import Release
from corerec.retrieval import RetrievalCore, RetrievalOptions
from corerec.stages import RetrieveEntry, RetrieveResult, Source, UserContext

K, NEW = 100, 250


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, pl.DataFrame]:
    """A release that has not seen the first users, and their events in order of time."""
    folder = tmp_path_factory.mktemp("new")
    generate(folder / "data", users=900, items=1_000, interactions=25_000, seed=4)
    dataset = load_dataset(folder / "data")
    theirs = dataset.interactions.filter(pl.col("user_row") < NEW)
    rest = dataset.interactions.filter(pl.col("user_row") >= NEW)
    trained = train_funnel(
        replace(dataset, interactions=rest),
        TrainConfig.tiny(),
        Own(unranked=True),
        work=folder / "work",
        steps=Steps(),
    )
    known = np.ones(len(trained.parts.events.users), np.bool_)
    path = write_release(folder / "release", trained, known=known, metrics={})
    return Release.open(path), theirs


def _answers(core: RetrievalCore, users: list[UserContext]) -> list[RetrieveResult]:
    results = core.run([RetrieveEntry(user=user, k=K) for user in users])
    found = [result for result in results if isinstance(result, RetrieveResult)]
    assert len(found) == len(users)
    return found


def test_three_events_of_a_new_user_find_more_of_what_follows_than_the_popular_list(
    world: tuple[Release, pl.DataFrame],
) -> None:
    release, theirs = world
    core = RetrievalCore.load(release)
    users, strangers, followed = [], [], []
    for events in theirs.sort("time_micros").partition_by("user_row"):
        items = events["item_number"].cast(pl.Int64).to_numpy()
        times = events["time_micros"].to_numpy()
        rest = np.setdiff1d(items[3:23], items[:3])
        if len(rest):
            # An id that nobody knows: only what the request brings can help.
            users.append(UserContext(user_id="new", items=items[:3], times=times[:3], now=times[2]))
            strangers.append(UserContext(user_id="new", now=times[2]))
            followed.append(rest)
    assert len(users) > 200

    def recall(core: RetrievalCore, asked: list[UserContext]) -> float:
        found = [
            np.isin(own, result.candidates.numbers).mean()
            for own, result in zip(followed, _answers(core, asked), strict=True)
        ]
        return float(np.mean(found))

    with_three = recall(core, users)
    listed = RetrievalCore.load(release, config=RetrievalOptions(cold_popular_share=1.0))
    popular = recall(listed, strangers)
    assert with_three > 1.3 * popular


def test_who_brings_nothing_gets_popular_items_and_what_the_moment_says(
    world: tuple[Release, pl.DataFrame],
) -> None:
    core = RetrievalCore.load(world[0])
    (result,) = _answers(core, [UserContext(user_id="new")])
    assert (result.candidates.sources == Source.POPULAR).sum() == 70
    assert len(result.candidates) == K
    assert result.coverage == 1.0
