"""Chooses the index of a catalogue: kinds on a part of it, the best of them on all of it.

Kinds that cannot fit the memory by arithmetic are left out. Each other kind is built over a part of
the catalogue and swept over its search parameters. Those that are not much slower than the fastest
there are built over everything, and the best of them with fewer and with more lists.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from corerec.errors import InvalidArgument
from corerec.retrieval.choose.frontier import cheapest, frontier, nearest
from corerec.retrieval.choose.measure import Report, Sample, build, sweep
from corerec.retrieval.choose.plans import PARTS, Plan, plans_for, predicted_bytes
from corerec.retrieval.choose.size import format_size
from corerec.retrieval.choose.target import Target
from corerec.retrieval.choose.trial import Trial
from corerec.retrieval.choose.truth import exact_best
from corerec.retrieval.choose.work import Work, identity_of
from corerec.retrieval.stores import Metric, VectorStore
from corerec.retrieval.stores.base import check_finite
from corerec.stages import Float32s

QUERIES = 1000
"""Most queries that recall is measured on."""
_KEPT = 3
"""Most kinds that are built over everything before more lists and fewer are tried."""


def _silent(step: str, done: int, total: int) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen and everything that was measured on the whole catalogue."""

    target: Target
    metric: Metric
    chosen: Trial | None
    """The fastest that reaches the target; None where nothing does."""
    nearest: Trial | None
    """What came nearest where nothing does; the chosen one otherwise."""
    trials: list[Trial]
    frontier: list[Trial]
    """Trials that no other beats in recall, speed and bytes at once, the fastest first."""
    pilot: list[Trial]
    """Trials on a part of the catalogue, which said which kinds to build."""
    left_out: dict[str, str]
    """Name of a plan and why it was not built."""
    store: VectorStore | None = field(repr=False)
    """The chosen index, tuned; None where nothing reaches the target."""


def choose_index(
    vectors: Float32s,
    queries: Float32s,
    target: Target | None = None,
    *,
    metric: Metric = "ip",
    work: Path,
    plans: Sequence[str] | None = None,
    report: Report = _silent,
) -> Choice:
    """Return the fastest index that reaches the target on the queries, and how all others did.

    What is finished is kept in `work`; the same call after a stop goes on from there. `plans` are
    kinds to try, such as "ivf-pq-refine"; all where not given.

    Shapes: vectors (N, D) float32 by item number, perhaps a memory-map; queries (Q, D) float32,
    real ones that the model was not trained on, at most 1,000 of which are used.

    Raises:
        InvalidArgument: for a wrong shape, NaN, Inf, an empty catalogue or no queries.
        FailedPrecondition: when `work` holds trials of something else.
    """
    target = target or Target()
    _check(vectors, queries)
    if len(queries) > QUERIES:
        rows = np.random.default_rng(target.seed).choice(len(queries), QUERIES, replace=False)
        queries = queries[np.sort(rows)]
    queries = np.ascontiguousarray(queries)
    digest = identity_of(vectors, queries, target, metric, platform.node())
    chooser = _Chooser(vectors, queries, target, metric, Work(work, digest), plans, report)
    return chooser.run()


def _check(vectors: Float32s, queries: Float32s) -> None:
    for name, rows in (("vectors", vectors), ("queries", queries)):
        if rows.ndim != 2 or rows.dtype != np.float32 or not len(rows):
            raise InvalidArgument(
                f"{name} must be float32 of shape (n, D), n > 0, got {rows.dtype} {rows.shape}"
            )
    if vectors.shape[1] != queries.shape[1]:
        raise InvalidArgument(
            f"vectors and queries must have one width, got {vectors.shape[1]} "
            f"and {queries.shape[1]}"
        )
    check_finite(queries, "queries")
    for start in range(0, len(vectors), 1 << 18):
        check_finite(np.asarray(vectors[start : start + (1 << 18)]), "vectors")


