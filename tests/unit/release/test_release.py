"""Releases: what is committed is what is opened, and nothing else opens."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corerec.errors import InvalidArgument, ReleaseError
from corerec.release import Release, ReleaseWriter

ID = "20261123-071501-ab12cd"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    with ReleaseWriter(tmp_path / "out", ID) as writer:
        writer.path("ranker.json").write_text('{"layers": 3}')
        writer.path("index/shard-0.faiss").write_bytes(bytes(range(256)))
        writer.path("rules.toml").write_text("")
        return writer.commit({"dataset": "tiny", "seed": np.int64(7), "rate": 1e300, "ö": None})


def test_a_committed_release_opens_with_its_id_info_and_files(release: Path) -> None:
    opened = Release.open(release)
    assert opened.id == ID
    assert opened.info == {"dataset": "tiny", "seed": 7, "rate": 1e300, "ö": None}
    assert opened.file("ranker.json").read_text() == '{"layers": 3}'
    assert opened.rules_path == release / "rules.toml"
    assert opened.has("index/shard-0.faiss")
    assert not opened.has("index")
    with pytest.raises(ReleaseError, match=r"has no file 'users\.parquet'; it holds index/shard"):
        opened.file("users.parquet")


def test_the_folder_of_releases_opens_as_its_latest(release: Path) -> None:
    with ReleaseWriter(release.parent) as writer:
        writer.path("a").write_text("a")
        newer = writer.commit({})
    assert Release.open(release.parent).path == newer
    assert Release.open(release).id == ID
    assert sorted(path.name for path in release.parent.iterdir()) == sorted(
        [ID, newer.name, "latest"]
    )


def test_a_generated_id_is_a_time_and_a_random_part(tmp_path: Path) -> None:
    one, two = ReleaseWriter(tmp_path).release_id, ReleaseWriter(tmp_path).release_id
    assert one != two
    day, clock, rest = one.split("-")
    assert (len(day), len(clock), len(rest)) == (8, 6, 6)


def _commit(out: Path, files: dict[str, str], info: dict[str, object]) -> None:
    with ReleaseWriter(out) as writer:
        for name, text in files.items():
            writer.path(name).write_text(text)
        writer.commit(info)


def _abandon(out: Path) -> None:
    with ReleaseWriter(out) as writer:
        writer.path("x").write_text("x")
        raise ZeroDivisionError


def test_nothing_is_left_of_a_release_that_was_not_committed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _abandon(tmp_path)
    with ReleaseWriter(tmp_path, "b") as writer:
        writer.path("x").write_text("x")
    with pytest.raises(InvalidArgument, match="plain JSON"):
        _commit(tmp_path, {"x": "x"}, {"score": float("nan")})
    with pytest.raises(ReleaseError, match="no files"):
        _commit(tmp_path, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_release_never_changes(release: Path) -> None:
    with pytest.raises(ReleaseError, match="exists, and a release never changes"):
        ReleaseWriter(release.parent, ID)
    with ReleaseWriter(release.parent, "b") as writer:
        writer.path("x").write_text("x")
        writer.commit({})
        with pytest.raises(ReleaseError, match="is committed"):
            writer.commit({})


@pytest.mark.parametrize("name", ["", "..", "../a", "a/../b", "/etc/x", ".hidden", "a//b", "a\n"])
def test_unsafe_names_are_refused(tmp_path: Path, name: str) -> None:
    with ReleaseWriter(tmp_path / "out") as writer, pytest.raises(InvalidArgument, match="name"):
        writer.path(name)
    if name:
        with pytest.raises(InvalidArgument, match="release id must start with"):
            ReleaseWriter(tmp_path, name)


def test_reserved_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="latest"):
        ReleaseWriter(tmp_path, "latest")
    with ReleaseWriter(tmp_path) as writer, pytest.raises(InvalidArgument, match="manifest"):
        writer.path("manifest.json")


def _all_files(release: Path) -> list[Path]:
    return sorted(path for path in release.rglob("*") if path.is_file())


def test_a_flipped_bit_in_any_file_is_loud_and_names_the_file(release: Path) -> None:
    files = _all_files(release)
    assert len(files) == 4
    for path in files:
        good = path.read_bytes()
        for place in range(len(good)):
            # Bit 5 turns e into E and a into A: what a JSON reader forgives.
            for bit in (0, 5):
                bad = bytearray(good)
                bad[place] ^= 1 << bit
                path.write_bytes(bad)
                with pytest.raises(ReleaseError, match=path.name):
                    Release.open(release)
        path.write_bytes(good)
    Release.open(release)


def test_truncation_of_any_file_is_loud_even_without_hashing(release: Path) -> None:
    for path in _all_files(release):
        good = path.read_bytes()
        for size in {0, len(good) // 2, len(good) - 1} - {len(good), -1}:
            path.write_bytes(good[:size])
            with pytest.raises(ReleaseError, match=path.name):
                Release.open(release, verify=False)
        path.write_bytes(good + b"\n")
        with pytest.raises(ReleaseError, match=path.name):
            Release.open(release, verify=False)
        path.write_bytes(good)


def test_a_missing_file_is_named(release: Path) -> None:
    for path in _all_files(release):
        good = path.read_bytes()
        path.unlink()
        with pytest.raises(ReleaseError, match=path.name):
            Release.open(release)
        path.write_bytes(good)


def test_a_file_that_the_manifest_does_not_name_is_refused(release: Path) -> None:
    (release / "canary.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ReleaseError, match=r"canary\.pkl: is not in the manifest"):
        Release.open(release)


def test_links_are_refused_in_reading_and_in_writing(release: Path, tmp_path: Path) -> None:
    path = release / "ranker.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ReleaseError, match=r"ranker\.json: must be a plain file"):
        Release.open(release)
    path.unlink()
    (tmp_path / "elsewhere.json").rename(path)
    (release / "index").rename(tmp_path / "index")
    (release / "index").symlink_to(tmp_path / "index")
    with pytest.raises(ReleaseError, match="index: must be a plain file"):
        Release.open(release)
    with ReleaseWriter(tmp_path / "other") as writer:
        writer.path("a").symlink_to("/etc/passwd")
        with pytest.raises(ReleaseError, match="plain files only"):
            writer.commit({})


def _rewrite(release: Path, change: dict[str, object]) -> None:
    """Write a manifest with a change and a right checksum, as an attacker would."""
    path = release / "manifest.json"
    body = json.loads(path.read_text()) | change | {"manifest_sha256": "0" * 64}
    blank = json.dumps(body, indent=2).encode() + b"\n"
    digest = hashlib.sha256(blank).hexdigest().encode()
    path.write_bytes(blank.replace(b"0" * 64, digest, 1))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", ".."])
def test_a_manifest_cannot_name_files_outside_the_release(release: Path, name: str) -> None:
    (release.parent / "secret").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    _rewrite(release, {"files": {name: {"sha256": digest, "bytes": 1}}})
    with pytest.raises(ReleaseError, match=r"manifest\.json: file name in a manifest must"):
        Release.open(release)


@pytest.mark.parametrize("release_id", ["../a", "", 5])
def test_a_manifest_cannot_have_an_unsafe_id(release: Path, release_id: object) -> None:
    _rewrite(release, {"release": release_id})
    with pytest.raises(ReleaseError, match=r"manifest\.json"):
        Release.open(release)


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_format_version_is_refused_with_what_to_do(release: Path, version: object) -> None:
    _rewrite(release, {"format_version": version})
    with pytest.raises(ReleaseError, match=r"format_version must be 2, got .*; use the CoreRec"):
        Release.open(release)


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff\xfe", b"null", b"[" * 5000])
def test_a_manifest_that_is_none_is_refused(release: Path, raw: bytes) -> None:
    (release / "manifest.json").write_bytes(raw)
    with pytest.raises(ReleaseError, match=r"manifest\.json: must start with its own checksum"):
        Release.open(release)


@pytest.mark.parametrize("content", ["../x", "nowhere", "", "/etc", "\x00"])
def test_a_bad_latest_pointer_is_refused(release: Path, content: str) -> None:
    (release.parent / "latest").write_text(content)
    with pytest.raises(ReleaseError, match="latest: "):
        Release.open(release.parent)


def test_a_folder_that_is_no_release_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"manifest\.json: cannot be read .* a release\?"):
        Release.open(tmp_path)
    with pytest.raises(ReleaseError, match="no such folder"):
        Release.open(tmp_path / "nope")


def test_a_writer_killed_in_the_middle_leaves_the_latest_release_as_it_was(release: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from corerec.release import ReleaseWriter\n"
        "with ReleaseWriter(Path(sys.argv[1]), 'killed') as writer:\n"
        "    writer.path('x').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(release.parent)], check=False)
    assert done.returncode == -9
    assert Release.open(release.parent).id == ID
    assert not (release.parent / "killed").exists()


def test_the_package_imports_neither_torch_nor_faiss_nor_grpc_nor_ray() -> None:
    script = (
        "import sys, corerec.release, corerec.store, corerec.rerank\n"
        "print(sorted({'torch', 'faiss', 'grpc', 'ray', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout == "[]\n"
