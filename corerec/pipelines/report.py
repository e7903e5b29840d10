"""Prints what a training measured, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from corerec.pipelines.progress import StepCost
from corerec.ranking.gate import PrecisionReport

_LISTS = {
    "funnel": "funnel",
    "ranked_list": "without rerank",
    "retrieval_alone": "retrieval alone",
    "popularity": "popularity",
}
_LOST = {
    "not_retrieved": "not retrieved",
    "ranked_out": "ranked out",
    "reranked_out": "reranked out",
    "in_the_list": "in the list",
}


def print_metrics(
    console: Console,
    metrics: Mapping[str, Any],
    costs: Sequence[StepCost] = (),
    precision: PrecisionReport | None = None,
) -> None:
    """Print lists against popularity, stages, where the right item was lost, and the costs.

    And the ranker's precisions, where the gate measured them.
    """
    console.print(_lists(metrics))
    console.print(_stages(metrics))
    console.print(_lost(metrics))
    if precision is not None:
        console.print(_precisions(precision))
    if costs:
        console.print(_costs(costs))


def _lists(metrics: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"Lists of 10, {metrics['cases']} test cases", title_justify="left", min_width=36
    )
    for name in ("", "Recall@10", "NDCG@10", "coverage", "novelty, bits"):
        table.add_column(name, justify="left" if not name else "right")
    for key, name in _LISTS.items():
        own = metrics[key]
        table.add_row(
            name,
            f"{own['recall@10']:.4f}",
            f"{own['ndcg@10']:.4f}",
            f"{own['coverage']:.1%}",
            f"{own['novelty_bits']:.1f}",
        )
    return table


def _stages(metrics: Mapping[str, Any]) -> Table:
    table = Table(title="Stages", title_justify="left", min_width=36)
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("beside it", justify="right")
    for k in (100, 500):
        own, other = metrics["retrieval"], metrics["popularity"]
        table.add_row(
            f"retrieval Recall@{k}",
            f"{own[f'recall@{k}']:.4f}",
            f"popularity {other[f'recall@{k}']:.4f}",
        )
    for kind, own in metrics["sources"].items():
        table.add_row(f"{kind} Recall@500", f"{own['recall@500']:.4f}", "alone")
    ranker = metrics["ranker"]
    if "auc" in ranker:
        table.add_row(
            "ranker AUC", f"{ranker['auc']:.4f}", f"popularity {ranker['auc_popularity']:.4f}"
        )
    if "logloss" in ranker:
        table.add_row(
            "ranker logloss",
            f"{ranker['logloss']:.4f}",
            f"knowing nothing {ranker['logloss_constant']:.4f}",
        )
    return table


def _lost(metrics: Mapping[str, Any]) -> Table:
    table = Table(title="Where the right item was lost", title_justify="left", min_width=36)
    table.add_column("")
    table.add_column("cases", justify="right")
    for key, name in _LOST.items():
        table.add_row(name, f"{metrics['lost'][key]:.1%}")
    return table


def _precisions(report: PrecisionReport) -> Table:
    table = Table(
        title=f"Precisions of the ranker, {report.cases} validation cases",
        title_justify="left",
        min_width=36,
    )
    for name in ("", "pairs/s a core", "deviation", "NDCG@10", "expected", "same 100", ""):
        table.add_column(name, justify="right" if name else "left")
    for name, own in report.measured.items():
        verdict = "allowed" if own.allowed else "refused"
        figures = [
            f"{own.max_score_deviation:.4f}",
            f"{own.ndcg_change:+.2%} ± {own.ndcg_error:.2%}",
            f"{own.expected_ndcg_change:+.3%}",
            f"{own.rank_overlap:.1%}",
        ]
        table.add_row(
            name,
            f"{own.pairs_per_second:,.0f}",
            *(figures if name != "fp32" else ["exact", "", "", ""]),
            "fastest" if name == report.recommended else verdict,
        )
    return table


def _costs(costs: Sequence[StepCost]) -> Table:
    table = Table(title="Cost of each step", title_justify="left", min_width=36)
    table.add_column("")
    table.add_column("seconds", justify="right")
    table.add_column("peak MiB so far", justify="right")
    for cost in costs:
        table.add_row(cost.name, f"{cost.seconds:.1f}", f"{cost.peak_mib:.0f}")
    table.add_row("all", f"{sum(c.seconds for c in costs):.1f}", "", style="bold")
    return table
