"""Starts and stops the four systems that are compared, one at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.machine import ROOT
from benchmarks.serving.processes import command_names, end, family
from benchmarks.serving.release import Subject
from benchmarks.serving.textbook_driver import free_port

START_SECONDS = 240.0


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One system."""

    key: str
    name: str
    what: str


PEERS = {
    peer.key: peer
    for peer in (
        Peer(
            key="a",
            name="CoreRec cluster",
            what="`corerec serve`: four services on Ray Serve, gRPC between them",
        ),
        Peer(
            key="b",
            name="Ray Serve, defaults",
            what="one deployment a stage, DeploymentHandles, Serve's gRPC proxy",
        ),
        Peer(
            key="c",
            name="Ray Serve, tuned",
            what="the same app, `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`, `RAY_SERVE_ENABLE_HA_PROXY=1`",
        ),
        Peer(
            key="d",
            name="CoreRec, one process",
            what="`corerec serve --in-process`: no Ray, no network between stages",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running peer."""

    address: str
    pid: int
    """The process that started all others of the peer."""
    metrics: tuple[str, ...] = ()
    """`host:port` of its gateways' Prometheus metrics; the textbook app has none of ours."""


@contextmanager
def running(key: str, subject: Subject, config: Path) -> Iterator[Served]:
    """Run a peer over the subject's release; afterwards none of its processes is left."""
    # A socket's path has at most 107 bytes, and Ray puts several levels below this one.
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as scratch:
        store = Path(scratch) / "corerec.db"
        shutil.copyfile(subject.store, store)
        release = str(subject.release.path.resolve())
        if key in ("a", "d"):
            start = _corerec(release, config, Path(scratch), in_process=key == "d")
        else:
            start = _textbook(release, config, Path(scratch), store, tuned=key == "c")
        with start as served:
            yield served


@contextmanager
def _corerec(release: str, config: Path, state: Path, *, in_process: bool) -> Iterator[Served]:
    corerec = [sys.executable, "-m", "corerec.cli"]
    serve = [*corerec, "serve", release, "--detach", "--port", "0", "--config", str(config)]
    serve += ["--in-process"] if in_process else []
    where = ["--state-dir", str(state)]
    done = subprocess.run([*serve, *where], env=environment(), cwd=ROOT, capture_output=True)
    file = state / "cluster.json"
    if done.returncode or not file.exists():
        raise SystemExit(f"corerec serve failed:\n{(done.stdout + done.stderr).decode()}")
    running = json.loads(file.read_text())
    try:
        gateways = running["replicas"]["gateway"]
        metrics = tuple(replica["metrics"] for replica in gateways)
        yield Served(address=running["address"], pid=running["pid"], metrics=metrics)
    finally:
        stop = [*corerec, "stop", *where]
        end(running["pid"], lambda: subprocess.run(stop, cwd=ROOT, capture_output=True))


@contextmanager
def _textbook(
    release: str, config: Path, scratch: Path, store: Path, *, tuned: bool
) -> Iterator[Served]:
    announce, log = scratch / "address", scratch / "log"
    command = [sys.executable, "-m", "benchmarks.serving.textbook_driver", "--release", release]
    command += ["--config", str(config), "--store", str(store), "--announce", str(announce)]
    command += ["--temp-dir", str(scratch / "ray")]
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env=environment(tuned_flags(scratch) if tuned else {}),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not announce.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the textbook app did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)
        if tuned and "haproxy" not in command_names(family(child.pid)):
            raise SystemExit("the tuned textbook app runs without HAProxy; see haproxy.py of Serve")
        yield Served(address=announce.read_text().strip(), pid=child.pid)
    finally:
        end(child.pid, lambda: child.send_signal(signal.SIGTERM))
        child.wait()


def environment(flags: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what would tune Ray, and with `flags`."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join(filter(None, [str(ROOT), plain.get("PYTHONPATH")]))
    return {**plain, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", **(flags or {})}


def tuned_flags(scratch: Path) -> dict[str, str]:
    """Return Serve's throughput flags and HAProxy's, its files and ports out of others' way."""
    folder = scratch / "haproxy"
    return {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    }
