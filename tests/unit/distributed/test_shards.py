"""Shards of vectors: whole or absent, of one model, and refused when they are not what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corerec.distributed.shards import Shards, ShardsInfo
from corerec.errors import FailedPrecondition, InvalidArgument, ReleaseError

INFO = ShardsInfo(model_id="abc", count=7, dim=2, rows=3)
VECTORS = np.arange(14, dtype=np.float32).reshape(7, 2)


def written(folder: Path) -> Shards:
    shards = Shards.begin(folder, INFO)
    for start in shards.starts():
        shards.write(start, VECTORS[start : shards.stop(start)])
    return shards


def test_shards_give_back_what_was_written_in_parts_and_whole(tmp_path: Path) -> None:
    written(tmp_path)
    shards = Shards.open(tmp_path)
    assert shards.info == INFO
    assert [start for start, _ in shards.parts()] == [0, 3, 6]
    assert (shards.whole() == VECTORS).all()
    assert (shards.take(np.array([1, 2, 6])) == VECTORS[[1, 2, 6]]).all()
    assert shards.take(np.array([], np.int64)).shape == (0, 2)


def test_what_is_missing_is_known_and_cannot_be_read(tmp_path: Path) -> None:
    shards = written(tmp_path)
    shards.path(3).unlink()
    assert Shards.begin(tmp_path, INFO).missing() == [3]
    with pytest.raises(FailedPrecondition, match="1 of 3 shards are missing, the first that of"):
        shards.whole()


@pytest.mark.parametrize("change", [{"model_id": "xyz"}, {"rows": 4}, {"count": 8}, {"dim": 3}])
def test_shards_of_anything_else_are_removed(change: dict[str, object], tmp_path: Path) -> None:
    written(tmp_path)
    other = Shards.begin(tmp_path, replace(INFO, **change))
    assert len(other.missing()) == len(other.starts())
    assert Shards.open(tmp_path).info == other.info


def test_a_shard_of_a_wrong_shape_or_with_nan_is_not_written(tmp_path: Path) -> None:
    shards = Shards.begin(tmp_path, INFO)
    with pytest.raises(InvalidArgument, match=r"\(3, 2\)"):
        shards.write(0, VECTORS[:2])
    with pytest.raises(InvalidArgument, match="NaN"):
        shards.write(0, np.full((3, 2), np.nan, np.float32))
    assert shards.missing() == [0, 3, 6]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    shards = written(tmp_path)
    shards.path(0).write_bytes(b"nothing")
    with pytest.raises(ReleaseError, match="vectors-000000000000"):
        shards.whole()
    np.save(shards.path(0), VECTORS, allow_pickle=False)
    with pytest.raises(ReleaseError, match="must be float32"):
        shards.whole()
    (tmp_path / "shards.json").write_text("{")
    with pytest.raises(ReleaseError, match=r"shards\.json"):
        Shards.open(tmp_path)


def test_an_empty_catalogue_has_no_shards(tmp_path: Path) -> None:
    shards = Shards.begin(tmp_path, replace(INFO, count=0))
    assert shards.missing() == []
    assert shards.whole().shape == (0, 2)
