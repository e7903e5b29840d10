"""Queries of a moment ago are kept, by all that they are made of, for so long and for so many."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corerec.errors import ConfigError
from corerec.release import Release
from corerec.retrieval import RetrievalCore
from corerec.retrieval.cache import QueryCache
from corerec.stages import RetrieveEntry, RetrieveResult, UserContext


def _user(*items: int, **changes: object) -> UserContext:
    numbers = np.array(items, np.int64)
    user = UserContext(user_id="u", items=numbers, times=np.zeros(len(items), np.int64))
    return replace(user, **changes)  # type: ignore[arg-type]


def test_a_key_is_of_everything_that_a_query_is_made_of() -> None:
    cache = QueryCache(5)
    second = 1_000_000
    base = _user(1, 2, now=50 * second)
    others = [
        _user(1, 3, now=50 * second),
        _user(1, now=50 * second),
        _user(1, 2, user_id="v", now=50 * second),
        _user(1, 2, attributes={"age": "3"}, now=50 * second),
        _user(1, 2, attributes={"age": "4"}, now=50 * second),
        _user(1, 2, attributes={"ag": "e3"}, now=50 * second),
        _user(1, 2, times=np.ones(2, np.int64), now=50 * second),
        _user(1, 2, now=55 * second),
        _user(1, 2),
    ]
    keys = {cache.key(user) for user in (base, *others)}
    assert len(keys) == 1 + len(others)
    assert cache.key(replace(base, now=54 * second)) == cache.key(base)


def test_queries_grow_old_and_the_oldest_go_first() -> None:
    cache = QueryCache(0.05, most=2)
    query = {"two_tower": np.ones(3, np.float32)}
    for key in (b"a", b"b", b"c"):
        cache.put(key, query)
    assert len(cache) == 2
    assert cache.get(b"a") is None
    assert cache.get(b"c") is query
    time.sleep(0.06)
    assert cache.get(b"c") is None
    assert (cache.hits, cache.misses) == (1, 2)
    with pytest.raises(ConfigError, match="cache_seconds must be at least 0, got -1"):
        QueryCache(-1)


def test_a_kept_query_answers_as_a_new_one_and_is_counted(tiny_release: Path) -> None:
    release = Release.open(tiny_release)
    plain = RetrievalCore.load(release)
    kept = RetrievalCore.load(release, cache_seconds=60)
    entries = [RetrieveEntry(user=_user(3, n), k=50) for n in (4, 5, 6, 4)]
    for _ in range(2):
        for one, other in zip(plain.run(entries), kept.run(entries), strict=True):
            assert isinstance(one, RetrieveResult)
            assert isinstance(other, RetrieveResult)
            assert np.array_equal(one.candidates.numbers, other.candidates.numbers)
            assert np.allclose(one.candidates.scores, other.candidates.scores, atol=1e-6)
            assert set(one.timings) == set(other.timings)
    assert kept.counts["query_hits"] == 4
    assert kept.counts["query_misses"] == 4
    # Another event is another query at once.
    kept.run([RetrieveEntry(user=_user(3, 4, 9), k=50)])
    assert kept.counts["query_misses"] == 5
    assert plain.counts["query_hits"] == plain.counts["query_misses"] == 0
