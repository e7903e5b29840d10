"""Measures RankingCore on one core: features and scores of 500 candidates a request.

    python -m benchmarks.ranking_core [--items 50000] [--seconds 2]

The model has its default sizes and random weights, the world its usual attributes and density;
speed depends on neither weights nor tastes. Writes benchmarks/results/ranking_core.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save_file

from corerec.engines.dcn import DcnConfig
from corerec.errors import CoreRecError
from corerec.features import (
    CategoricalFeature,
    FeatureSchema,
    ItemFeatures,
    MultiFeature,
    PopularitySnapshot,
    VectorSet,
)
from corerec.ranking.core import RankingCore
from corerec.ranking.files import save_ranker
from corerec.ranking.model import RankingModel, RankingModelConfig
from corerec.ranking.transitions import TransitionTable
from corerec.stages import Candidates, RankEntry, Source, UserContext

RESULT = Path(__file__).parent / "results" / "ranking_core.json"
CANDIDATES, HISTORY, TOWER = 500, 50, 64
LARGE = DcnConfig(cross_layers=3, cross_rank=64, deep=(256, 128))
END = 1_700_000_000_000_000
HOUR = 3_600_000_000


class Folder:
    """A folder with the files that RankingCore reads."""

    def __init__(self, root: Path) -> None:
        self.root, self.id = root, "benchmark"
        self.info: dict[str, Any] = {"data_end_micros": END}

    @property
    def names(self) -> list[str]:
        return [path.name for path in self.root.iterdir()]

    def has(self, name: str) -> bool:
        return (self.root / name).exists()

    def file(self, name: str) -> Path:
        return self.root / name


def write_release(
    root: Path, items: int, users: int, rng: np.random.Generator, *, large: bool = False
) -> Folder:
    def vocabulary(name: str, size: int) -> tuple[str, ...]:
        return tuple(f"{name}{i}" for i in range(size))

    schema = FeatureSchema(
        has_times=True,
        item_count=items,
        user_count=users,
        item_categorical=tuple(
            CategoricalFeature(name=name, vocabulary=vocabulary(name, size))
            for name, size in (("category", 100), ("creator", items // 20))
        ),
        item_multi=(MultiFeature(name="tags", vocabulary=vocabulary("tag", 200)),),
        item_numeric=(),
        user_categorical=(CategoricalFeature(name="sex", vocabulary=("F", "M")),),
        user_numeric=(),
        vector_sets=(VectorSet(name="image", width=32),),
    )
    schema.save(root / "schema.json")
    multi = np.zeros((items, 1, 8), np.int32)
    multi[:, 0, :3] = rng.integers(1, 201, (items, 3))
    ItemFeatures(
        categorical=np.stack(
            [rng.integers(1, 101, items), rng.integers(1, items // 20 + 1, items)], axis=1
        ).astype(np.int32),
        multi=multi,
        title_tokens=rng.integers(1, 20_000, (items, 12)).astype(np.int32),
        numeric=np.zeros((items, 0), np.float32),
        vectors=rng.standard_normal((items, 32)).astype(np.float32),
        born_micros=END - rng.integers(0, 1000, items) * 24 * HOUR,
    ).save(root / "item_features.safetensors")
    tower = rng.standard_normal((items, TOWER)).astype(np.float32)
    tower /= np.linalg.norm(tower, axis=1, keepdims=True)
    save_file({"vectors": tower}, root / "item_vectors.safetensors")
    draws = np.minimum(rng.zipf(1.3, 1_000_000) - 1, items - 1)
    TransitionTable.fit(np.repeat(np.arange(20_000), 50), draws, items).save(
        root / "transitions.safetensors"
    )
    counts = np.bincount(draws, minlength=items).astype(np.float32)
    PopularitySnapshot(total=counts, recent=counts / 10).save(root / "popularity.safetensors")
    pl.DataFrame({"user_id": [f"u{i}" for i in range(users)]}).write_parquet(root / "users.parquet")
    torch.manual_seed(0)
    model = RankingModel(
        schema, RankingModelConfig(dcn=LARGE) if large else RankingModelConfig(), TOWER
    )
    save_ranker(model, root / "ranker.safetensors", root / "ranker.json")
    return Folder(root)


def make_entries(count: int, items: int, rng: np.random.Generator) -> list[RankEntry]:
    entries = []
    for number in range(count):
        numbers = rng.permutation(items)[:CANDIDATES]
        # Histories are of popular items, which have the most followers: the costly case.
        history = np.minimum(rng.zipf(1.3, HISTORY) - 1, items - 1).astype(np.int64)
        entries.append(
            RankEntry(
                user=UserContext(
                    user_id=f"u{number}",
                    attributes={"sex": "F"},
                    items=history,
                    times=END - np.arange(HISTORY, 0, -1) * HOUR,
                ),
                candidates=Candidates(
                    numbers=numbers,
                    scores=np.sort(rng.random(CANDIDATES, np.float32))[::-1].copy(),
                    sources=np.full(CANDIDATES, Source.TWO_TOWER, np.uint8),
                ),
                k=100,
            )
        )
    return entries


def measure(
    core: RankingCore, entries: Sequence[RankEntry], size: int, seconds: float
) -> dict[str, float]:
    batches = [entries[i : i + size] for i in range(0, len(entries), size)]
    batches = [batch for batch in batches if len(batch) == size]
    for batch in batches[:3]:
        core.run(batch)
    features, score, walls = [], [], []
    begin, cpu = time.perf_counter(), time.process_time()
    requests = 0
    while time.perf_counter() - begin < seconds:
        batch = batches[requests // size % len(batches)]
        start = time.perf_counter()
        results = core.run(batch)
        walls.append(time.perf_counter() - start)
        requests += size
        first = results[0]
        assert not isinstance(first, CoreRecError)
        features.append(first.timings["features"])
        score.append(first.timings["score"])
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "batch": size,
        "core_ms_per_request": round(cpu / requests * 1e3, 4),
        "best_ms_per_request": round(min(walls) / size * 1e3, 4),
        "pairs_per_second": round(requests * CANDIDATES / wall),
        "features_micros_median_of_a_matrix": float(np.median(features)),
        "score_micros_median_of_a_matrix": float(np.median(score)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--large", action="store_true", help="a network ten times the default's")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "auto"))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        release = write_release(Path(folder), arguments.items, 20_000, rng, large=arguments.large)
        core = RankingCore.load(release, device=arguments.device)
        core.warm()
        entries = make_entries(128, arguments.items, rng)
        results = [measure(core, entries, size, arguments.seconds) for size in (1, 8, 32)]
    report = {
        "what": "RankingCore.run, check included, one thread",
        "machine": f"{platform.machine()} {_cpu()}",
        "torch": torch.__version__,
        "device": str(core.device),
        "items": arguments.items,
        "candidates": CANDIDATES,
        "history": HISTORY,
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


if __name__ == "__main__":
    main()
