"""What a request costs in retrieval: RetrievalCore.run for 500 of a release's items, step by step.

    python -m benchmarks.retrieval.core [--release RELEASE] [--name NAME] [--settings NAME ...]

Users are those of the release with their newest events, which are left out of what is found. CPU
time of one thread, the best of several rounds, so that other work on the machine counts little:
alone, and in batches of 2, 4, 8 and 32. `cold_micros` is the median of batches that come after
other work has taken the processor's caches, as between services that share processors. Three
settings: the release's own sources; with three lists beside them; with two more models, whose
vectors are the release's with noise, so that their lists overlap by half. Writes
benchmarks/results/retrieval/core.json, under NAME beside other runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))
from report import ROOT, command, machine

from corerec.features import FeatureSchema, UserIndex
from corerec.release import Release
from corerec.retrieval import RetrievalCore, RetrievalOptions
from corerec.retrieval.build import build_index
from corerec.retrieval.popular import PopularList
from corerec.retrieval.sources import VectorSource, join_source, load_encoder, load_vectors
from corerec.stages import RetrieveEntry, RetrieveResult, SearchEntry, Source, UserContext

RESULT = ROOT / "benchmarks/results/retrieval/core.json"
K, USERS, ROUNDS = 500, 256, 7
SIZES = (1, 2, 4, 8, 32)
COLD, OTHER_BYTES = 200, 16 << 20
LISTS = {"item_to_item": 0.2, "trending": 0.1, "fresh": 0.1}
MORE = {"bert4rec": Source.BERT4REC, "matrix_factorization": Source.MATRIX_FACTORIZATION}


def entries_of(release: Release) -> list[RetrieveEntry]:
    """Return one request for each of the first users with a history."""
    events = pl.scan_parquet(release.file("histories.parquet")).head(200 * USERS).collect()
    columns = ("item_number", "event_time_micros")
    told = events.group_by("user_id", maintain_order=True).agg(*columns).head(USERS)
    return [
        RetrieveEntry(
            request_id=f"{row:016x}",
            user=UserContext(
                user_id=user, items=np.array(items, np.int64), times=np.array(times, np.int64)
            ),
            k=K,
        )
        for row, (user, items, times) in enumerate(told.iter_rows())
    ]


def three_models(release: Release) -> RetrievalCore:
    """Return a core of the release's model and of two that are like it."""
    schema = FeatureSchema.load(release.file("schema.json"))
    (kind,) = json.loads(release.file("retrieval.json").read_text())["sources"]
    own = join_source(load_encoder(release, kind), load_vectors(release, kind, schema))
    sources, rng = [own], np.random.default_rng(0)
    for other, mark in MORE.items():
        noise = rng.normal(size=own.vectors.shape).astype(np.float32)
        vectors = own.vectors + noise * np.float32(0.5 * own.vectors.std())
        index = build_index(vectors, model_id=own.model_id)
        sources.append(
            VectorSource(
                kind=other,
                source=mark,
                encode=own.encode,
                vectors=vectors,
                index=index,
                model_id=own.model_id,
            )
        )
    return RetrievalCore(
        release=release.id,
        sources=sources,
        popular=PopularList.load(release.file("popular.parquet"), schema.item_count),
        schema=schema,
        users=UserIndex.read(release.file("users.parquet")),
    )


def micros(work: Callable[[], object], requests: int) -> float:
    """Return CPU microseconds a request, the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return round(best / requests * 1e6, 1)


def cold_micros(core: RetrievalCore, batches: Sequence[Sequence[RetrieveEntry]]) -> float:
    """Return CPU microseconds a request, the median of batches after unrelated work."""
    other = np.ones(OTHER_BYTES, np.uint8)
    nested = {str(i): {"a": [1.5 * j for j in range(8)], "b": {"c": str(i)}} for i in range(150)}
    found = []
    for i in range(min(COLD, 8 * len(batches))):
        other += 1
        json.loads(json.dumps(nested))
        batch = batches[i % len(batches)]
        start = time.thread_time()
        core.run(batch)
        found.append((time.thread_time() - start) / len(batch) * 1e6)
    return round(float(np.median(found)), 1)


def measure(core: RetrievalCore, entries: Sequence[RetrieveEntry], size: int) -> dict[str, float]:
    """Return what each step costs a request in batches of `size`."""
    entries = entries[: min(len(entries), 64 if size == 1 else USERS)]
    batches = [entries[i : i + size] for i in range(0, len(entries), size)]
    encoded = [[e for e in core.front.encode(b).entries if isinstance(e, SearchEntry)]
               for b in batches]  # fmt: skip

    def search() -> None:
        for own in encoded:
            for source in core.sources:
                assert isinstance(source, VectorSource)
                queries = np.stack([entry.queries[source.kind] for entry in own])
                seen = [entry.excluded for entry in own]
                source.index.search(queries, K, seen, model_id=source.model_id)

    whole = micros(lambda: [core.run(batch) for batch in batches], len(entries))
    encode = micros(lambda: [core.front.encode(batch) for batch in batches], len(entries))
    found = micros(search, len(entries))
    return {
        "batch": size,
        "run_micros": whole,
        "cold_micros": cold_micros(core, batches),
        "encode_micros": encode,
        "index_micros": found,
        "rest_micros": round(whole - encode - found, 1),
    }


def main() -> None:
    """Measure each setting and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, default=ROOT / ".bench/releases-1m")
    parser.add_argument("--name", default="now", help="what this run is called in the file")
    parser.add_argument("--settings", nargs="+", help="which settings; all when not given")
    arguments = parser.parse_args()
    threadpool_limits(limits=1, user_api="blas")
    release = Release.open(arguments.release)
    cores: dict[str, Callable[[], RetrievalCore]] = {
        "own sources": lambda: RetrievalCore.load(release),
        "three lists more": lambda: RetrievalCore.load(
            release, config=RetrievalOptions(quotas=LISTS)
        ),
        "two models more": lambda: three_models(release),
    }
    entries = entries_of(release)
    found: dict[str, Any] = {}
    for name in arguments.settings or cores:
        make = cores[name]
        core = make()
        core.warm()
        assert all(isinstance(own, RetrieveResult) for own in core.run(entries))
        found[name] = [measure(core, entries, size) for size in SIZES]
        for line in found[name]:
            print(name, line, flush=True)
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    report[f"{arguments.name}, {len(release.catalogue):,} items"] = {
        "k": K,
        "users": len(entries),
        "events_a_user": round(float(np.mean([len(e.user.items) for e in entries])), 1),
        "settings": found,
        "machine": machine(),
        "command": command(),
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
