"""Writes down what happened: the items of the final list with their moves, and why others left.

Only the final list costs Python objects; the rest is built when an explanation is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corerec.live.catalogue import LiveCatalogue
from corerec.rerank.compiled import DAY_MICROS, CompiledRules
from corerec.rerank.mmr import Selection
from corerec.rerank.scored import Scored, Step
from corerec.stages import Move, RankedItem, RemovedItem, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One entry's whole way through the rules."""

    scored: Scored
    """Scores, blocks and pins."""
    selection: Selection
    """What was chosen; its rows index `scored.order`."""
    vectors: NDArray[np.float32] | None
    """Vectors in the order of `scored.order`, when diversity was on."""
    k: int
    """Items asked for."""
    pinned: tuple[tuple[int, int], ...]
    """The pins that are in the list, (position asked for, item number)."""


class Recorder:
    """Builds the records of one catalogue and one set of rules."""

    def __init__(self, catalogue: LiveCatalogue, compiled: CompiledRules) -> None:
        self._catalogue, self._compiled = catalogue, compiled

    def items(self, outcome: Outcome) -> list[RankedItem]:
        """Return the final list: pins at their positions, the chosen ones around them."""
        indices = outcome.scored.order[outcome.selection.chosen].tolist()
        moves = self._score_moves(outcome.scored, indices)
        for place, more in enumerate(self._list_moves(outcome)):
            moves[place] += more
        free = iter(self._ranked(outcome, indices, moves))
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
        scored, numbers = outcome.scored, outcome.scored.candidates.numbers
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
            for position, number in scored.pins
            if position > outcome.k
        ]
        chosen = set(outcome.selection.chosen)
        kept = outcome.selection.chosen[: outcome.selection.relaxed_from]
        last = max(kept, default=-1)
        for row in range(len(scored.order)):
            if row not in chosen:
                gone.append(self._left_out(outcome, row, last))
        return gone

    def _pin(self, outcome: Outcome, position: int, number: int) -> RankedItem:
        numbers = outcome.scored.candidates.numbers
        found = np.flatnonzero(numbers == number)
        if len(found):
            index = int(found[0])
            note = f"pinned to position {position}; ranking had it at {index + 1}"
            pin = Move(rule="pin", score_change=0.0, note=note)
            moves = [pin, *self._score_moves(outcome.scored, [index])[0]]
            return self._ranked(outcome, [index], [moves])[0]
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
        self, outcome: Outcome, indices: list[int], moves: list[list[Move]]
    ) -> list[RankedItem]:
        """Return candidates as items; columns are read at once, which is faster than by value."""
        candidates, items = outcome.scored.candidates, self._catalogue
        return [
            RankedItem(
                number=number,
                item_id=items.ids[number],
                title=items.titles[number],
                category=items.categories[number],
                creator=items.creators[number],
                score=score,
                rank_score=rank_score,
                source=source,
                rank_position=index + 1,
                moves=tuple(what),
            )
            for index, what, number, score, rank_score, source in zip(
                indices,
                moves,
                candidates.numbers[indices].tolist(),
                outcome.scored.scores[indices].tolist(),
                candidates.scores[indices].tolist(),
                candidates.sources[indices].tolist(),
                strict=True,
            )
        ]

    def _score_moves(self, scored: Scored, indices: list[int]) -> list[list[Move]]:
        """Return what freshness and boosts did to each of the candidates."""
        moves: list[list[Move]] = [[] for _ in indices]
        for step in scored.steps:
            changes, factors = step.changes[indices].tolist(), step.factors[indices].tolist()
            for place, change in enumerate(changes):
                if change != 0.0:
                    number = int(scored.candidates.numbers[indices[place]])
                    note = f"{self._cause(step, scored.now, number)}: x {factors[place]:.4g}"
                    moves[place].append(Move(rule=step.rule, score_change=change, note=note))
        return moves

    def _cause(self, step: Step, now: int, number: int) -> str:
        if step.rule == "freshness":
            age = max(0, now - int(self._catalogue.born_micros[number]))
            return f"{age / DAY_MICROS:.1f} days old"
        return f"{step.kind} {self._name(step.kind, number)!r}"

    def _list_moves(self, outcome: Outcome) -> Iterator[list[Move]]:
        """Say how caps and diversity moved each chosen item against the order by score.

        Places count the items that are not pinned. An item is up by one for each better one that
        its cap kept out until then; what remains of its move is diversity's.
        """
        selection = outcome.selection
        likeness = None
        if outcome.vectors is not None:
            vectors = outcome.vectors[selection.chosen]
            likeness = vectors @ vectors.T
        for place, row in enumerate(selection.chosen):
            if place >= selection.relaxed_from:
                note = f"{self._full(outcome, row)}; back because the list was short (relax_caps)"
                yield [Move(rule="cap", score_change=0.0, note=note)]
                continue
            moves = []
            by_caps = 0
            if selection.passed:
                by_caps = sum(o < row and at <= place for o, at in selection.passed.items())
            if by_diversity := row - place - by_caps:
                note = f"{_direction(by_diversity)}: {self._nearest(outcome, likeness, place)}"
                moves.append(Move(rule="diversity", score_change=0.0, note=note))
            if by_caps:
                note = f"{_direction(by_caps)}: better ones were over their cap"
                moves.append(Move(rule="cap", score_change=0.0, note=note))
            yield moves

    def _nearest(self, outcome: Outcome, likeness: NDArray[np.float32] | None, place: int) -> str:
        """Say what above a chosen item is most like it."""
        if likeness is None or place == 0:
            return "nothing is above it"
        row = int(likeness[place, :place].argmax())
        index = outcome.scored.order[outcome.selection.chosen[row]]
        label = self._label(int(outcome.scored.candidates.numbers[index]))
        return f"likeness to {label!r} {likeness[place, row]:.2f}"

    def _left_out(self, outcome: Outcome, row: int, last: int) -> RemovedItem:
        """Name what kept a candidate out: a full cap, a less good but less alike one, or its place.

        `last` is the row of the lowest score that was chosen within the caps.
        """
        number = int(outcome.scored.candidates.numbers[outcome.scored.order[row]])
        if row in outcome.selection.passed:
            return RemovedItem(number=number, rule="cap", note=self._full(outcome, row))
        if row < last:
            note = f"place {row + 1} by score, but too like what is in the list"
            return RemovedItem(number=number, rule="diversity", note=note)
        note = f"place {row + 1} by score, {outcome.k} were asked for"
        return RemovedItem(number=number, rule="cut", note=note)

    def _full(self, outcome: Outcome, row: int) -> str:
        number = int(outcome.scored.candidates.numbers[outcome.scored.order[row]])
        caps = self._compiled.rules.caps
        parts = [
            f"{kind} {name!r} may have {cap}"
            for kind, cap in (("category", caps.per_category), ("creator", caps.per_creator))
            if cap and (name := self._name(kind, number))
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

    def _name(self, kind: str, number: int) -> str:
        names = self._catalogue.categories if kind == "category" else self._catalogue.creators
        return names[number]

    def _label(self, number: int) -> str:
        return self._catalogue.titles[number] or self._catalogue.ids[number]


def _direction(places: int) -> str:
    return f"{'up' if places > 0 else 'down'} {abs(places)}"
