"""Writes down what happened: the items of the final list with their moves, and why others left.

Only the final list costs Python objects; the rest is built when an explanation is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corerec.live.catalogue import LiveCatalogue
from corerec.rerank.applying import Applied
from corerec.rerank.choosing import NOTHING
from corerec.rerank.compiled import DAY_MICROS, CompiledRules
from corerec.rerank.scoring import STEPS
from corerec.stages import Candidates, Move, RankedItem, RemovedItem, Source

_new = tuple.__new__  # of a named tuple, in half the time of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One entry's whole way through the rules."""

    candidates: Candidates
    """The candidates as they came."""
    now: int
    """Moment of the request, microseconds since 1970; 0 is unknown."""
    k: int
    """Items asked for."""
    applied: Applied
    """What the rules did."""
    pins: tuple[tuple[int, int], ...]
    """(position asked for, item number) of the pins that are neither blocked nor deleted."""
    pinned: tuple[tuple[int, int], ...]
    """Those of them that are in the list."""


class Recorder:
    """Builds the records of one catalogue and one set of rules."""

    def __init__(self, catalogue: LiveCatalogue, compiled: CompiledRules) -> None:
        self._catalogue, self._compiled = catalogue, compiled
        rules = compiled.rules
        weighed = rules.freshness.weight, rules.boosts.categories, rules.boosts.creators
        self._steps = [step for step, own in enumerate(weighed) if own]  # of STEPS

    def items(self, outcome: Outcome) -> list[RankedItem]:
        """Return the final list: pins at their positions, the chosen ones around them."""
        ranked = self._ranked(outcome)
        if not outcome.pinned:
            return ranked
        free = iter(ranked)
        result: list[RankedItem] = []
        for position, number in outcome.pinned:
            # Where the list is shorter than the position, the pin follows the last item.
            while len(result) < position - 1 and (item := next(free, None)) is not None:
                result.append(item)
            result.append(self._pin(outcome, position, number))
        result.extend(free)
        return result

    def removed(self, outcome: Outcome) -> list[RemovedItem]:
        """Return every candidate and pin that is not in the list, each once, with the reason."""
        applied, numbers = outcome.applied, outcome.candidates.numbers
        gone = [self._blocked(number) for number in numbers[applied.blocked].tolist()]
        seen = set(numbers.tolist())
        gone += [
            self._blocked(number)
            for _, number in self._compiled.pins
            if number not in seen
            and (self._compiled.blocked[number] or self._catalogue.deleted[number])
        ]
        gone += [
            RemovedItem(
                number=number,
                rule="cut",
                note=f"pinned to position {position}, beyond the {outcome.k} asked for",
            )
            for position, number in outcome.pins
            if position > outcome.k
        ]
        chosen = set(applied.chosen.tolist())
        last = int(applied.chosen[: applied.relaxed_from].max(initial=-1))
        for row in range(len(applied.order)):
            if row not in chosen:
                gone.append(self._left_out(outcome, row, last))
        return gone

    def _pin(self, outcome: Outcome, position: int, number: int) -> RankedItem:
        numbers = outcome.candidates.numbers
        found = np.flatnonzero(numbers == number)
        if len(found):
            index = int(found[0])
            note = f"pinned to position {position}; ranking had it at {index + 1}"
            score, *factors = outcome.applied.weighed[:, index].tolist()
            ranked = float(outcome.candidates.scores[index])
            age = max(outcome.now - int(self._catalogue.born_micros[number]), 0)
            moves = [Move("pin", 0.0, note), *self._score_moves(number, ranked, factors, age)]
            source = int(outcome.candidates.sources[index])
            return self._item(number, score, ranked, source, index + 1, moves)
        note = f"pinned to position {position}; it was not in the ranked list"
        moves = [Move("pin", 0.0, note)]
        return self._item(number, 0.0, 0.0, int(Source.PINNED), 0, moves)

    def _ranked(self, outcome: Outcome) -> list[RankedItem]:
        """Return the chosen items; columns are read at once, which is faster than by value."""
        applied, sources = outcome.applied, outcome.candidates.sources.tobytes()
        ranked = []
        for place, (
            index,
            number,
            near,
            by_diversity,
            by_caps,
            age,
            score,
            rank_score,
            like,
            *factors,
        ) in enumerate(zip(*applied.items.tolist(), *applied.values.tolist(), strict=True)):
            moves = self._score_moves(number, rank_score, factors, age)
            if place >= applied.relaxed_from:
                over = self._full(number)
                note = f"{over}; back because the list was short (relax_caps)"
                moves.append(Move("cap", 0.0, note))
            elif by_diversity or by_caps:
                self._add_list_moves(moves, near, like, by_diversity, by_caps)
            ranked.append(self._item(number, score, rank_score, sources[index], index + 1, moves))
        return ranked

    def _item(
        self,
        number: int,
        score: float,
        rank_score: float,
        source: int,
        position: int,
        moves: list[Move],
    ) -> RankedItem:
        items = self._catalogue
        fields = (
            number,
            items.ids[number],
            items.titles[number],
            items.categories[number],
            items.creators[number],
            score,
            rank_score,
            source,
            position,
            tuple(moves),
        )
        return _new(RankedItem, fields)

    def _score_moves(self, number: int, score: float, factors: list[float], age: int) -> list[Move]:
        """Return what freshness and boosts did to an item's score by ranking."""
        moves: list[Move] = []
        for step in self._steps:
            factor = factors[step]
            if factor != 1.0 and score != 0.0:
                moved = score * factor if score > 0 else score / factor
                rule, kind = STEPS[step]
                # In words, what of the item the step looks at.
                cause = (
                    f"{kind} {self._names(kind)[number]!r}"
                    if kind
                    else f"{age / DAY_MICROS:.1f} days old"
                )
                moves.append(_new(Move, (rule, moved - score, f"{cause}: x {factor:.4g}")))
                score = moved
        return moves

    def _add_list_moves(
        self, moves: list[Move], near: int, likeness: float, by_diversity: int, by_caps: int
    ) -> None:
        """Say how caps and diversity moved a chosen item against the order by score.

        Places count the items that are not pinned. An item is up by one for each better one that
        its cap kept out until then; what remains of its move is diversity's.
        """
        if by_diversity:
            cause = "nothing is above it"
            if near != NOTHING:  # what above it, pins included, is most like it
                cause = f"likeness to {self._label(near)!r} {likeness:.2f}"
            moves.append(_new(Move, ("diversity", 0.0, f"{_direction(by_diversity)}: {cause}")))
        if by_caps:
            note = f"{_direction(by_caps)}: better ones were over their cap"
            moves.append(Move("cap", 0.0, note))

    def _number(self, outcome: Outcome, row: int) -> int:
        """Return the item number of a row of the order."""
        return int(outcome.candidates.numbers[outcome.applied.order[row]])

    def _left_out(self, outcome: Outcome, row: int, last: int) -> RemovedItem:
        """Name what kept a candidate out: a full cap, a less good but less alike one, or its place.

        `last` is the row of the lowest score that was chosen within the caps.
        """
        number = self._number(outcome, row)
        if outcome.applied.passed[row] >= 0:
            return RemovedItem(number=number, rule="cap", note=self._full(number))
        if row < last:
            note = f"place {row + 1} by score, but too like what is in the list"
            return RemovedItem(number=number, rule="diversity", note=note)
        note = f"place {row + 1} by score, {outcome.k} were asked for"
        return RemovedItem(number=number, rule="cut", note=note)

    def _full(self, number: int) -> str:
        caps = self._compiled.rules.caps
        parts = [
            f"{kind} {name!r} may have {cap}"
            for kind, cap in (("category", caps.per_category), ("creator", caps.per_creator))
            if cap and (name := self._names(kind)[number])
        ]
        return f"over its cap: {', '.join(parts)}"

    def _blocked(self, number: int) -> RemovedItem:
        block = self._compiled.rules.block
        if self._catalogue.deleted[number]:
            return RemovedItem(number=number, rule="deleted", note="the item was deleted")
        if self._catalogue.ids[number] in block.items:
            note = "the item is on the block list"
        elif (category := self._catalogue.categories[number]) in block.categories:
            note = f"category {category!r} is on the block list"
        else:
            note = f"creator {self._catalogue.creators[number]!r} is on the block list"
        return RemovedItem(number=number, rule="block", note=note)

    def _names(self, kind: str) -> list[str]:
        return self._catalogue.categories if kind == "category" else self._catalogue.creators

    def _label(self, number: int) -> str:
        return self._catalogue.titles[number] or self._catalogue.ids[number]


def _direction(places: int) -> str:
    return f"{'up' if places > 0 else 'down'} {abs(places)}"
