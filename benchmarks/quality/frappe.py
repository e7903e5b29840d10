"""DCN-v2 and DLRM on frappe, in the protocol of the BARS benchmark.

    python benchmarks/quality/frappe.py [--model dcn|dlrm|both] [--seeds 0,1,2]

The given splits of 202,027 / 57,722 / 28,860 rows, 10 categorical fields; epochs by the AUC of the
validation rows, which are not learned from; probabilities are calibrated there too ("before" is
without). Writes `frappe_dcn.json` and `frappe_dlrm.json`.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from ml1m_data import shared_data
from report import Benchmark, SeedRun, main, parser

from corerec.engines import DCN, DLRM
from corerec.engines.calibrate import calibration_report
from corerec.engines.ctr import CtrModel
from corerec.engines.ctr_config import CtrFitConfig
from corerec.engines.ctr_examples import CtrExamples
from corerec.engines.dcn import DcnConfig
from corerec.engines.dlrm import DlrmConfig

FILES = {"train": "train_resampled_neg", "validation": "valid", "test": "test"}
PUBLISHED = {
    "LR (BARS)": {"auc": 0.9356, "logloss": 0.3076},
    "FM (BARS)": {"auc": 0.9671, "logloss": 0.2065},
    "DeepFM (BARS)": {"auc": 0.9842, "logloss": 0.1482},
    "DCN-v2 (BARS)": {"auc": 0.9838, "logloss": 0.1520},
    "DLRM (BARS)": {"auc": 0.9840, "logloss": 0.1444},
}
DATA = "frappe, 5,382 features of 10 fields, training negatives resampled"
PROTOCOL = "BARS: given splits, epochs by validation AUC, no refit"


def read(name: str) -> CtrExamples:
    """Return a split; feature numbers run over all fields, the fields' own begin at 1 here."""
    path = shared_data() / "frappe" / f"{FILES[name]}.libsvm.gz"
    with gzip.open(path, "rt") as file:
        text = file.read().replace(":1", "")
    table = np.array(text.split(), np.int32).reshape(-1, 11)
    firsts, sizes = _fields()
    return CtrExamples.of(
        table[:, 1:] - firsts + 1, table[:, 0], cardinalities=tuple((sizes + 1).tolist())
    )


def _fields() -> tuple[np.ndarray, np.ndarray]:
    """Return each field's first feature number and count, in the order of the columns."""
    lines = (shared_data() / "frappe" / "feature_map.csv").read_text().splitlines()[1:]
    names = [line.split(",")[1] for line in lines]
    firsts = np.array([i for i, name in enumerate(names) if i == 0 or name != names[i - 1]])
    return firsts, np.diff(np.append(firsts, len(names)))


TRAINING = CtrFitConfig(epochs=12, batch_rows=2048, learning_rate=4e-3, embedding_l2=0.02)
MODELS: dict[str, Callable[[int], CtrModel[Any]]] = {
    "dcn": lambda seed: DCN(
        16,
        config=DcnConfig(
            cross_layers=3, cross_rank=None, deep=(400, 400, 400), dropout=0.2, batch_norm=True
        ),
        training=TRAINING,
        seed=seed,
    ),
    "dlrm": lambda seed: DLRM(
        32,
        config=DlrmConfig(top=(400, 400, 400), dropout=0.2, batch_norm=True),
        training=TRAINING,
        seed=seed,
    ),
}
REQUIRED = {"dcn": {"auc": 0.9825, "logloss": 0.160}, "dlrm": {"auc": 0.980}}
AIM = {"dcn": {"auc": 0.9845, "logloss": 0.148}, "dlrm": {"auc": 0.984}}


def measure(name: str, parts: dict[str, CtrExamples], seed: int) -> SeedRun:
    """Train one model and measure it on the test rows."""
    model = MODELS[name](seed)
    train, test = parts["train"], parts["test"]
    begin, seen = time.perf_counter(), [0]

    def show(done: int, total: int, note: str) -> None:
        if done * model.training.epochs // total > seen[0]:
            seen[0] = done * model.training.epochs // total
            print(f"  {note}, {time.perf_counter() - begin:.0f} s", flush=True)

    model.fit(train, validation=parts["validation"], report=show)
    seconds = time.perf_counter() - begin
    scale, bias = model.net.calibration[0].tolist()
    labels = np.empty(0) if test.labels is None else test.labels[:, 0]
    found = calibration_report(model.logits(test)[:, 0], labels, scale, bias)
    names = ("auc", "logloss", "ece", "logloss_before", "ece_before")
    return SeedRun(
        seed=seed,
        metrics={name: found[name] for name in names},
        epochs=len(model.epochs),
        best_epoch=model.best_epoch + 1,
        seconds=seconds,
        samples_per_second=len(train) * len(model.epochs) / seconds,
        more={"epochs": model.epochs, "validation": model.validation},
    )


def run() -> None:
    own = parser("frappe")
    own.add_argument("--model", choices=["dcn", "dlrm", "both"], default="both")
    own.add_argument("--threads", type=int, default=0, help="0 leaves torch's own choice")
    given = own.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    parts = {name: read(name) for name in FILES}
    for name in ("dcn", "dlrm") if given.model == "both" else (given.model,):
        model = MODELS[name](0)
        benchmark = Benchmark(
            name=f"frappe_{name}",
            data=DATA,
            protocol=PROTOCOL,
            published=PUBLISHED,
            required=REQUIRED[name],
            aim=AIM[name],
        )
        config = {
            "embedding_dim": model.embedding_dim,
            "model": asdict(model.config),
            "training": asdict(model.training),
        }
        main(benchmark, lambda seed, name=name: measure(name, parts, seed), config, arguments=given)


if __name__ == "__main__":
    run()
