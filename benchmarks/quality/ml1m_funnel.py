"""Trains the whole funnel on MovieLens-1M: three sources, DCN, rerank; leave-one-out, full ranking.

Protocol: the order of ml-1m.txt, each user's last item is the question, the one before it stops
training and weighs the sources; all items are ranked, seen ones left out. Published beside it:
Klenitskiy and Vasilev, RecSys 2023.

    python benchmarks/quality/ml1m_funnel.py [--seeds 0,1,2] [--work FOLDER]

With --work a run that was stopped goes on from the checkpoints there.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from ml1m_data import ITEMS, USERS, shared_data, write_ml1m
from report import Benchmark, SeedRun, main, parser
from rich.console import Console

from corerec.data.dataset import load_dataset
from corerec.engines.bert4rec_config import BERT4RecConfig, BERT4RecFitConfig
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.progress import Steps
from corerec.pipelines.report import print_metrics
from corerec.pipelines.train import finish_release, read_metrics, train_funnel

BENCHMARK = Benchmark(
    name="ml1m_funnel",
    data="ml-1m.txt of SASRec and BERT4Rec",
    protocol=f"leave-one-out, {ITEMS} items ranked by the served funnel, seen filtered",
    published={
        "POP": {"hr@10": 0.0363, "ndcg@10": 0.0178},
        "SASRec": {"hr@10": 0.2500, "ndcg@10": 0.1341},
        "BERT4Rec": {"hr@10": 0.2843, "ndcg@10": 0.1537},
        "SASRec+CE": {"hr@10": 0.3152, "ndcg@10": 0.1821},
    },
    required={"ndcg@10": 0.155},
    aim={"ndcg@10": 0.182},
)
LISTS = ("ranked_list", "retrieval_alone", "popularity")


def config(seed: int, threads: int, sources: tuple[str, ...]) -> TrainConfig:
    """Return the training that the benchmark is about."""
    own = replace(TrainConfig.quality(), seed=seed, threads=threads, sources=sources)
    return replace(
        own,
        two_tower_fit=replace(own.two_tower_fit, epochs=4),
        bert4rec=BERT4RecConfig(hidden=128, max_len=100, dropout=0.1),
        bert4rec_fit=BERT4RecFitConfig(
            epochs=3, batch_sequences=16, learning_rate=2e-3, last_share=0.9, last_events=50
        ),
        matrix_factorization=replace(own.matrix_factorization, k=64),
        evaluation=replace(own.evaluation, cases=USERS, tower_cases=USERS),
    )


def run(data: Path, work: Path, chosen: TrainConfig) -> SeedRun:
    """Train one seed, write its release, and return what the release's metrics say."""
    console = Console()
    steps = Steps(console)
    dataset = load_dataset(data)
    folder = work / f"seed{chosen.seed}"
    trained = train_funnel(dataset, chosen, work=folder, steps=steps)
    path = finish_release(trained, folder / "releases", work=folder, steps=steps)
    metrics = dict(read_metrics(path))
    print_metrics(console, metrics, steps.costs)
    learned = metrics["sources"]
    ranking = ("Mine hard negatives", "Train ranker")
    seconds = sum(own["seconds"] for own in learned.values())
    seconds += sum(cost.seconds for cost in steps.costs if cost.name in ranking)
    events = len(trained.parts.events.sequences())
    epochs = sum(len(own["epochs"]) for own in learned.values())
    ranker = metrics["ranker_fit"]
    return SeedRun(
        seed=chosen.seed,
        metrics={
            "hr@10": metrics["funnel"]["recall@10"],
            "ndcg@10": metrics["funnel"]["ndcg@10"],
            **{f"{name}_ndcg@10": metrics[name]["ndcg@10"] for name in LISTS},
            "recall@500": metrics["retrieval"]["recall@500"],
            **{f"{kind}_recall@500": own["recall@500"] for kind, own in learned.items()},
        },
        epochs=len(ranker["epochs"]),
        best_epoch=ranker["best_epoch"] + 1,
        seconds=seconds,
        samples_per_second=events * epochs / seconds,
        more=metrics,
    )


if __name__ == "__main__":
    arguments = parser(BENCHMARK.name)
    arguments.add_argument("--threads", type=int, default=0, help="of the CPU; 0 is all")
    arguments.add_argument("--sources", default="two_tower,bert4rec,matrix_factorization")
    arguments.add_argument("--work", type=Path, help="keep data, checkpoints and releases here")
    given = arguments.parse_args()
    if not (shared_data() / "ml-1m").is_dir():
        raise SystemExit(
            f"{shared_data()}/ml-1m is not there; set COREREC_SHARED_DATA to its folder"
        )
    sources = tuple(given.sources.split(","))
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        if not (work / "data").is_dir():
            write_ml1m(work / "data")
        main(
            BENCHMARK,
            lambda seed: run(work / "data", work, config(seed, given.threads, sources)),
            config(0, given.threads, sources),
            arguments=given,
        )
