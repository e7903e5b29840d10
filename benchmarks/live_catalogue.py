"""A catalogue that changes while it serves: how soon an item is found, and what answers pay.

Starts the four services as plain processes on one SQLite store over a generated world, asks for
recommendations at a steady rate, and meanwhile upserts items at another. An item counts as found
when retrieval answers from a position of the catalogue that has it; a sample of the items is looked
for by name, with a condition that they alone meet. Answers are timed while nothing is written,
before and after (`quiet`), while items come (`upserts`), and while rows wait in the delta or move
from it into the main index (`merge`), as seen twice a second.

    python -m benchmarks.live_catalogue --out benchmarks/results/live/live_catalogue.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.report import machine
from corerec.client import AsyncClient, CatalogItem, Predicate
from corerec.data.generate import generate
from corerec.errors import CoreRecError, InvalidArgument
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.train import train_release
from corerec.release import Release
from corerec.serving.budget import Budget
from corerec.serving.contracts import RETRIEVE
from corerec.serving.endpoints import StaticEndpoints
from corerec.serving.metrics import Metrics
from corerec.serving.stage_client import RemoteStage
from corerec.stages import RetrieveEntry, UserContext

PROBE_SECONDS = 0.005
SAMPLED = 400  # one upserted item in so many is looked for by name


class Services:
    """The four services, each a process."""

    def __init__(self, folder: Path, release: Path) -> None:
        self.folder, self.release = folder, release
        self.started: list[subprocess.Popen[str]] = []
        self.metadata: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        store = f'store = "{self.folder / "store.db"}"\n'
        for name in ("retrieval", "ranking", "rerank"):
            self._run(f"{name}_svc", name, f"[{name}]\n{store}")
        stages = "".join(f'{name} = ["{own["address"]}"]\n' for name, own in self.metadata.items())
        text = f'[gateway]\nport = 0\nclock = "data"\ndefault_deadline_ms = 2000\n{store}'
        self._run("gateway", "gateway", f"{text}[gateway.stages]\n{stages}")

    def _run(self, module: str, name: str, text: str) -> None:
        path = self.folder / f"{name}.toml"
        path.write_text(f'release = "{self.release}"\n{text}')
        child = subprocess.Popen(
            [sys.executable, "-m", module, "--config", str(path)],
            stdout=subprocess.PIPE,
            stderr=(self.folder / f"{name}.log").open("w"),
            text=True,
        )
        self.started.append(child)
        assert child.stdout is not None
        self.metadata[name] = json.loads(child.stdout.readline())

    def metric(self, service: str, name: str) -> float | None:
        url = f"http://{self.metadata[service]['metrics']}/metrics"
        with urllib.request.urlopen(url, timeout=2) as answer:
            found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", answer.read().decode(), re.MULTILINE)
        return sum(map(float, found)) if found else None

    def stop(self) -> None:
        for child in self.started:
            child.send_signal(signal.SIGTERM)
        for child in self.started:
            child.wait(30)


@dataclass
class Seen:
    """Everything that was measured, by monotonic time."""

    answers: list[tuple[float, float]] = field(default_factory=list)
    """When an answer was asked for, and how long it took."""
    errors: list[str] = field(default_factory=list)
    degraded: int = 0
    upserts: list[tuple[float, float, int]] = field(default_factory=list)
    """When a call was sent and acknowledged, and its position."""
    upserted: int = 0
    positions: list[tuple[float, int]] = field(default_factory=list)
    delta: list[tuple[float, float]] = field(default_factory=list)
    named: list[float] = field(default_factory=list)
    """Seconds from acknowledgement to being found by name."""


async def ask(client: AsyncClient, seen: Seen, rate: float, stop: asyncio.Event) -> None:
    """Ask at a steady rate, however long answers take."""
    tasks: set[asyncio.Task[None]] = set()
    due, number = time.monotonic(), 0

    async def one(user: str) -> None:
        started = time.monotonic()
        try:
            answer = await client.recommend(user)
        except CoreRecError as error:
            seen.errors.append(str(error))
            return
        seen.answers.append((started, time.monotonic() - started))
        seen.degraded += bool(answer.degraded)

    while not stop.is_set():
        due, number = due + 1 / rate, number + 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(one(f"u{number % 2000:06d}"))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


async def upsert(
    client: AsyncClient, seen: Seen, rate: float, batch: int, seconds: float, like: list[str]
) -> None:
    """Upsert so many items a second, `batch` in one call."""
    end, due, number = time.monotonic() + seconds, time.monotonic(), 0
    tasks: set[asyncio.Task[None]] = set()

    async def one(items: list[CatalogItem]) -> None:
        sent = time.monotonic()
        stored = await client.upsert_items(items)
        seen.upserts.append((sent, time.monotonic(), stored.position))
        seen.upserted += len(items)
        if stored.numbers[0] // batch % (SAMPLED // batch) == 0:
            await find(client, seen, items[0].attributes["mark"])

    while time.monotonic() < end:
        items = [
            CatalogItem(
                item_id=f"live-{number + i}",
                title=f"Live {number + i}",
                category=like[(number + i) % len(like)],
                attributes={"mark": f"m{(number + i) // batch}"},
            )
            for i in range(batch)
        ]
        number, due = number + batch, due + batch / rate
        task = asyncio.create_task(one(items))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await asyncio.gather(*tasks)


async def find(client: AsyncClient, seen: Seen, mark: str) -> None:
    """Ask until an item with this mark is answered."""
    started = time.monotonic()
    where = [Predicate(attribute="mark", any_of=(mark,))]
    while time.monotonic() < started + 10:
        with contextlib.suppress(InvalidArgument):  # no replica knows the attribute yet
            if (await client.recommend("", where=where)).items:
                seen.named.append(time.monotonic() - started)
                return
        await asyncio.sleep(0.01)
    seen.errors.append(f"{mark} was never found")


async def watch(services: Services, release: str, seen: Seen, stop: asyncio.Event) -> None:
    """Note retrieval's position every few milliseconds, and the delta every half second."""
    endpoints = StaticEndpoints([services.metadata["retrieval"]["address"]])
    stage: RemoteStage[Any, Any] = RemoteStage(RETRIEVE, endpoints, Metrics())
    entry, look = RetrieveEntry(user=UserContext(), k=1), 0.0
    while not stop.is_set():
        found = await stage.call(release, entry, Budget(5))
        seen.positions.append((time.monotonic(), found.position))
        if time.monotonic() - look > 0.5:
            look = time.monotonic()
            delta = await asyncio.to_thread(services.metric, "retrieval", "corerec_delta_items")
            seen.delta.append((look, -1.0 if delta is None else delta))
        await asyncio.sleep(PROBE_SECONDS)
    await stage.close()


