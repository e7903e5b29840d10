"""The services as plain processes: retrieval, alone or in front of shards, and the other three."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any


class Services:
    """The four services over one release and one SQLite store, each replica a process.

    Started as a context; with more than one shard each shard is a process of its own.
    """

    def __init__(self, folder: Path, release: Path, shards: int) -> None:
        self.folder, self.release, self.shards = folder, release, shards
        self._started: list[subprocess.Popen[str]] = []
        self.metadata: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Services:
        self.folder.mkdir(parents=True)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        ended(self._started)

    def address(self, name: str) -> str:
        """Return where a process answers."""
        return str(self.metadata[name]["address"])

    @property
    def searching(self) -> list[str]:
        """Names of the processes that hold indexes."""
        return [f"shard-{i}" for i in range(self.shards)] if self.shards > 1 else ["retrieval"]

    def metric(self, name: str, metric: str) -> float:
        """Return the sum of a metric's samples at one process."""
        url = f"http://{self.metadata[name]['metrics']}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def _start(self) -> None:
        store = f'store = "{self.folder / "store.db"}"\n'
        retrieval = f"[retrieval]\nshards = {self.shards}\n{store}"
        if self.shards > 1:
            for shard in range(self.shards):
                text = f"{retrieval}[shard]\n{store}"
                self._run("retrieval_svc", f"shard-{shard}", text, "--shard", str(shard))
            addresses = [[self.address(name)] for name in self.searching]
            retrieval += f"shard_addresses = {json.dumps(addresses)}\n"
        self._run("retrieval_svc", "retrieval", retrieval)
        for name in ("ranking", "rerank"):
            self._run(f"{name}_svc", name, f"[{name}]\n{store}")
        stages = "".join(
            f'{name} = ["{self.address(name)}"]\n' for name in ("retrieval", "ranking", "rerank")
        )
        text = f'[gateway]\nport = 0\nclock = "data"\ndefault_deadline_ms = 2000\n{store}'
        self._run("gateway", "gateway", f"{text}[gateway.stages]\n{stages}")

    def _run(self, module: str, name: str, text: str, *arguments: str) -> None:
        path = self.folder / f"{name}.toml"
        path.write_text(f'release = "{self.release}"\n{text}')
        log = self.folder / f"{name}.log"
        child, self.metadata[name] = started([module, "--config", str(path), *arguments], log)
        self._started.append(child)


def started(module: list[str], log: Path) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start a module with its arguments; return it, and what it says once it answers."""
    with log.open("w") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", *module], stdout=subprocess.PIPE, stderr=file, text=True
        )
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"{module} ended: {log.read_text()[-2000:]}")
    return child, json.loads(line)


def ended(children: list[subprocess.Popen[str]]) -> None:
    """End processes, and wait for them."""
    for child in children:
        child.send_signal(signal.SIGTERM)
    for child in children:
        child.wait(60)
