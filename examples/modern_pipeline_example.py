"""The whole way in one file: two towers, an index, a sequence model, fusion, the funnel.

    python examples/modern_pipeline_example.py [--seed 0]

Makes a small shop, trains on it and prints what it finds; under five minutes on two cores, nothing
is downloaded, nothing stays behind. MODERN_RECSYS_GUIDE.md explains each step.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from corerec.cf_engine import MatrixFactorization
from corerec.data import Dataset, load_dataset
from corerec.data.generate import generate
from corerec.engines import DCN, BERT4Rec, TwoTower
from corerec.engines.bert4rec_config import BERT4RecConfig, BERT4RecFitConfig
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.evaluation.baselines import TopPop
from corerec.evaluation.ranked import full_ranking, scorer
from corerec.multimodal import STRATEGIES, HashedNgramEncoder, MultiModalFusion
from corerec.pipelines import RecommendationPipeline
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.progress import Steps
from corerec.retrieval.build import build_index
from corerec.retrieval.index import IndexConfig

console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    steps, begin = Steps(console), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        shop = make_shop(Path(folder) / "shop", seed, steps)
        train, test = leave_last_out(Sequences.of_dataset(shop))
        models = train_retrieval(shop, train, seed, steps)
        compare(shop, train, test, models)
        show_index(shop, train, models["two towers"])
        show_fusion(shop, seed)
        show_funnel(shop, seed, steps)
    console.print(f"\neverything in {time.perf_counter() - begin:.0f} s")


def make_shop(folder: Path, seed: int, steps: Steps) -> Dataset:
    """Return people, items and events in order of time, the same for the same seed."""
    console.rule("1. Data")
    with steps.step("Make a shop"):
        generate(folder, users=2_000, items=1_500, interactions=80_000, seed=seed)
    return load_dataset(folder)


def leave_last_out(events: Sequences) -> tuple[Sequences, Sequences]:
    """Return the events to learn from, and each user's newest one where it is a new item."""
    newest = np.zeros(len(events), bool)
    newest[events.offsets[1:][np.diff(events.offsets) > 1] - 1] = True
    pairs = events.users * events.item_count + events.items
    asked = newest & ~np.isin(pairs, pairs[~newest])

    def part(rows: np.ndarray[Any, Any]) -> Sequences:
        return Sequences.of(
            events.users[rows],
            events.items[rows],
            events.times[rows],
            user_count=events.user_count,
            item_count=events.item_count,
        )

    return part(~newest), part(asked)


def train_retrieval(shop: Dataset, train: Sequences, seed: int, steps: Steps) -> dict[str, Any]:
    """Return four fitted models that know users in different ways."""
    console.rule("2. Retrieval models")
    towers = TwoTower(64, training=TwoTowerFitConfig(epochs=5), seed=seed)
    bert = BERT4Rec(
        config=BERT4RecConfig(dim=32, hidden=64, max_len=40),
        training=BERT4RecFitConfig(epochs=5, learning_rate=4e-3),
        seed=seed,
    )
    factors = MatrixFactorization(k=50, seed=seed)
    with steps.step("Two towers") as report:
        towers.fit(shop, events=train, report=report)
    with steps.step("BERT4Rec") as report:
        bert.fit(train, report=report)
    with steps.step("Matrix factorization") as report:
        factors.fit(train, report=report)
    popular = TopPop().fit(train)
    return {
        "popularity": popular,
        "matrix factorization": factors,
        "BERT4Rec": bert,
        "two towers": towers,
    }


def compare(shop: Dataset, train: Sequences, test: Sequences, models: dict[str, Any]) -> None:
    """Show how often each model finds what a user took next, among all items."""
    table = Table("model", "HR@10", "NDCG@10", title="What came next, among all items")
    user_ids = shop.users["user_id"].to_list()
    for name, model in models.items():
        found = full_ranking(scorer(model, train, user_ids), test, train, ks=(10,))
        table.add_row(name, f"{found['hr@10']:.3f}", f"{found['ndcg@10']:.3f}")
    console.print(table)


def show_index(shop: Dataset, train: Sequences, towers: TwoTower) -> None:
    """Search an index of the item vectors, and compare it with exact search."""
    console.rule("3. Index")
    users = train.contexts(range(500), shop.users["user_id"].to_list())
    queries, vectors = towers.encode_users(users), towers.encode_items()
    # Lists pay from tens of thousands of items on; here they are only shown to work.
    lists = build_index(
        vectors, model_id=towers.model_id, config=IndexConfig(flat_below=0), queries=queries
    )
    begin = time.perf_counter()
    found, _ = lists.search(queries, 100)
    took = (time.perf_counter() - begin) / len(queries)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :100]
    share = np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])
    console.print(
        f"{lists.info.kind} index of {lists.count} items: recall@100 {share:.3f} of exact search, "
        f"{1e6 * took:.0f} microseconds a query"
    )


def show_fusion(shop: Dataset, seed: int) -> None:
    """Encode titles, fuse them with the image vectors, and show each strategy's weights."""
    console.rule("4. Content and fusion")
    titles = shop.items["title"].fill_null("").to_list()
    encoder = HashedNgramEncoder(64).fit(titles)
    text = torch.from_numpy(encoder.encode(titles))
    image = torch.from_numpy(np.array(shop.vectors["image"], np.float32))
    no_image = torch.arange(len(titles)) % 3 == 0  # as if a third had no picture yet
    noise = torch.Generator().manual_seed(seed)
    table = Table("strategy", "text", "image", "text, no image", title="Mean weights, untrained")
    for strategy in STRATEGIES:
        widths = {"text": text.shape[1], "image": image.shape[1]}
        fusion = MultiModalFusion(strategy, widths, dim=32, generator=noise)
        weights = fusion({"text": text, "image": image}, {"image": ~no_image}).weights
        both, alone = weights[~no_image].mean(0), weights[no_image].mean(0)
        table.add_row(strategy, f"{both[0]:.2f}", f"{both[1]:.2f}", f"{alone[0]:.2f}")
    console.print(table)


def show_funnel(shop: Dataset, seed: int, steps: Steps) -> None:
    """Train all three stages, and recommend for one user."""
    console.rule("5. The whole funnel")
    pipeline = RecommendationPipeline(seed=seed, config=TrainConfig.tiny())
    tower = TwoTower(
        config=TwoTowerConfig(dim=64, fusion="gated"), training=TwoTowerFitConfig(epochs=5)
    )
    pipeline.add_retriever(tower, share=0.7).add_retriever(MatrixFactorization(k=50))
    pipeline.set_ranker(DCN())
    pipeline.fit(shop, steps=steps)
    with steps.step("Measure the funnel"):
        metrics = pipeline.evaluate()
    for name in ("popularity", "retrieval_alone", "funnel"):
        console.print(f"{name:>16}  NDCG@10 {metrics[name]['ndcg@10']:.3f}")
    user = shop.users["user_id"][0]
    table = Table("item", "title", "score", "found by", title=f"For {user}")
    for item in pipeline.recommend(user, k=5):
        table.add_row(item.item_id, item.title, f"{item.score:.3f}", item.source)
    console.print(table)


if __name__ == "__main__":
    main()
