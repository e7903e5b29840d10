"""A real redis-server of a test's own: free port, own folder, ended by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

OWN = Path(__file__).resolve().parents[1] / ".tools" / "redis" / "redis-server"
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


class RedisServer:
    """One server, which may be killed and started again over the same folder."""

    def __init__(self, binary: str, folder: Path, **settings: str) -> None:
        """Start it, with the settings that lose nothing unless others are given."""
        self.folder, self._binary = folder, binary
        self.settings = {**DURABLE, **{k.replace("_", "-"): v for k, v in settings.items()}}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Address of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self.folder / "log").read_text()

    def start(self, seconds: float = 20.0) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "save": "",
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
        }
        pairs = [text for k, v in {**settings, **self.settings}.items() for text in (f"--{k}", v)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([self._binary, *pairs], stdout=log, stderr=log)
        end = time.monotonic() + seconds
        while not self._answers():
            assert self._process.poll() is None, f"redis-server ended: {self.log[-2000:]}"
            assert time.monotonic() < end, f"redis-server does not answer: {self.log[-2000:]}"
            time.sleep(0.01)

    def kill(self, how: int = signal.SIGKILL) -> None:
        """End the server and wait for its end; nothing happens when it is not running."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            self._process = None

    def running(self) -> bool:
        """Say whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def pause(self, how: int) -> None:
        """Send SIGSTOP or SIGCONT."""
        assert self._process is not None
        self._process.send_signal(how)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
                link.sendall(b"PING\r\n")
                return link.recv(7).startswith(b"+PONG")  # -LOADING while it reads its log
        except OSError:
            return False


def find_redis_server() -> str:
    """Return the path of a redis-server. Skips without one, except in CI."""
    found = shutil.which("redis-server") or (str(OWN) if OWN.exists() else None)
    if found is None:
        assert os.environ.get("CI") != "true", "CI must test with Redis: scripts/redis fetches it"
        pytest.skip("no redis-server here; scripts/redis fetches one")
    return found
