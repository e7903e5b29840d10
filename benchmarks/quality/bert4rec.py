"""BERT4Rec by leave-one-out on ml-1m or amazon-beauty, against all items, seen ones filtered.

python benchmarks/quality/bert4rec.py [--data ml-1m|amazon-beauty] [--seeds 0,1,2]
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from leave_one_out import LeaveOneOut, beauty, ml1m
from report import Benchmark, SeedRun, main, parser

from corerec.engines.bert4rec import BERT4Rec
from corerec.engines.bert4rec_config import BERT4RecConfig, BERT4RecFitConfig
from corerec.evaluation.ranked import full_ranking, scorer

PROTOCOL = "leave-one-out, all items, seen filtered; epochs chosen on the event before the last"
VALIDATION_USERS = 3000

BENCHMARKS = {
    "ml-1m": Benchmark(
        name="bert4rec_ml1m",
        data="ml-1m.txt of SASRec and BERT4Rec",
        protocol=PROTOCOL,
        published={
            "POP": {"hr@10": 0.0363, "ndcg@10": 0.0178},
            "SASRec": {"hr@10": 0.2500, "ndcg@10": 0.1341},
            "BERT4Rec": {"hr@10": 0.2843, "ndcg@10": 0.1537},
            "SASRec+CE": {"hr@10": 0.3152, "ndcg@10": 0.1821},
        },
        required={"hr@10": 0.268, "ndcg@10": 0.144},
        aim={"hr@10": 0.315, "ndcg@10": 0.182},
    ),
    "amazon-beauty": Benchmark(
        name="bert4rec_beauty",
        data="amazon-beauty of S3-Rec",
        protocol=PROTOCOL,
        published={
            "POP": {"hr@10": 0.0152, "ndcg@10": 0.0068},
            "BERT4Rec": {"hr@10": 0.0347, "ndcg@10": 0.0170},
            "SASRec": {"hr@10": 0.0605, "ndcg@10": 0.0318},
            "S3-Rec": {"hr@10": 0.0647, "ndcg@10": 0.0327},
            "SASRec with cross-entropy": {"hr@10": 0.081, "ndcg@10": 0.046},
        },
        required={"hr@10": 0.045, "ndcg@10": 0.024},
        aim={"hr@10": 0.065, "ndcg@10": 0.033},
    ),
}

CONFIGS = {
    "ml-1m": (
        BERT4RecConfig(hidden=128, max_len=100, dropout=0.1),
        BERT4RecFitConfig(
            epochs=6, batch_sequences=16, learning_rate=2e-3, last_share=0.9, last_events=50
        ),
    ),
    # A sample of 1,024 items costs a quarter of all 12,101 and taught as much in a first epoch.
    "amazon-beauty": (
        BERT4RecConfig(hidden=128, max_len=50, dropout=0.3, history="past"),
        BERT4RecFitConfig(
            epochs=20,
            batch_sequences=64,
            learning_rate=3e-3,
            last_share=0.95,
            last_events=50,
            negatives=1024,
            full_softmax_below=10_000,
        ),
    ),
}


def run(name: str, data: LeaveOneOut, seed: int, checkpoints: Path | None) -> SeedRun:
    """Train on one seed and return the test metrics of its best validated epoch."""
    train, known = data.before(2), data.before(1)
    drawn = np.random.default_rng(0).permutation(train.user_count)[:VALIDATION_USERS]
    users = np.sort(drawn)

    def validate(model: BERT4Rec) -> float:
        found = full_ranking(scorer(model, train), data.right(2), train, rows=users)
        print(f"  validation {found['hr@10']:.4f}/{found['ndcg@10']:.4f}", flush=True)
        return found["ndcg@10"]

    config, training = CONFIGS[name]
    model = BERT4Rec(config=config, training=training, seed=seed)
    checkpoint = checkpoints and checkpoints / f"{name}-{seed}.safetensors"
    model.fit(train, validate=validate, checkpoint=checkpoint)
    epochs = model.history.epochs
    seconds = sum(epoch["seconds"] for epoch in epochs)
    return SeedRun(
        seed=seed,
        metrics=full_ranking(scorer(model, known), data.right(1), known),
        epochs=len(epochs),
        best_epoch=model.history.best_epoch + 1,
        seconds=seconds,
        samples_per_second=len(epochs) * len(train) / seconds,
        more={"epochs": epochs},
    )


if __name__ == "__main__":
    arguments = parser("BERT4Rec")
    arguments.add_argument("--data", choices=list(BENCHMARKS), default="ml-1m")
    arguments.add_argument("--threads", type=int, default=0, help="of the CPU; 0 is torch's choice")
    arguments.add_argument("--checkpoints", type=Path, help="a folder; a stopped run goes on")
    given = arguments.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    data = ml1m() if given.data == "ml-1m" else beauty()
    config, training = CONFIGS[given.data]
    main(
        BENCHMARKS[given.data],
        lambda seed: run(given.data, data, seed, given.checkpoints),
        {"model": asdict(config), "training": asdict(training)},
        arguments=given,
    )
