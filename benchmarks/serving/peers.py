"""Starts and stops the systems that are compared, one at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.machine import ROOT
from benchmarks.serving.processes import command_names, end, family
from benchmarks.serving.release import Subject
from benchmarks.serving.textbook_driver import free_port
from corerec.ranking.precision import Precision

START_SECONDS = 240.0


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One system."""

    key: str
    name: str
    what: str
    textbook: bool = False
    """Composed as Serve's guides do, by benchmarks/serving/textbook.py."""
    tuned: bool = False
    in_process: bool = False
    precision: Precision = "fp32"
    """Of the ranker: `[ranking] precision`."""


PEERS = {
    peer.key: peer
    for peer in (
        Peer(
            key="a",
            name="CoreRec cluster",
            what="`corerec serve`: four services on Ray Serve, gRPC between them",
        ),
        Peer(
            key="a16",
            name="CoreRec cluster, bf16",
            what='the same with `[ranking] precision = "bf16"`',
            precision="bf16",
        ),
        Peer(
            key="b",
            name="Ray Serve, defaults",
            what="one deployment a stage, DeploymentHandles, Serve's gRPC proxy",
            textbook=True,
        ),
        Peer(
            key="c",
            name="Ray Serve, tuned",
            what="the same app, `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`, `RAY_SERVE_ENABLE_HA_PROXY=1`",
            textbook=True,
            tuned=True,
        ),
        Peer(
            key="d",
            name="CoreRec, one process",
            what="`corerec serve --in-process`: no Ray, no network between stages",
            in_process=True,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running peer."""

    address: str
    pid: int
    """The process that started all others of the peer."""
    start_seconds: float
    """Until it answered: processes, release, warm-up."""
    services: dict[str, list[int]] = field(default_factory=dict)
    """Process ids by service; empty where one process does it all."""


@contextmanager
def running(key: str, subject: Subject, config: str) -> Iterator[Served]:
    """Run a peer over the subject's release; afterwards none of its processes is left.

    Args:
        config: text of a deployment file; the peer's precision is put into it.
    """
    peer = PEERS[key]
    # A socket's path has at most 107 bytes, and Ray puts several levels below this one.
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as scratch:
        store = Path(scratch) / "corerec.db"
        shutil.copyfile(subject.store, store)
        file = Path(scratch) / "serve.toml"
        file.write_text(with_precision(config, peer.precision))
        release = str(subject.release.path.resolve())
        if peer.textbook:
            start = _textbook(release, file, Path(scratch), store, tuned=peer.tuned)
        else:
            start = _corerec(release, file, Path(scratch), store, in_process=peer.in_process)
        with start as served:
            yield served


def with_precision(config: str, precision: Precision) -> str:
    """Return a deployment file's text with the ranker's precision, unless it names one itself."""
    table = tomllib.loads(config).get("ranking", {})
    if "precision" in table:
        return config
    line = f'precision = "{precision}"\n'
    head, found, tail = config.partition("[ranking]\n")
    return f"{head}{found}{line}{tail}" if found else f"{config}\n[ranking]\n{line}"


@contextmanager
def _corerec(
    release: str, config: Path, state: Path, store: Path, *, in_process: bool
) -> Iterator[Served]:
    corerec = [sys.executable, "-m", "corerec.cli"]
    serve = [*corerec, "serve", release, "--detach", "--port", "0", "--config", str(config)]
    serve += ["--store", str(store)] + (["--in-process"] if in_process else [])
    where = ["--state-dir", str(state)]
    started = time.monotonic()
    done = subprocess.run([*serve, *where], env=environment(), cwd=ROOT, capture_output=True)
    file = state / "cluster.json"
    if done.returncode or not file.exists():
        raise SystemExit(f"corerec serve failed:\n{(done.stdout + done.stderr).decode()}")
    running = json.loads(file.read_text())
    try:
        yield Served(
            address=running["address"],
            pid=running["pid"],
            start_seconds=time.monotonic() - started,
            services=_services(running),
        )
    finally:
        stop = [*corerec, "stop", *where]
        end(running["pid"], lambda: subprocess.run(stop, cwd=ROOT, capture_output=True))


def _services(running: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the process ids of each service's replicas."""
    return {
        service: [replica["pid"] for replica in replicas if "pid" in replica]
        for service, replicas in running["replicas"].items()
    }


@contextmanager
def _textbook(
    release: str, config: Path, scratch: Path, store: Path, *, tuned: bool
) -> Iterator[Served]:
    announce, log = scratch / "address", scratch / "log"
    command = [sys.executable, "-m", "benchmarks.serving.textbook_driver", "--release", release]
    command += ["--config", str(config), "--store", str(store), "--announce", str(announce)]
    command += ["--temp-dir", str(scratch / "ray")]
    started = time.monotonic()
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
        yield Served(
            address=announce.read_text().strip(),
            pid=child.pid,
            start_seconds=time.monotonic() - started,
        )
    finally:
        end(child.pid, lambda: child.send_signal(signal.SIGTERM))
        child.wait()


def environment(flags: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what tunes Ray and gRPC, and with `flags`.

    CoreRec's own settings are made by its own processes.
    """
    tuning = ("RAY_", "GRPC_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(tuning)}
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
