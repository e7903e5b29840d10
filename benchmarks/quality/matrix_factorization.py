"""Matrix factorization on the NCF split of MovieLens-1M.

Settings are those published for this split by Rendle et al. (RecSys 2022). The number of epochs is
chosen on the newest training item of 2,000 users; then the model is trained anew on the whole
training part for so many, as the published runs are. Users are folded in from their training items.

    python benchmarks/quality/matrix_factorization.py [--loss bpr] [--seeds 0,1,2] [--out FOLDER]
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace

from harness import measure
from ncf_data import PROTOCOL, PUBLISHED, hold_out, read_ncf
from report import Benchmark, SeedRun, main, parser

from corerec.cf_engine import (
    BprFitConfig,
    IalsFitConfig,
    MatrixFactorization,
    MatrixFactorizationConfig,
)

VALIDATED = 2000
"""Users whose newest training item chooses the epoch; which ones, the seed says."""
SETTINGS = {
    "ials": (
        MatrixFactorizationConfig(k=192, regularisation=0.007, unobserved_weight=0.3),
        IalsFitConfig(epochs=20, patience=4),
    ),
    "bpr": (
        MatrixFactorizationConfig(k=64, loss="bpr", regularisation=0.01),
        BprFitConfig(epochs=60, patience=6),
    ),
}


def run(loss: str, seed: int) -> SeedRun:
    """Choose the epochs, train on the whole training part, and measure on the test part."""
    config, training = SETTINGS[loss]
    split = read_ncf()
    held = hold_out(split.train, seed, VALIDATED)

    def validate(model: MatrixFactorization) -> float:
        found = measure(model, held)
        print(f"validation hr@10 {found['hr@10']:.4f}, ndcg@10 {found['ndcg@10']:.4f}", flush=True)
        return found["ndcg@10"]

    chosen = MatrixFactorization(config=config, training=training, seed=seed)
    chosen.fit(held.train, validate=validate)
    epochs = chosen.best_epoch + 1
    start = time.perf_counter()
    model = MatrixFactorization(
        config=config, training=replace(training, epochs=epochs), seed=seed
    ).fit(split.train)
    seconds = time.perf_counter() - start
    return SeedRun(
        seed=seed,
        metrics=measure(model, split),
        epochs=len(chosen.history),
        best_epoch=epochs,
        seconds=seconds,
        samples_per_second=epochs * len(split.train) / seconds,
        more={"validation ndcg@10": chosen.history},
    )


if __name__ == "__main__":
    own = parser("matrix_factorization")
    own.add_argument("--loss", choices=list(SETTINGS), default="ials")
    arguments = own.parse_args()
    is_bpr = arguments.loss == "bpr"
    benchmark = Benchmark(
        name="matrix_factorization_bpr" if is_bpr else "matrix_factorization",
        data="ml-1m, NCF split",
        protocol=PROTOCOL,
        published=PUBLISHED,
        required=PUBLISHED["MF-BPR"] if is_bpr else {"hr@10": 0.710, "ndcg@10": 0.438},
        aim={} if is_bpr else {"hr@10": 0.731, "ndcg@10": 0.452},
    )
    shown = dict(zip(("model", "training"), map(asdict, SETTINGS[arguments.loss]), strict=True))
    main(benchmark, lambda seed: run(arguments.loss, seed), shown, arguments=arguments)
