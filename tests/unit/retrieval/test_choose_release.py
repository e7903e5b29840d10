"""`corerec index build`: a new release with the chosen index, an index folder, and its errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from corerec.cli import index as index_commands
from corerec.errors import FailedPrecondition, InvalidArgument
from corerec.release import Release
from corerec.retrieval.build import load_index
from corerec.retrieval.choose.truth import exact_best, recalls
from corerec.retrieval.core import RetrievalCore
from corerec.retrieval.source_files import (
    index_files,
    parts_of,
    read_index,
    read_vectors,
    vectors_file,
)
from corerec.retrieval.stores import load_store
from corerec.stages import RetrieveEntry, UserContext

RUNNER = CliRunner()


def run(*words: object, command: str = "build") -> str:
    """Run the command; an error is raised as it is."""
    result = RUNNER.invoke(
        index_commands.app,
        [command, *map(str, words)],
        catch_exceptions=False,
        env={"COLUMNS": "160"},
    )
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 12))
    for name, rows in (("items", 3000), ("queries", 200)):
        made = centres[rng.integers(40, size=rows)] + rng.normal(size=(rows, 12)) * 0.5
        np.save(tmp_path / f"{name}.npy", made.astype(np.float32))
    return tmp_path / "items.npy", tmp_path / "queries.npy"


def test_a_release_gets_a_chosen_index_in_a_new_release(tiny_release: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in tiny_release.rglob("*") if p.is_file()}
    out = tmp_path / "releases"
    shown = run(
        tiny_release, "--recall", 0.9, "--at", 20, "--out", out, "--id", "indexed", "--threads", 1
    )
    assert "chosen:" in shown
    assert {p: p.read_bytes() for p in tiny_release.rglob("*") if p.is_file()} == before
    old, new = Release.open(tiny_release), Release.open(out)
    assert new.id == "indexed"
    assert new.info["indexed_from"] == old.id
    told = json.loads(new.file("index_two_tower.frontier.json").read_text())
    assert told["chosen"]["recall_low"] >= 0.9
    assert any(trial["on_frontier"] for trial in told["trials"])
    assert new.file("index_two_tower.frontier.png").read_bytes()[:4] == b"\x89PNG"
    kept = set(old.manifest.files) - {"two_tower_index.faiss", "two_tower_index.json"}
    assert all(new.manifest.files[name] == old.manifest.files[name] for name in kept)
    user = UserContext(items=np.array([1, 2, 3]), times=np.zeros(3, np.int64))
    asked = [RetrieveEntry(user=user, k=20)]
    answers = [RetrievalCore.load(release).run(asked)[0] for release in (old, new)]
    assert all(len(answer.candidates.numbers) == 20 for answer in answers)  # type: ignore[union-attr]


def test_an_index_of_plain_vectors_is_written_and_reaches_its_recall(
    arrays: tuple[Path, Path], tmp_path: Path
) -> None:
    items, queries = arrays
    out = tmp_path / "index"
    run(items, "--queries", queries, "--recall", 0.9, "--at", 10, "--out", out, "--threads", 1,
        "--kinds", "ivf-int8-refine,ivf-flat", "--metric", "l2", "--memory", "10MiB")  # fmt: skip
    store = load_store(out / "items.faiss")
    assert (len(store), store.metric) == (3000, "l2")
    vectors, asked = np.load(items), np.load(queries)
    found = store.search(asked, 10)[0]
    assert recalls(found, exact_best(vectors, asked, 10, "l2")).mean() >= 0.9
    assert (out / "items.frontier.png").exists()
    again = run(items, "--queries", queries, "--recall", 0.9, "--at", 10, "--out", out, "--threads",
                1, "--kinds", "ivf-int8-refine,ivf-flat", "--metric", "l2", "--memory",
                "10MiB")  # fmt: skip
    assert re.search(r"chosen: \S+", again)


def test_a_missed_target_says_what_came_nearest_and_writes_what_was_measured(
    arrays: tuple[Path, Path], tmp_path: Path
) -> None:
    items, queries = arrays
    out = tmp_path / "index"
    with pytest.raises(
        FailedPrecondition, match=r"recall@10 1.0; ivf-sq8 .* came nearest: 0\.9\d+"
    ):
        run(
            items,
            "--queries",
            queries,
            "--recall",
            1,
            "--at",
            10,
            "--out",
            out,
            "--kinds",
            "ivf-sq8",
        )
    assert json.loads((out / "items.frontier.json").read_text())["chosen"] is None
    assert not (out / "items.faiss").exists()


def test_wrong_options_say_the_rule_and_the_value(
    arrays: tuple[Path, Path], tiny_release: Path, tmp_path: Path
) -> None:
    items, queries = arrays
    with pytest.raises(InvalidArgument, match="got 'much'"):
        run(items, "--queries", queries, "--memory", "much")
    with pytest.raises(InvalidArgument, match="vectors need --queries"):
        run(items)
    with pytest.raises(InvalidArgument, match="--shards is for a release"):
        run(items, "--queries", queries, "--shards", 2)
    with pytest.raises(
        InvalidArgument, match=r"source must be one of \['two_tower'\], got 'tower'"
    ):
        run(tiny_release, "--source", "tower", "--out", tmp_path)
    with pytest.raises(InvalidArgument, match=r"prefer must be one of .*, got 'speed'"):
        run(items, "--queries", queries, "--prefer", "speed")
    with pytest.raises(InvalidArgument, match="kinds must be"):
        run(items, "--queries", queries, "--kinds", "magic", "--out", tmp_path / "x")
    (tmp_path / "wrong.npy").write_bytes(b"no array")
    with pytest.raises(InvalidArgument, match=r"wrong\.npy: not readable as an array"):
        run(tmp_path / "wrong.npy", "--queries", queries)


def test_a_kind_may_be_asked_for_by_name(tiny_release: Path, tmp_path: Path) -> None:
    run(
        tiny_release,
        "--recall",
        0.9,
        "--at",
        5,
        "--out",
        tmp_path,
        "--kinds",
        "flat",
        "--id",
        "one",
    )
    release = Release.open(tmp_path)
    index = load_index(release.file("two_tower_index.faiss"), release.file("two_tower_index.json"))
    assert index.info.kind == "flat"
    assert index.info.recall == 1.0


def test_a_chosen_index_is_written_in_parts_and_stays_in_parts(
    tiny_release: Path, tmp_path: Path
) -> None:
    first = ("--recall", 0.9, "--at", 5, "--kinds", "flat", "--out", tmp_path)
    run(tiny_release, *first, "--shards", 3, "--id", "built")
    run(tmp_path / "built", *first, "--id", "again")
    run(tmp_path / "built", "--shards", 2, "--out", tmp_path, "--id", "other", command="split")
    for name, parts in (("built", 3), ("again", 3), ("other", 2)):
        release = Release.open(tmp_path / name)
        assert parts_of(release) == parts
        assert release.info["indexes"] == {"two_tower": "flat"}
        files = [
            f for p in range(parts) for f in (*index_files("two_tower", p, parts),
                                              vectors_file("two_tower", p, parts))
        ]  # fmt: skip
        held = {name for name in release.names if name.startswith("two_tower_")}
        assert {*files} <= held <= {*files, *(f.replace(".faiss", ".numbers.npy") for f in files)}
        vectors, _ = read_vectors(release, "two_tower", 500)
        index = read_index(release, "two_tower", vectors)
        found, scores = index.search(vectors[:20], 5)
        assert index.count == 500
        assert np.allclose(scores[:, 0], (vectors[found[:, 0]] * vectors[:20]).sum(1), atol=1e-5)