def quantiles(values: list[float], scale: float = 1000.0) -> dict[str, float]:
    """Return count, p50, p95, p99 and the most, in milliseconds."""
    if not values:
        return {"count": 0}
    found = {f"p{q}_ms": float(np.quantile(values, q / 100)) * scale for q in (50, 95, 99)}
    most = {"max_ms": max(values) * scale}
    return {"count": len(values)} | {n: round(v, 2) for n, v in (found | most).items()}


def summary(seen: Seen, began: float, wrote: tuple[float, float]) -> dict[str, Any]:
    """Return what was measured."""
    times = np.array([t for t, _ in seen.positions])
    places = np.array([p for _, p in seen.positions])
    retrievable, after_ack = [], []
    for sent, acked, position in seen.upserts:
        first = int(np.searchsorted(places, position))
        if first < len(times):
            retrievable.append(float(times[first]) - sent)
            after_ack.append(max(0.0, float(times[first]) - acked))
    looks = zip(seen.delta, seen.delta[1:], strict=False)
    falls = [(a, b) for (a, x), (b, _) in looks if x > 0]
    merging = [s for t, s in seen.answers if any(a <= t <= b for a, b in falls)]
    during = [s for t, s in seen.answers if wrote[0] <= t <= wrote[1]]
    quiet = [s for t, s in seen.answers if began <= t < wrote[0] or t > wrote[1] + 3]
    p99 = {n: quantiles(s).get("p99_ms") for n, s in (("q", quiet), ("u", during), ("m", merging))}
    return {
        "upserts_a_second": round(seen.upserted / (wrote[1] - wrote[0]), 1),
        "items_upserted": seen.upserted,
        "upsert_to_ack": quantiles([acked - sent for sent, acked, _ in seen.upserts]),
        "upsert_to_retrievable": quantiles(retrievable),
        "ack_to_retrievable": quantiles(after_ack),
        "ack_to_found_by_name": quantiles(seen.named),
        "never_retrievable": len(seen.upserts) - len(retrievable),
        "recommend": {
            "quiet": quantiles(quiet),
            "upserts": quantiles(during),
            "merge": quantiles(merging),
            "upserts_p99_to_quiet": _ratio(p99["u"], p99["q"]),
            "merge_p99_to_quiet": _ratio(p99["m"], p99["q"]),
        },
        "delta_most": max((d for _, d in seen.delta), default=-1),
        "errors": len(seen.errors),
        "first_errors": seen.errors[:3],
        "degraded": seen.degraded,
    }


def _ratio(one: float | None, other: float | None) -> float | None:
    return round(one / other, 2) if one and other else None


async def run(
    services: Services, arguments: argparse.Namespace, release: Release
) -> dict[str, Any]:
    """Run the phases and return what was measured."""
    seen, stop = Seen(), asyncio.Event()
    like = release.catalogue.category_names
    async with AsyncClient(services.metadata["gateway"]["address"], timeout=5) as client:
        for i in range(50):
            await client.recommend(f"u{i:06d}")
        began = time.monotonic()
        others = [
            asyncio.create_task(ask(client, seen, arguments.rate, stop)),
            asyncio.create_task(watch(services, release.id, seen, stop)),
        ]
        await asyncio.sleep(arguments.seconds)
        started = time.monotonic()
        await upsert(client, seen, arguments.upserts, arguments.batch, arguments.seconds, like)
        wrote = (started, time.monotonic())
        await asyncio.sleep(3.0 + arguments.seconds)
        stop.set()
        await asyncio.gather(*others)
    return summary(seen, began, wrote)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rate", type=float, default=40.0, help="recommendations a second")
    parser.add_argument("--upserts", type=float, default=200.0, help="items upserted a second")
    parser.add_argument("--batch", type=int, default=10, help="items in one call")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each phase")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder / "data", users=2000, items=arguments.items, interactions=150_000, seed=1)
        release = train_release(folder / "data", folder / "releases", TrainConfig.tiny())
        services = Services(folder, release)
        try:
            services.start()
            found = asyncio.run(run(services, arguments, Release.open(release)))
        finally:
            services.stop()
    settings = {k: v for k, v in vars(arguments).items() if k != "out"}
    line = " ".join(["python -m benchmarks.live_catalogue", *sys.argv[1:]])
    report = {"command": line, "machine": machine(), "settings": settings, **found}
    text = json.dumps(report, indent=2) + "\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
