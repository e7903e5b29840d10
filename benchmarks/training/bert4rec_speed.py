"""BERT4Rec's training beside a plain torch loop: sequences per second and peak memory.

Both train the same sizes on the same windows of ml-1m with the same share of masks. The plain loop
is what open implementations do: `nn.TransformerEncoder`, every sequence padded to max_len, scores
of all items at all positions, `torch.optim.Adam`. Each trainer runs in processes of its own, in
turns, and its best round counts.

    python benchmarks/training/bert4rec_speed.py [--rounds 3] [--steps 12]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))
from leave_one_out import ml1m
from report import ROOT, command, machine, peak_memory_bytes, reset_peak_memory

from corerec.engines.bert4rec import BERT4Rec
from corerec.engines.bert4rec_batch import cut
from corerec.engines.bert4rec_config import BERT4RecConfig, BERT4RecFitConfig
from corerec.engines.sequences import Sequences

CONFIG = BERT4RecConfig(dim=64, layers=2, heads=2, hidden=256, max_len=100, dropout=0.1)
BATCH, MASKED = 64, 0.2
CLOZE = BERT4RecFitConfig(
    epochs=1, batch_sequences=BATCH, mask_share=MASKED, last_share=0.0, learning_rate=1e-3
)


class Plain(nn.Module):
    """BERT4Rec as it is commonly written."""

    def __init__(self, items: int) -> None:
        super().__init__()
        dim = CONFIG.dim
        self.item = nn.Embedding(items + 2, dim, padding_idx=0)
        self.place = nn.Embedding(CONFIG.max_len, dim)
        layer = nn.TransformerEncoderLayer(
            dim, CONFIG.heads, CONFIG.hidden, CONFIG.dropout, "gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, CONFIG.layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        self.bias = nn.Parameter(torch.zeros(items + 2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, L, N + 2) scores of tokens (B, L), 0 is padding."""
        x = self.item(tokens) + self.place.weight
        x = self.head(self.encoder(x, src_key_padding_mask=tokens == 0))
        return x @ self.item.weight.T + self.bias


def plain(data: Sequences, steps: int) -> tuple[int, float]:
    """Return sequences and seconds of the plain loop."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    windows = cut(data, CONFIG.max_len, CONFIG.max_len, rng)
    rows = rng.permutation(len(windows))[: steps * BATCH]
    padded = np.zeros((len(rows), CONFIG.max_len), np.int64)
    for row, window in enumerate(rows.tolist()):
        own = data.items[windows.start[window] : windows.end[window]]
        padded[row, -len(own) :] = own + 1
    tokens = torch.from_numpy(padded)
    model = Plain(data.item_count)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    started = time.perf_counter()
    for begin in range(0, len(tokens), BATCH):
        own = tokens[begin : begin + BATCH]
        hidden = (torch.rand(own.shape) < MASKED) & (own > 0)
        labels = torch.where(hidden, own, 0)
        scores = model(torch.where(hidden, data.item_count + 1, own))
        loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        float(loss)
    return len(tokens), time.perf_counter() - started


def ours(data: Sequences, steps: int) -> tuple[int, float]:
    """Return sequences and seconds of this library, batch making included."""
    pieces = -(-np.diff(data.offsets) // CONFIG.max_len)  # windows of each user
    users = int(np.searchsorted(np.cumsum(pieces), steps * BATCH)) + 1
    end = int(data.offsets[users])
    part = Sequences.of(data.users[:end], data.items[:end], item_count=data.item_count)
    model = BERT4Rec(config=CONFIG, training=CLOZE)
    started = time.perf_counter()
    model.fit(part)
    return int(pieces[:users].sum()), time.perf_counter() - started


def measure(name: str, steps: int) -> dict[str, float]:
    """Return what one trainer does in this process, after a short warm-up."""
    data = ml1m().before(2)
    trainer = {"corerec": ours, "plain torch loop": plain}[name]
    trainer(data, 1)
    reset_peak_memory()
    base = peak_memory_bytes()
    sequences, seconds = trainer(data, steps)
    return {
        "sequences_per_second": sequences / seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "memory_before_bytes": base,
    }


def main() -> None:
    """Measure both in turns and write the report."""
    arguments = argparse.ArgumentParser(description="BERT4Rec training beside a plain loop")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=12, help="batches of 64 sequences a round")
    arguments.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments.add_argument("--only", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.only:
        print(json.dumps(measure(given.only, given.steps)))
        return
    names = ("plain torch loop", "corerec")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            line = [sys.executable, __file__, "--only", name, "--steps", str(given.steps)]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name}: {found[name][-1]}", flush=True)
    best = {n: max(runs, key=lambda r: r["sequences_per_second"]) for n, runs in found.items()}
    speeds = [best[name]["sequences_per_second"] for name in names]
    memory = [best[name]["peak_memory_bytes"] for name in names]
    values = {
        "name": "bert4rec_speed",
        "data": "ml-1m.txt of SASRec and BERT4Rec, windows of at most 100 events",
        "best": best,
        "rounds": found,
        "speed_ratio": speeds[1] / speeds[0],
        "memory_ratio": memory[1] / memory[0],
        "config": {"model": asdict(CONFIG), "training": asdict(CLOZE)},
        "machine": machine(),
        "command": command(),
    }
    path = given.out / "training/bert4rec_speed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")
    print(f"{values['speed_ratio']:.2f} times the speed, {values['memory_ratio']:.2f} the memory")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
