"""Writes down what happened: the items of the final list with their moves, and why others left.

Only the final list costs Python objects; the rest is built when an explanation is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corerec.live.catalogue import LiveCatalogue
from corerec.rerank.choosing import NOTHING, Choice
from corerec.rerank.compiled import DAY_MICROS, CompiledRules
from corerec.rerank.scoring import STEPS, Scored
from corerec.stages import Candidates, Int64s, Move, RankedItem, RemovedItem, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One entry's whole way through the rules."""

    candidates: Candidates
    """The candidates as they came."""
    now: int
    """Moment of the request, microseconds since 1970; 0 is unknown."""
    k: int
    """Items asked for."""
    scored: Scored
    """Scores and blocks."""
    choice: Choice
    """What was chosen; its rows index `scored.order`."""
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
        indices = outcome.scored.order[outcome.choice.chosen]
        numbers = outcome.candidates.numbers[indices].tolist()
        moves = self._score_moves(outcome, indices, numbers)
        self._add_list_moves(outcome, numbers, moves)
        ranked = self._ranked(outcome, indices, numbers, moves)
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
        scored, choice, numbers = outcome.scored, outcome.choice, outcome.candidates.numbers
        gone = [self._blocked(number) for number in numbers[scored.blocked].tolist()]
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
        chosen = set(choice.chosen.tolist())
        last = int(choice.chosen[: choice.relaxed_from].max(initial=-1))
        for row in range(len(scored.order)):
            if row not in chosen:
                gone.append(self._left_out(outcome, row, last))
        return gone

    def _pin(self, outcome: Outcome, position: int, number: int) -> RankedItem:
        numbers = outcome.candidates.numbers
        found = np.flatnonzero(numbers == number)
        if len(found):
            index = int(found[0])
            note = f"pinned to position {position}; ranking had it at {index + 1}"
            pin = Move(rule="pin", score_change=0.0, note=note)
            moves = [pin, *self._score_moves(outcome, found, [number])[0]]
            return self._ranked(outcome, found, [number], [moves])[0]
        note = f"pinned to position {position}; it was not in the ranked list"
        return RankedItem(
            number=number,
            item_id=self._catalogue.ids[number],
            title=self._catalogue.titles[number],
            category=self._catalogue.categories[number],
            creator=self._catalogue.creators[number],
            score=0.0,
            rank_score=0.0,
            source=int(Source.PINNED),
            rank_position=0,
            moves=(Move(rule="pin", score_change=0.0, note=note),),
        )

    def _ranked(
        self, outcome: Outcome, indices: Int64s, numbers: list[int], moves: list[list[Move]]
    ) -> list[RankedItem]:
        """Return candidates as items; columns are read at once, which is faster than by value."""
        candidates, items = outcome.candidates, self._catalogue
        ids, titles = items.ids, items.titles
        categories, creators = items.categories, items.creators
        return [
            # By place: by name takes twice as long.
            RankedItem(
                number,
                ids[number],
                titles[number],
                categories[number],
                creators[number],
                score,
                rank_score,
                source,
                index + 1,
                tuple(what),
            )
            for index, what, number, score, rank_score, source in zip(
                indices.tolist(),
                moves,
                numbers,
                outcome.scored.scores[indices].tolist(),
                candidates.scores[indices].tolist(),
                candidates.sources[indices].tolist(),
                strict=True,
            )
        ]

    def _score_moves(
        self, outcome: Outcome, indices: Int64s, numbers: list[int]
    ) -> list[list[Move]]:
        """Return what freshness and boosts did to each of the candidates."""
        moves: list[list[Move]] = [[] for _ in numbers]
        if not self._steps:
            return moves
        scores = outcome.candidates.scores[indices].tolist()
        factors = outcome.scored.factors[indices].T.tolist()
        for step in self._steps:
            rule = STEPS[step][0]
            causes = self._causes(step, outcome.now, numbers)
            for place, (factor, cause) in enumerate(zip(factors[step], causes, strict=True)):
                score = scores[place]
                if factor != 1.0 and score != 0.0:
                    moved = scores[place] = score * factor if score > 0 else score / factor
                    moves[place].append(Move(rule, moved - score, f"{cause}: x {factor:.4g}"))
        return moves

    def _causes(self, step: int, now: int, numbers: list[int]) -> list[str]:
        """Return, in words, what of each item a step of STEPS looks at."""
        rule, kind = STEPS[step]
        if rule == "freshness":
            born = self._catalogue.born_micros[numbers].tolist()
            return [f"{max(now - own, 0) / DAY_MICROS:.1f} days old" for own in born]
        names = self._names(kind)
        return [f"{kind} {names[number]!r}" for number in numbers]

    def _add_list_moves(
        self, outcome: Outcome, numbers: list[int], moves: list[list[Move]]
    ) -> None:
        """Say how caps and diversity moved each chosen item against the order by score.

        Places count the items that are not pinned. An item is up by one for each better one that
        its cap kept out until then; what remains of its move is diversity's.
        """
        choice = outcome.choice
        near, likeness = choice.near.tolist(), choice.likeness.tolist()
        over = (choice.passed >= 0).nonzero()[0]
        passed = list(zip(over.tolist(), choice.passed[over].tolist(), strict=True))
        for place, row in enumerate(choice.chosen.tolist()):
            if place >= choice.relaxed_from:
                note = f"{self._full(outcome, row)}; back because the list was short (relax_caps)"
                moves[place].append(Move("cap", 0.0, note))
                continue
            by_caps = 0
            for other, at in passed:
                by_caps += other < row and at <= place
            if by_diversity := row - place - by_caps:
                cause = "nothing is above it"
                if (at := near[place]) != NOTHING:
                    # What above it, pins included, is most like it.
                    most = numbers[at] if at >= 0 else outcome.pinned[-2 - at][1]
                    cause = f"likeness to {self._label(most)!r} {likeness[place]:.2f}"
                note = f"{_direction(by_diversity)}: {cause}"
                moves[place].append(Move("diversity", 0.0, note))
            if by_caps:
                note = f"{_direction(by_caps)}: better ones were over their cap"
                moves[place].append(Move("cap", 0.0, note))

    def _number(self, outcome: Outcome, row: int) -> int:
        """Return the item number of a row of the order."""
        return int(outcome.candidates.numbers[outcome.scored.order[row]])

    def _left_out(self, outcome: Outcome, row: int, last: int) -> RemovedItem:
        """Name what kept a candidate out: a full cap, a less good but less alike one, or its place.

        `last` is the row of the lowest score that was chosen within the caps.
        """
        number = self._number(outcome, row)
        if outcome.choice.passed[row] >= 0:
            return RemovedItem(number=number, rule="cap", note=self._full(outcome, row))
        if row < last:
            note = f"place {row + 1} by score, but too like what is in the list"
            return RemovedItem(number=number, rule="diversity", note=note)
        note = f"place {row + 1} by score, {outcome.k} were asked for"
        return RemovedItem(number=number, rule="cut", note=note)

    def _full(self, outcome: Outcome, row: int) -> str:
        number = self._number(outcome, row)
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
