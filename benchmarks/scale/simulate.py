"""Simulates one query's fan-out to many shards, from measured latencies of one shard.

    python benchmarks/scale/simulate.py [--latency FILE] [--queries 40000]

Every shard has two replicas, each a server that does one search after the other. Queries arrive at
random (Poisson); each goes to every shard, to the replica with less to do; the answer is there when
the last shard's is. A search takes one of the measured times, drawn with replacement. There are two
worlds: as measured, and with stalls, where one search in 1,000 takes 30 ms longer, as by a pause of
its process or a busy neighbour. With hedging a shard whose answer is later than a percentile of its
own answers is asked again at its other replica, as long as hedges are at most 5% of searches. The
first answer counts, and the other replica drops a search that it has not begun.

Writes benchmarks/results/scale/fanout.json and fanout.png.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))
from report import ROOT, command, machine

RESULTS = ROOT / "benchmarks/results/scale"
SHARDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
REPLICAS = 2
HEDGE_SHARE = 0.05
"""Most hedges beside searches: each search earns so much of a token, a hedge costs one."""
HEDGE_TOKENS = 10.0
"""Most tokens that can be saved up; what is allowed in a burst."""
PERCENTILES = (50, 95, 99, 99.9)
WORLDS = {"as measured": (0.0, 0.0), "with stalls": (0.030, 0.001)}
"""Seconds and share of stalls."""


@dataclass
class Search:
    """One query at one shard: when its first answer came."""

    query: int
    arrived: float
    done: float = -1.0


@dataclass
class Replica:
    """A server of one search at a time."""

    waiting: deque[Search] = field(default_factory=deque)
    busy: bool = False

    @property
    def load(self) -> int:
        return len(self.waiting) + self.busy


class Times:
    """Search times drawn from what was measured, with stalls."""

    def __init__(self, measured: np.ndarray, rng: np.random.Generator, stall: float, share: float):
        self._measured, self._rng, self._stall, self._share = measured, rng, stall, share
        self._drawn: list[float] = []

    def next(self) -> float:
        if not self._drawn:
            own = self._rng.choice(self._measured, 65_536)
            own = own + self._stall * (self._rng.random(len(own)) < self._share)
            self._drawn = own.tolist()
        return self._drawn.pop()


def simulate_shard(
    arrivals: np.ndarray, times: Times, hedge_after: float | None
) -> tuple[np.ndarray, int]:
    """Return each query's latency at one shard of two replicas, in seconds, and the hedges sent.

    Shapes: arrivals (Q,) ascending, seconds; returns (Q,).
    """
    replicas = [Replica() for _ in range(REPLICAS)]
    searches = [Search(i, t) for i, t in enumerate(arrivals.tolist())]
    chosen: list[Replica | None] = [None] * len(searches)
    # (moment, order, what, search, replica); order keeps events of one moment in sequence.
    events: list[tuple[float, int, str, Search | None, Replica | None]] = []
    order, tokens, hedges = 0, HEDGE_TOKENS, 0

    def push(moment: float, what: str, search: Search | None, replica: Replica | None) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (moment, order, what, search, replica))

    def begin(moment: float, replica: Replica) -> None:
        while replica.waiting:
            search = replica.waiting.popleft()
            if search.done < 0:  # else answered by the other replica: dropped
                replica.busy = True
                push(moment + times.next(), "end", search, replica)
                return

    for search in searches:
        push(search.arrived, "arrive", search, None)
    while events:
        moment, _, what, search, replica = heapq.heappop(events)
        if what == "arrive":
            assert search is not None
            replica = min(replicas, key=lambda r: r.load)
            chosen[search.query] = replica
            tokens = min(HEDGE_TOKENS, tokens + HEDGE_SHARE)
            replica.waiting.append(search)
            if not replica.busy:
                begin(moment, replica)
            if hedge_after is not None:
                push(moment + hedge_after, "late", search, None)
        elif what == "late":
            assert search is not None
            if search.done < 0 and tokens >= 1.0:
                tokens -= 1.0
                hedges += 1
                replica = next(r for r in replicas if r is not chosen[search.query])
                replica.waiting.append(search)
                if not replica.busy:
                    begin(moment, replica)
        else:
            assert search is not None
            assert replica is not None
            if search.done < 0:
                search.done = moment
            replica.busy = False
            begin(moment, replica)
    return np.array([s.done - s.arrived for s in searches]), hedges


def fan_out(
    shards: int,
    measured: np.ndarray,
    given: argparse.Namespace,
    stalls: tuple[float, float],
    *,
    hedged: bool,
) -> dict[str, Any]:
    """Return percentiles of whole queries, in milliseconds, and the share of hedges."""
    rng = np.random.default_rng([given.seed, shards])  # the same arrivals in both
    rate = given.load * REPLICAS / (float(measured.mean()) + stalls[0] * stalls[1])
    arrivals = np.cumsum(rng.exponential(1 / rate, given.queries))
    after = None
    if hedged:
        # What a client learns of a shard from its own answers.
        own = Times(measured, np.random.default_rng(7), *stalls)
        alone, _ = simulate_shard(arrivals, own, None)
        after = float(np.percentile(alone, given.hedge_percentile))
    whole, hedges = np.zeros(given.queries), 0
    for shard in range(shards):
        times = Times(measured, np.random.default_rng([given.seed, shards, shard]), *stalls)
        latency, sent = simulate_shard(arrivals, times, after)
        hedges += sent
        whole = np.maximum(whole, latency)
    return {
        **{f"p{p:g}_ms": float(np.percentile(whole, p)) * 1e3 for p in PERCENTILES},
        "extra_load": hedges / (shards * given.queries),
    }


def draw(worlds: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw latency against the number of shards, a panel a world."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(worlds), figsize=(11, 4.5), layout="constrained", sharey=True
    )
    for axes, (world, rows) in zip(panels, worlds.items(), strict=True):
        shards = [row["shards"] for row in rows]
        for name, line in (("plain", "--"), ("hedged", "-")):
            for percentile, colour in (("p50_ms", "C0"), ("p99_ms", "C3")):
                values = [row[name][percentile] for row in rows]
                label = f"{percentile[:-3]}, {name}"
                axes.plot(shards, values, line, color=colour, marker="o", ms=3, label=label)
        axes.set(xscale="log", yscale="log", xlabel="shards asked by each query", title=world)
        axes.set_xticks(shards, [str(own) for own in shards])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("ms")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Simulate every number of shards, with and without hedging, and write the report."""
    arguments = argparse.ArgumentParser(description="fan-out to up to 256 shards")
    arguments.add_argument("--latency", type=Path, default=RESULTS / "shard_latency.json")
    arguments.add_argument("--out", type=Path, default=RESULTS)
    arguments.add_argument("--queries", type=int, default=20_000)
    arguments.add_argument("--load", type=float, default=0.3, help="share of each replica's time")
    arguments.add_argument("--hedge-percentile", type=float, default=98.0)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    source = json.loads(given.latency.read_text())
    measured = np.array(source["micros"], np.float64) / 1e6
    worlds: dict[str, list[dict[str, Any]]] = {}
    for world, stalls in WORLDS.items():
        worlds[world] = rows = []
        for shards in SHARDS:
            plain = fan_out(shards, measured, given, stalls, hedged=False)
            hedged = fan_out(shards, measured, given, stalls, hedged=True)
            rows.append({"shards": shards, "plain": plain, "hedged": hedged})
            print(
                f"{world}, {shards:3d} shards: "
                f"p50 {plain['p50_ms']:.2f} -> {hedged['p50_ms']:.2f} ms, "
                f"p99 {plain['p99_ms']:.2f} -> {hedged['p99_ms']:.2f} ms, "
                f"{hedged['extra_load']:.1%} hedges",
                flush=True,
            )
    values = {
        "name": "fanout",
        "what": "latency of a query that asks every shard, two replicas a shard",
        "load": given.load,
        "hedge_percentile": given.hedge_percentile,
        "stalls": WORLDS,
        "queries": given.queries,
        "measured": {k: v for k, v in source.items() if k != "micros"},
        "worlds": worlds,
        "machine": machine(),
        "command": command(),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "fanout.json").write_text(json.dumps(values, indent=2) + "\n")
    draw(worlds, given.out / "fanout.png")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
