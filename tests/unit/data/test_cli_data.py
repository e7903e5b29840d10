"""`corerec data` end to end: what it writes, prints, and exits with."""

from __future__ import annotations

import functools
import hashlib
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from corerec.data import load_dataset
from corerec.data.check import profile
from corerec.data.fetch import Download, fetch_dataset
from corerec.errors import DataError, InvalidArgument, Unavailable


def _corerec(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from corerec.cli import main; main()", "data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_generate_then_check(tmp_path: Path) -> None:
    out = str(tmp_path / "shop")
    counts = ["--users", "50", "--items", "100", "--interactions", "500"]
    made = _corerec("generate", out, *counts)
    assert made.returncode == 0, made.stderr
    assert "50 users, 100 items, 500 interactions" in made.stdout
    checked = _corerec("check", out)
    assert checked.returncode == 0, checked.stderr
    for part in ("interactions", "time span", "density", "█", "Missing values", "per user"):
        assert part in checked.stdout
    again = _corerec("generate", out, *counts)
    assert again.returncode == 1
    assert "--force" in again.stderr


def test_check_exits_with_1_and_one_line_at_the_first_broken_rule(
    small: Path, change: Callable[[str, str, str], None]
) -> None:
    change("interactions.csv", "cid,c", "cid,zebra")
    checked = _corerec("check", str(small))
    assert checked.returncode == 1
    assert "interactions.csv:5, column 'item_id'" in checked.stderr
    assert "Traceback" not in checked.stderr
    dropped = _corerec("check", str(small), "--unknown-items", "drop")
    assert dropped.returncode == 0
    assert "dropped, unknown item" in dropped.stdout


def test_the_profile_counts(small: Path) -> None:
    found = profile(load_dataset(small))
    assert found.counts["interactions"] == 4
    assert found.counts["users without interactions"] == 1
    assert found.span == (10_000_000, 40_000_000)
    assert found.density == pytest.approx(4 / 12)
    assert found.missing["items.category"] == pytest.approx(1 / 3)
    assert found.missing["items.tags"] == pytest.approx(1 / 3)
    assert found.missing["users.country"] == pytest.approx(1 / 4)
    assert sum(found.curve) == pytest.approx(1)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def published(tmp_path: Path, ml_1m: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Serve a small ml-1m.zip on this machine; give its address and MD5."""
    site = tmp_path / "site"
    site.mkdir()
    with zipfile.ZipFile(site / "ml-1m.zip", "w") as archive:
        for name, text in ml_1m.items():
            archive.writestr(f"ml-1m/{name}", text.encode("latin-1"))
    digest = hashlib.md5((site / "ml-1m.zip").read_bytes(), usedforsecurity=False).hexdigest()
    handler = functools.partial(_Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/ml-1m.zip", digest
        server.shutdown()
        thread.join()


def test_fetch_downloads_verifies_and_imports(tmp_path: Path, published: tuple[str, str]) -> None:
    seen: list[tuple[int, int]] = []
    fetch_dataset(
        "movielens-1m",
        tmp_path / "out",
        report=lambda _, done, total: seen.append((done, total)),
        downloads={"movielens-1m": Download(*published)},
    )
    assert load_dataset(tmp_path / "out").interactions.height == 3
    assert seen[-1][0] == seen[-1][1] > 0


def test_a_download_that_is_not_what_was_published_is_refused(
    tmp_path: Path, published: tuple[str, str]
) -> None:
    wrong = {"movielens-1m": Download(published[0], "0" * 32)}
    with pytest.raises(DataError, match=f"the MD5 of the download must be 0000.*{published[1]}"):
        fetch_dataset("movielens-1m", tmp_path / "out", downloads=wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/ml-1m.zip", "http://no.such.invalid/ml-1m.zip"]
)
def test_without_internet_fetch_says_what_to_do(tmp_path: Path, url: str) -> None:
    gone = {"movielens-1m": Download(url, "abc")}
    with pytest.raises(Unavailable) as caught:
        fetch_dataset("movielens-1m", tmp_path / "out", downloads=gone)
    assert url in str(caught.value)
    assert f"corerec data import movielens-1m ml-1m.zip {tmp_path / 'out'}" in str(caught.value)


def test_fetch_knows_which_data_sets_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"movielens-100k, movielens-1m, got 'netflix'"):
        fetch_dataset("netflix", tmp_path / "out")


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    code = "from corerec.cli import main; main()"
    command = [sys.executable, "-c", code, "data", "generate", str(tmp_path / "shop")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".tmp-*/items.parquet")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []
