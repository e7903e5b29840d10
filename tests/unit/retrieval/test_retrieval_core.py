"""RetrievalCore on a real tiny release: limits, sources, exclusions, consistency."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from corerec.errors import CoreRecError, FailedPrecondition, InvalidArgument
from corerec.release import Release, ReleaseWriter
from corerec.retrieval import RetrievalCore, RetrievalOptions
from corerec.retrieval.sources import VectorSource
from corerec.stages import Candidates, RetrieveEntry, RetrieveResult, Source, UserContext

ITEMS = 500


@pytest.fixture(scope="module")
def core(tiny_release: Path) -> RetrievalCore:
    return RetrievalCore.load(Release.open(tiny_release))


def _user(*items: int, user_id: str = "") -> UserContext:
    numbers = np.array(items, np.int64)
    return UserContext(user_id=user_id, items=numbers, times=np.zeros(len(items), np.int64))


def _one(core: RetrievalCore, entry: RetrieveEntry) -> Candidates:
    (result,) = core.run([entry])
    assert isinstance(result, RetrieveResult), result
    assert result.coverage == 1.0
    assert set(result.timings) == {"two_tower_encode", "two_tower_search", "fuse"}
    return result.candidates


def _rebuilt(core: RetrievalCore, broken: tuple[str, ...] = ()) -> RetrievalCore:
    """The same core; models of the `broken` sources give NaN for users whose newest item is 3."""

    def breaking(source: VectorSource) -> VectorSource:
        def encode(users: Sequence[UserContext]) -> np.ndarray:
            queries = source.encode(users).copy()
            queries[[bool(len(u.items)) and u.items[-1] == 3 for u in users]] = np.nan
            return queries

        return replace(source, encode=encode) if source.kind in broken else source

    return RetrievalCore(
        release=core.release,
        sources=[breaking(source) for source in core.sources],
        popular=core._popular,
        schema=core._schema,
        users=core._users,
        options=core._options,
    )


def _vectors(tiny_release: Path) -> np.ndarray:
    return load_file(tiny_release / "two_tower_vectors.safetensors")["vectors"]


def test_candidates_are_unseen_distinct_sorted_and_as_many_as_asked(core: RetrievalCore) -> None:
    found = _one(core, RetrieveEntry(user=_user(3, 4, 5, 3), k=100))
    assert len(found) == len(np.unique(found.numbers)) == 100
    assert not np.isin([3, 4, 5], found.numbers).any()
    assert (np.diff(found.scores) <= 0).all()
    assert np.isfinite(found.scores).all()


def test_every_score_is_the_dot_product_whatever_the_source(
    core: RetrievalCore, tiny_release: Path
) -> None:
    user = _user(7, 9, 11)
    found = _one(core, RetrieveEntry(user=user, k=100))
    query = core.sources[0].encode([user])[0]
    assert np.allclose(found.scores, _vectors(tiny_release)[found.numbers] @ query, atol=1e-5)
    assert set(found.sources.tolist()) == {Source.TWO_TOWER, Source.POPULAR}


def test_the_two_tower_part_is_what_brute_force_finds(
    core: RetrievalCore, tiny_release: Path
) -> None:
    user = _user(20, 21)
    scores = _vectors(tiny_release) @ core.sources[0].encode([user])[0]
    scores[[20, 21]] = -np.inf
    found = _one(core, RetrieveEntry(user=user, k=50))
    own = found.numbers[found.sources == Source.TWO_TOWER]
    assert 45 <= len(own) <= 50
    assert set(own.tolist()) == set(np.argsort(-scores)[: len(own)].tolist())


def test_seen_items_stay_when_they_may(core: RetrievalCore) -> None:
    entry = RetrieveEntry(user=_user(3), k=ITEMS, exclude_seen=False)
    assert 3 in _one(core, entry).numbers
    assert len(_one(core, replace(entry, exclude_seen=True))) == ITEMS - 1


def test_a_stranger_gets_popular_items_and_what_the_context_says(
    core: RetrievalCore, tiny_release: Path
) -> None:
    for user in (_user(), _user(user_id="nobody-knows-me"), _user(10**12, -4)):
        found = _one(core, RetrieveEntry(user=user, k=20))
        assert (found.sources == Source.POPULAR).sum() == 14
        assert (found.sources == Source.TWO_TOWER).sum() == 6
    for share, source in ((0.0, Source.TWO_TOWER), (1.0, Source.POPULAR)):
        options = RetrievalOptions(cold_popular_share=share)
        other = RetrievalCore.load(Release.open(tiny_release), config=options)
        found = _one(other, RetrieveEntry(user=_user(), k=20))
        assert (found.sources == source).all()


def test_unknown_items_in_the_history_change_nothing(core: RetrievalCore) -> None:
    a = _one(core, RetrieveEntry(user=_user(3, 4), k=50))
    b = _one(core, RetrieveEntry(user=_user(-1, 3, 10**15, 4, ITEMS), k=50))
    assert np.array_equal(a.numbers, b.numbers)


def test_a_batch_answers_as_its_entries_alone_would(core: RetrievalCore) -> None:
    rng = np.random.default_rng(0)
    entries = [
        RetrieveEntry(user=_user(*rng.integers(0, ITEMS, n).tolist()), k=k)
        for n, k in ((0, 10), (5, 10), (40, 30), (5, 30), (1, 10), (900, 400))
    ]
    for entry, result in zip(entries, core.run(entries), strict=True):
        assert isinstance(result, RetrieveResult)
        alone = _one(core, entry)
        assert len(alone) == min(entry.k, ITEMS - len(np.unique(entry.user.items)))
        assert (result.candidates.numbers == alone.numbers).mean() > 0.95
        assert np.allclose(result.candidates.scores, alone.scores, atol=1e-5)
    assert core.run([]) == []


@pytest.mark.parametrize("k", [-1, 0, 2001, 2**31 - 1])
def test_k_out_of_range_is_refused(core: RetrievalCore, k: int) -> None:
    with pytest.raises(InvalidArgument, match=rf"k must be in \[1, 2000\], got {k}"):
        core.check(RetrieveEntry(user=_user(), k=k))


def test_k_above_the_catalogue_gives_the_catalogue(core: RetrievalCore) -> None:
    assert len(_one(core, RetrieveEntry(user=_user(1), k=2000))) == ITEMS - 1


def test_broken_histories_are_refused(core: RetrievalCore) -> None:
    items = np.zeros(1001, np.int64)
    for user, rule in (
        (UserContext(items=items, times=items), "at most 1000 events: 1001"),
        (UserContext(items=items[:3], times=items[:2]), "got 3 items and 2 times"),
        (UserContext(items=items[:3].astype(np.int32), times=items[:3]), "got int32"),
        (UserContext(items=items[:4].reshape(2, 2), times=items[:4]), "one-dimensional"),
        (UserContext(now=-1), "now must be"),
    ):
        with pytest.raises(InvalidArgument, match=rule):
            core.check(RetrieveEntry(user=user, k=10))
    long = np.zeros(100_000, np.int64)
    with pytest.raises(InvalidArgument, match="at most 1000 events: 100000"):
        core.check(RetrieveEntry(user=UserContext(items=long, times=long), k=10))


def test_one_bad_entry_does_not_fail_its_neighbours(core: RetrievalCore) -> None:
    good = RetrieveEntry(user=_user(1), k=10)
    results = core.run([good, RetrieveEntry(user=_user(1), k=0), good])
    assert isinstance(results[1], InvalidArgument)
    assert all(isinstance(results[i], RetrieveResult) for i in (0, 2))


def test_a_query_that_is_not_finite_becomes_an_error_in_its_place(tiny_release: Path) -> None:
    core = _rebuilt(RetrievalCore.load(Release.open(tiny_release)), broken=("two_tower",))
    results = core.run([RetrieveEntry(user=_user(n), k=10) for n in (2, 3, 4)])
    assert isinstance(results[1], CoreRecError)
    assert "finite" in str(results[1])
    for i in (0, 2):
        result = results[i]
        assert isinstance(result, RetrieveResult)
        assert np.isfinite(result.candidates.scores).all()


def test_an_index_of_another_model_is_never_served(tiny_release: Path, tmp_path: Path) -> None:
    source = Release.open(tiny_release)
    with ReleaseWriter(tmp_path) as writer:
        for name in source.manifest.files:
            shutil.copyfile(source.file(name), writer.path(name))
        header = json.loads(writer.path("two_tower_index.json").read_text())
        writer.path("two_tower_index.json").write_text(json.dumps(header | {"model_id": "0" * 16}))
        path = writer.commit(source.info)
    with pytest.raises(FailedPrecondition, match="must come from one model"):
        RetrievalCore.load(Release.open(path))


def test_warm_runs_and_the_release_is_named(core: RetrievalCore, tiny_release: Path) -> None:
    core.warm()
    assert core.release == tiny_release.name
