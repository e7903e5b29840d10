"""Makes the vectors that indexes are measured on: items and held-out users of a trained two-tower.

A generated world of a million items and eight million events trains a two-tower of 64 columns on
all users but the held-out ones. Their histories, encoded as new users, are the queries. The ten
million items are that million and nine million more of a larger world, which the same item tower
encodes from their content alone, as it does items that come to a live catalogue.

    python benchmarks/retrieval/vectors.py [--work .bench/retrieval] [--large]
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from corerec.data import load_dataset
from corerec.data.generate import CHUNK, generate
from corerec.data.titles import item_table
from corerec.data.world import item_styles, item_vectors, make_world
from corerec.engines import TwoTower
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.engines.two_tower_shape import ItemContent

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".bench" / "retrieval"
DIM, ITEMS, USERS, EVENTS = 64, 1_000_000, 150_000, 8_000_000
LARGE = 10_000_000
HELD_OUT = 6_000
"""Users whose events no training sees: their vectors are the queries."""

Float32s = NDArray[np.float32]


def load(work: Path = WORK, *, large: bool = False) -> tuple[Float32s, Float32s]:
    """Return item vectors (N, 64) and queries (Q, 64), made now where they are not there yet.

    The items are a memory-map; N is a million, or ten of them.
    """
    items = work / ("items-10m.npy" if large else "items-1m.npy")
    if not items.exists():
        prepare(work)
        if large:
            prepare_large(work)
    return np.load(items, mmap_mode="r"), np.load(work / "queries.npy")


def prepare(work: Path, examples: int = 2_000_000) -> None:
    """Write items-1m.npy, queries.npy and the model to `work`, unless they are there."""
    if (work / "queries.npy").exists():
        return
    world = work / "world"
    if not world.exists():
        work.mkdir(parents=True, exist_ok=True)
        generate(world, users=USERS, items=ITEMS, interactions=EVENTS)
    data = load_dataset(world)
    every = Sequences.of_dataset(data)
    held_out = np.random.default_rng(0).choice(every.user_count, HELD_OUT, replace=False)
    model = TwoTower(
        config=TwoTowerConfig(dim=DIM),
        training=TwoTowerFitConfig(epochs=1, max_examples=examples),
        device="cpu",
    )
    model.fit(data, events=_without(every, held_out))
    assert model.history is not None
    how = {
        "examples": model.history.examples,
        "seconds": round(model.history.seconds),
        "epochs": model.history.epochs,
    }
    model.save(work / "model")
    model.encode_items(work / "items-1m.npy")
    queries = model.encode_users(every.contexts(held_out))
    how["hits_at_500"] = _hits(model, every, held_out)
    (work / "training.json").write_text(json.dumps(how, indent=2) + "\n")
    np.save(work / "queries.npy", queries)


def prepare_large(work: Path) -> None:
    """Write items-10m.npy to `work`: the trained million, then items of a larger world."""
    out = work / "items-10m.npy"
    if out.exists():
        return
    model = TwoTower.load(work / "model")
    tower = copy.deepcopy(model.net.item)
    with torch.no_grad():
        tower.id.weight.zero_()  # an item that came after the training has no id of its own
    fresh = out.with_suffix(".tmp")
    target = np.lib.format.open_memmap(fresh, "w+", np.float32, (LARGE, DIM))
    target[:ITEMS] = np.load(work / "items-1m.npy", mmap_mode="r")
    world, schema = make_world(LARGE, 0), model.inputs.schema
    for start in range(0, LARGE, CHUNK):
        end = min(start + CHUNK, LARGE)
        if end <= ITEMS:
            continue
        table = item_table(world, start, end, 0).rename({"born": "born_micros"})
        image = item_vectors(world, item_styles(start, end - start, 0), start, 0)
        content = ItemContent.of(schema.encode_items(table, {"image": image}))
        with torch.inference_mode():
            vectors = model.net.item_vectors(tower(torch.arange(end - start), content, None))
        first = max(start, ITEMS)
        target[first:end] = vectors.numpy()[first - start :]
        print(f"{end:,} of {LARGE:,} items", flush=True)
    target.flush()
    fresh.replace(out)


def _without(events: Sequences, users: NDArray[np.int64]) -> Sequences:
    counts = np.diff(events.offsets)
    kept = np.ones(len(counts), bool)
    kept[users] = False
    of = np.repeat(kept, counts)
    return Sequences(
        offsets=np.concatenate([[0], np.cumsum(counts * kept)]).astype(np.int64),
        items=events.items[of],
        times=events.times[of],
        item_count=events.item_count,
    )


def _hits(model: TwoTower, events: Sequences, users: NDArray[np.int64]) -> float:
    """Return how often the exact best 500 hold a held-out user's last item, the others known."""
    contexts, last = [], []
    for context in events.contexts(users[:1000]):
        last.append(int(context.items[-1]))
        contexts.append(
            type(context)(
                user_id="",
                items=context.items[:-1],
                times=context.times[:-1],
                now=int(context.times[-1]),
            )
        )
    vectors = torch.from_numpy(np.ascontiguousarray(model.encode_items()))
    scores = torch.from_numpy(model.encode_users(contexts)) @ vectors.T
    best = scores.topk(500, dim=1).indices.numpy()
    return float(np.mean([item in row for item, row in zip(last, best, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--examples", type=int, default=2_000_000)
    parser.add_argument("--large", action="store_true", help="ten million items too")
    args = parser.parse_args()
    started = time.perf_counter()
    prepare(args.work, args.examples)
    print((args.work / "training.json").read_text())
    if args.large:
        prepare_large(args.work)
    print(f"{time.perf_counter() - started:.0f} s, in {args.work}")


if __name__ == "__main__":
    main()