class _Chooser:
    def __init__(
        self,
        vectors: Float32s,
        queries: Float32s,
        target: Target,
        metric: Metric,
        work: Work,
        kinds: Sequence[str] | None,
        report: Report,
    ) -> None:
        self.vectors, self.queries, self.target, self.metric = vectors, queries, target, metric
        self.work, self.kinds, self.report = work, kinds, report
        self.trials: list[Trial] = []
        self.pilot: list[Trial] = []
        self.left_out: dict[str, str] = {}
        self._sample: Sample | None = None
        self._best: tuple[str, VectorStore] | None = None

    def run(self) -> Choice:
        """Return the choice."""
        count = len(self.vectors)
        plans = self._fitting(1.0)
        order = self._piloted(plans) if count > self.target.pilot else plans
        best = None
        for place, plan in enumerate(order):
            self._try(plan)
            best = cheapest(self.trials, self.target)
            # Slower kinds have their turn only when the faster ones do not reach the target.
            if count > self.target.pilot and place + 1 >= _KEPT and best is not None:
                break
        for plan in order[place + 1 :]:
            self.left_out.setdefault(plan.name, "slower on a part of the catalogue")
        for part in PARTS[1:]:
            leader = best or nearest(self.trials, self.target)
            if leader is None or not leader.spec.is_lists:
                break
            for plan in self._fitting(part):
                if _same_codes(plan, leader) and plan.spec.nlist != leader.spec.nlist:
                    self._try(plan)
        return self._choice()

    def _choice(self) -> Choice:
        chosen = cheapest(self.trials, self.target)
        store = None
        if chosen is not None:
            store = self._store(chosen)
            tuned = {"nprobe": chosen.spec.nprobe} if chosen.spec.is_lists else {}
            if chosen.spec.kind == "hnsw":
                tuned = {"ef_search": chosen.spec.ef_search}
            store.tune(**tuned, refine_factor=chosen.spec.refine_factor)
        return Choice(
            target=self.target,
            metric=self.metric,
            chosen=chosen,
            nearest=chosen or nearest(self.trials, self.target),
            trials=self.trials,
            frontier=frontier(self.trials, self.target),
            pilot=self.pilot,
            left_out=self.left_out,
            store=store,
        )

    def _fitting(self, part: float) -> list[Plan]:
        """Return the plans of wanted kinds that fit the memory by arithmetic."""
        count, dim = self.vectors.shape
        found = []
        for plan in plans_for(count, dim, part):
            if self.kinds is not None and plan.spec.kind not in self.kinds:
                continue
            needed = predicted_bytes(plan.spec, count, dim)
            if self.target.memory is not None and needed > self.target.memory:
                self.left_out[plan.name] = (
                    f"needs about {format_size(needed)} of {format_size(self.target.memory)}"
                )
                continue
            found.append(plan)
        if not found and part == 1.0:
            reasons = "; ".join(f"{name} {why}" for name, why in self.left_out.items())
            raise InvalidArgument(
                f"no kind fits: {reasons or f'kinds must be known, got {self.kinds}'}"
            )
        return found

    def _piloted(self, plans: Sequence[Plan]) -> list[Plan]:
        """Return the plans by their cost on a part of the catalogue, those too slow left out."""
        rng = np.random.default_rng([self.target.seed, 1])
        rows = np.sort(rng.choice(len(self.vectors), self.target.pilot, replace=False))
        part = np.ascontiguousarray(self.vectors[rows])
        # As many of the part as of the whole, so that a search goes about as deep.
        target = replace(self.target, memory=None)
        sample = self._sampled(part, "pilot", target.at)
        dim, small = part.shape[1], {}
        for plan in plans_for(len(part), dim):
            small[_codes(plan)] = plan
        costs: dict[str, float] = {}
        for plan in plans:
            own = small[_codes(plan)]
            trials = self._swept(own, sample, f"pilot-{own.name}", target)
            self.pilot += trials
            best = cheapest(trials, target)
            costs[plan.name] = best.cost(target) if best is not None else float("inf")
        fastest = min(costs.values())
        order = sorted(plans, key=lambda plan: costs[plan.name])
        kept = [p for p in order if costs[p.name] <= self.target.slower * fastest]
        for plan in order:
            if plan not in kept:
                self.left_out[plan.name] = _why(costs[plan.name], fastest)
        return kept

    def _try(self, plan: Plan) -> None:
        """Measure a plan over everything, and keep its index when it is the best so far."""
        if self._sample is None:
            self._sample = self._sampled(self.vectors, "truth", self.target.at)
        trials = self._swept(plan, self._sample, plan.name, self.target, keep=True)
        self.trials += trials

    def _sampled(self, vectors: Float32s, name: str, at: int) -> Sample:
        truth = self.work.truth(name)
        if truth is None:
            self.report(f"exact answers, {len(vectors):,} items", 0, 1)
            truth = exact_best(vectors, self.queries, at, self.metric)
            self.work.keep_truth(name, truth)
            self.report(f"exact answers, {len(vectors):,} items", 1, 1)
        return Sample(vectors=vectors, queries=self.queries, truth=truth, metric=self.metric)

    def _swept(
        self, plan: Plan, sample: Sample, name: str, target: Target, *, keep: bool = False
    ) -> list[Trial]:
        known = self.work.trials(name)
        if known is not None:
            return known
        store, seconds = build(plan, sample, target, self.report)
        self.report(f"measure {plan.name}", 0, 1)
        trials = sweep(plan, store, sample, target, seconds)
        self.report(f"measure {plan.name}", 1, 1)
        if keep:
            chosen = cheapest([*self.trials, *trials], self.target)
            if chosen is not None and chosen.plan == plan.name:
                self.work.keep_store(plan.name, store)
                self._best = (plan.name, store)
        self.work.keep(name, trials)
        return trials

    def _store(self, chosen: Trial) -> VectorStore:
        if self._best is not None and self._best[0] == chosen.plan:
            return self._best[1]
        store = self.work.store(chosen.plan, self.vectors)
        if store is not None:
            return store
        for part in PARTS:
            for plan in self._fitting(part):
                if plan.name == chosen.plan:
                    assert self._sample is not None
                    return build(plan, self._sample, self.target, self.report)[0]
        raise AssertionError(f"a plan of the trials must be known, got {chosen.plan}")


def _codes(plan: Plan) -> tuple[str, int, int]:
    """Return what makes two plans one kind, whatever the number of lists."""
    return plan.spec.kind, plan.spec.pq_m, plan.spec.m


def _same_codes(plan: Plan, trial: Trial) -> bool:
    return plan.spec.kind == trial.spec.kind and (
        plan.spec.kind != "ivf-pq-refine" or plan.spec.pq_m == trial.spec.pq_m
    )


def _why(cost: float, fastest: float) -> str:
    if cost == float("inf"):
        return "does not reach the recall on a part of the catalogue"
    return f"{cost / fastest:.1f} times slower on a part of the catalogue"
