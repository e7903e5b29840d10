"""Clusters for tests: real processes, free ports, ended by the pids that were started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from corerec.client import AsyncClient
from corerec.errors import CoreRecError


def corerec(*arguments: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the command line and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "corerec.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


@contextmanager
def served(release: Path, state: Path, *options: object) -> Iterator[Path]:
    """Serve a release in the background; gives the state folder."""
    done = corerec("serve", release, "--detach", "--port", 0, "--state-dir", state, *options)
    assert done.returncode == 0, done.stdout + done.stderr + log(state)
    try:
        yield state
    finally:
        stopped = corerec("stop", "--state-dir", state)
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr


def log(state: Path) -> str:
    path = state / "cluster.log"
    return path.read_text() if path.exists() else ""


def state_of(state: Path) -> dict[str, Any]:
    return json.loads((state / "cluster.json").read_text())


@dataclass
class Load:
    """What a load met."""

    answered: int = 0
    errors: list[str] = field(default_factory=list)
    degraded: list[tuple[float, str, str]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def total(self) -> int:
        return self.answered + len(self.errors)


class Loader:
    """Callers in a closed loop with a pause, until stopped."""

    def __init__(self, address: str, callers: int = 8, pause: float = 0.02) -> None:
        self._address, self._callers, self._pause = address, callers, pause
        self._stop = asyncio.Event()
        self.load = Load()

    async def __aenter__(self) -> Loader:
        self._client = AsyncClient(self._address, timeout=2.0)
        self._tasks = [asyncio.create_task(self._call(i)) for i in range(self._callers)]
        return self

    async def _call(self, caller: int) -> None:
        number = caller
        while not self._stop.is_set():
            number += self._callers
            try:
                answer = await self._client.recommend(f"u{number % 300:06d}")
            except CoreRecError as error:
                self.load.errors.append(f"{type(error).__name__}: {error}")
            else:
                self.load.answered += 1
                at = time.monotonic() - self.load.started
                self.load.degraded += [(at, d.stage, d.reason) for d in answer.degraded]
                assert len({i.item_id for i in answer.items}) == 10
            await asyncio.sleep(self._pause)

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._client.close()


class Service:
    """One service run alone, without Ray: `python -m ranking_svc`."""

    def __init__(self, module: str, config: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.metadata: dict[str, Any] = json.loads(self.process.stdout.readline())

    @property
    def address(self) -> str:
        return str(self.metadata["address"])

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def is_up(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1)
        except grpc.FutureTimeoutError:
            return False
    return True
