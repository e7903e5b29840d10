"""A catalogue that changes while it serves: how soon an item is found, and what answers pay.

Starts the services as plain processes on one SQLite store over a generated world, retrieval with
each of the given numbers of shards in turn, asks for recommendations at a steady rate, and
meanwhile upserts items at another. A position counts as retrievable when one answer of all shards
rests on it or a later one; a tenth of the calls have an item that is looked for by name, with a
condition that it alone meets, until the shard that has it answers with it. Such items, and items
that were recommended, are deleted, and none may be in an answer that was asked for after the
acknowledgement. Answers are timed while nothing is written, before and after (`quiet`), and while
items come (`upserts`).

    python -m benchmarks.live_catalogue --shards 1 2 4 --out FILE
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.live.callers import Callers, Seen, quantiles
from benchmarks.live.services import Services
from benchmarks.quality.report import machine
from corerec.client import AsyncClient
from corerec.data.generate import generate
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.train import train_release
from corerec.release import Release

SETTLE_SECONDS = 3.0
"""Between the last upsert and the second quiet phase."""


def summary(seen: Seen, began: float, wrote: tuple[float, float]) -> dict[str, Any]:
    """Return what was measured."""
    times = np.array([t for t, _ in seen.positions])
    # Answers of two probes may overtake each other: what was reached stays reached.
    places = np.maximum.accumulate(np.array([p for _, p in seen.positions]))
    retrievable, after_ack = [], []
    for sent, acked, position in seen.upserts:
        first = int(np.searchsorted(places, position))
        if first < len(times):
            retrievable.append(float(times[first]) - sent)
            after_ack.append(max(0.0, float(times[first]) - acked))
    during = [s for t, s in seen.answers if wrote[0] <= t <= wrote[1]]
    quiet = [s for t, s in seen.answers if began <= t < wrote[0] or t > wrote[1] + SETTLE_SECONDS]
    found = {"quiet": quantiles(quiet), "upserts": quantiles(during)}
    return {
        "upserts_a_second": round(seen.upserted / (wrote[1] - wrote[0]), 1),
        "items_upserted": seen.upserted,
        "upsert_to_ack": quantiles([acked - sent for sent, acked, _ in seen.upserts]),
        "upsert_to_retrievable_on_all_shards": quantiles(retrievable),
        "ack_to_retrievable_on_all_shards": quantiles(after_ack),
        "ack_to_found_by_name": quantiles([s for own in seen.named.values() for s in own]),
        "found_by_name_on_shard": {str(n): quantiles(own) for n, own in sorted(seen.named.items())},
        "never_retrievable": len(seen.upserts) - len(retrievable),
        "every_shard_ended_at_the_last_position": int(places[-1]) >= seen.last_position,
        "deletes": {
            "acknowledged": len(seen.deleted),
            "items_of_answers_checked": seen.items_checked,
            "looked_for_by_name": seen.looked_for,
            "returned_after_acknowledgement": len(seen.returned),
        },
        "recommend": found | {"upserts_p99_to_quiet": _ratio(found)},
        "delta_most": max(seen.delta, default=-1),
        "errors": len(seen.errors),
        "first_errors": seen.errors[:3],
        "degraded": seen.degraded,
    }


def _ratio(found: dict[str, dict[str, float]]) -> float | None:
    one, other = (found[name].get("p99_ms") for name in ("upserts", "quiet"))
    return round(one / other, 2) if one and other else None


async def run(services: Services, arguments: argparse.Namespace, release: Release) -> Any:
    """Run the phases and return what was measured."""
    like = release.catalogue.category_names
    async with AsyncClient(services.address("gateway"), timeout=5) as client:
        callers = Callers(services, client, release.id)
        for i in range(100):
            await client.recommend(f"u{i:06d}")
        began = time.monotonic()
        callers.begin(callers.ask(arguments.rate))
        callers.begin(callers.watch())
        await asyncio.sleep(arguments.seconds)
        started = time.monotonic()
        await callers.upsert(arguments.upserts, arguments.batch, arguments.seconds, like)
        wrote = (started, time.monotonic())
        await asyncio.sleep(SETTLE_SECONDS + arguments.seconds)
        await callers.close()
    return summary(callers.seen, began, wrote)


def released(work: Path, items: int) -> Path:
    """Return a release over a generated world of so many items, made now if it is not there."""
    made = sorted(work.glob(f"releases-{items}/*/manifest.json"))
    if made:
        return made[-1].parent
    generate(work / f"data-{items}", users=2000, items=items, interactions=150_000, seed=1)
    return train_release(work / f"data-{items}", work / f"releases-{items}", TrainConfig.tiny())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rate", type=float, default=40.0, help="recommendations a second")
    parser.add_argument("--upserts", type=float, default=200.0, help="items upserted a second")
    parser.add_argument("--batch", type=int, default=10, help="items in one call")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--work", type=Path, default=Path(".bench/live"), help="keeps the release")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    release = released(arguments.work.resolve(), arguments.items)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for shards in arguments.shards:
            with Services(Path(name) / str(shards), release, shards) as services:
                found[str(shards)] = asyncio.run(run(services, arguments, Release.open(release)))
            sys.stderr.write(f"{shards} shards: {json.dumps(found[str(shards)])}\n")
    settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "work")}
    line = " ".join(["python -m benchmarks.live_catalogue", *sys.argv[1:]])
    report = {"command": line, "machine": machine(), "settings": settings, "shards": found}
    text = json.dumps(report, indent=2) + "\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
