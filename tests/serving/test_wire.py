"""What crosses a wire comes out as it went in, and what no healthy peer sends is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from corerec.errors import InvalidArgument
from corerec.serving.contracts import RANK, RERANK, RETRIEVE, SEARCH
from corerec.serving.wire import (
    catalogue_item_from_proto,
    catalogue_item_to_proto,
    items_to_proto,
    predicates_from_proto,
    predicates_to_proto,
    timings_to_proto,
)
from corerec.serving.wire.ranking import write_rank_entry
from corerec.stages import (
    Move,
    Predicate,
    RankedItem,
    RankEntry,
    RemovedItem,
    RerankResult,
    RetrieveEntry,
    RetrieveResult,
    SearchEntry,
    SearchResult,
    Source,
    SourceList,
    UserContext,
)
from corerec.store.catalogue import Item
from corerec.v1 import catalog_pb2, common_pb2
from tests.serving.fakes import columns

WHERE = (
    Predicate(attribute="category", any_of=("Rugs", "Lamps"), none_of=("Old",)),
    Predicate(attribute="price", at_least=0.0, at_most=20.5),
)


def test_a_search_survives_the_wire() -> None:
    entry = SearchEntry(
        request_id="r",
        queries={"two_tower": np.arange(4, dtype=np.float32), "other": np.ones(2, np.float32)},
        k=7,
        excluded=np.array([5, 3]),
        history=np.array([9, 9, 1]),
        where=WHERE,
        now=12,
    )
    found = SEARCH.entry_from_proto(SEARCH.entry_to_proto(entry, 5))
    for name in ("two_tower", "other"):
        np.testing.assert_array_equal(found.queries[name], entry.queries[name])
    np.testing.assert_array_equal(found.excluded, entry.excluded)
    np.testing.assert_array_equal(found.history, entry.history)
    assert (found.k, found.where, found.now, found.request_id) == (7, WHERE, 12, "r")


def test_the_lists_of_a_shard_survive_the_wire() -> None:
    numbers, scores = np.array([4, 2]), np.array([0.5, 0.25], np.float32)
    lists = (
        SourceList(kind="a", numbers=numbers, scores=scores, totals=scores * 2),
        SourceList(kind="b", numbers=numbers[:0], scores=scores[:0], totals=scores[:0]),
    )
    result = SearchResult(lists=lists, timings={"a_search": 5}, position=77)
    found = SEARCH.result_from_proto(SEARCH.result_to_proto(result, result.timings))
    assert [own.kind for own in found.lists] == ["a", "b"]
    np.testing.assert_array_equal(found.lists[0].numbers, numbers)
    np.testing.assert_array_equal(found.lists[0].scores, scores)
    np.testing.assert_array_equal(found.lists[0].totals, scores * 2)
    assert len(found.lists[1].numbers) == 0
    assert (found.timings, found.position) == ({"a_search": 5}, 77)


def test_conditions_and_what_found_a_candidate_survive_the_wire() -> None:
    entry = RetrieveEntry(user=UserContext(), k=3, where=WHERE, explain=True)
    found = RETRIEVE.entry_from_proto(RETRIEVE.entry_to_proto(entry, 5))
    assert found.where == WHERE
    assert found.explain
    by = np.array([0.5, np.nan, 2.0], np.float32)
    result = RetrieveResult(
        candidates=columns(np.arange(3, dtype=np.int64), Source.TWO_TOWER),
        found_by={int(Source.FRESH): by},
        position=9,
    )
    back = RETRIEVE.result_from_proto(RETRIEVE.result_to_proto(result, {}))
    np.testing.assert_array_equal(back.found_by[Source.FRESH], by)
    assert back.position == 9


def test_a_final_list_survives_the_wire_and_goes_on_as_the_messages_that_came() -> None:
    items = [
        RankedItem(
            number=number,
            item_id=f"i{number}",
            title="T",
            category="c",
            creator="",
            score=0.5,
            rank_score=0.25,
            source=Source.PINNED,
            rank_position=place,
            moves=(Move(rule="pin", score_change=0.25, note="to 1"),) * place,
        )
        for place, number in enumerate((7, 2**40, 0))
    ]
    removed = [RemovedItem(number=3, rule="cap", note="two of a creator")]
    result = RerankResult(items=items, removed=removed, timings={"rules": 5, "record": 0})
    message = RERANK.result_to_proto(result, {"queue": 1, **result.timings})
    found = RERANK.result_from_proto(message)
    assert list(found.items) == items
    assert (found.items[-1], found.items[1:][0]) == (items[-1], items[1])
    assert found.removed == removed
    assert found.timings == {"queue": 1, "rules": 5, "record": 0}
    assert (found.timings["rules"], len(found.timings)) == (5, 3)
    again = items_to_proto(found.items)
    assert again == items_to_proto(items) == list(message.items)
    assert list(timings_to_proto(found.timings)) == list(message.timings)


@pytest.mark.parametrize("history", [0, 1, 5, 1000])
def test_a_request_of_ranking_survives_the_wire(history: int) -> None:
    user = UserContext(
        user_id="u" * (history % 2),
        attributes={"age": "25"} if history else {},
        items=np.arange(history),
        times=np.arange(history) * 10**6,
        now=history,
    )
    sent = columns(np.array([5, 2**33, 0]), Source.FRESH)
    entry = RankEntry(request_id="r", user=user, candidates=sent, k=2)
    found = RANK.entry_from_proto(RANK.entry_to_proto(entry, 5))
    assert (found.user.user_id, found.user.attributes) == (user.user_id, user.attributes)
    assert (found.user.now, found.request_id, found.k) == (history, "r", 2)
    np.testing.assert_array_equal(found.user.items, user.items)
    np.testing.assert_array_equal(found.user.times, user.times)
    for name in ("numbers", "scores", "sources"):
        np.testing.assert_array_equal(getattr(found.candidates, name), getattr(sent, name))
    message = RANK.request().entries.add()
    write_rank_entry(message, entry, 5, history=3)
    newest = message.user
    assert newest.history_count == min(history, 3)
    assert newest.history_item_numbers == user.items[-3:].astype("<i8").tobytes()
    assert newest.history_event_times_micros == user.times[-3:].astype("<i8").tobytes()


def test_an_item_survives_the_wire_and_is_born_now_unless_it_says_otherwise() -> None:
    item = Item(
        item_id="a",
        title="t",
        category="c",
        creator="m",
        born_micros=5,
        attributes={"price": "3.5"},
        lists={"tags": ("x", "y")},
        vectors={"text": np.array([1.5, -2.0], np.float32)},
    )
    found = catalogue_item_from_proto(catalogue_item_to_proto(item), now=99)
    np.testing.assert_array_equal(found.vectors["text"], item.vectors["text"])
    for name in ("item_id", "title", "category", "creator", "born_micros", "attributes", "lists"):
        assert getattr(found, name) == getattr(item, name)
    assert catalogue_item_from_proto(catalog_pb2.Item(item_id="b"), now=99).born_micros == 99


@pytest.mark.parametrize(
    ("predicates", "text"),
    [
        ([{"attribute": "", "any_of": ["a"]}], "where[0].attribute must have [1, 256] bytes"),
        ([{"attribute": "a"}], "where[0] must have any_of, none_of, at_least or at_most"),
        ([{"attribute": "a", "any_of": ["x"] * 1001}], "any_of must number at most 1000, got 1001"),
        ([{"attribute": "a", "none_of": ["x"] * 1001}], "none_of must number at most 1000"),
        ([{"attribute": "a", "any_of": ["x" * 257]}], "at most 256 bytes a value, got 257"),
        ([{"attribute": "a", "at_least": math.nan}], "where[0].at_least must be finite, got nan"),
        ([{"attribute": "a", "at_most": math.inf}], "where[0].at_most must be finite, got inf"),
        ([{"attribute": "a", "at_least": 2, "at_most": 1}], "at_least must be <= at_most"),
        ([{"attribute": "a", "at_most": 1}] * 17, "where must number at most 16, got 17"),
    ],
)
def test_a_condition_that_breaks_a_rule_is_refused(predicates: list[dict], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        predicates_from_proto([common_pb2.Predicate(**p) for p in predicates])
    assert text in str(caught.value)
    assert predicates_from_proto(predicates_to_proto(WHERE)) == WHERE


def search_message(**fields):
    base = SearchEntry(queries={"a": np.zeros(2, np.float32)}, k=1)
    message = SEARCH.entry_to_proto(base, 5)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def test_a_search_that_breaks_a_rule_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="excluded_item_numbers must be int64, at most 1000"):
        SEARCH.entry_from_proto(search_message(excluded_item_numbers=b"abc"))
    with pytest.raises(InvalidArgument, match="history_item_numbers must be int64"):
        SEARCH.entry_from_proto(search_message(history_item_numbers=b"\0" * 8 * 1001))
    message = search_message()
    message.queries[0].vector = np.array([np.nan], "<f4").tobytes()
    with pytest.raises(InvalidArgument, match="query of 'a' must be finite"):
        SEARCH.entry_from_proto(message)
    message = search_message()
    message.queries.add(kind="a")
    with pytest.raises(InvalidArgument, match="queries must differ in kind"):
        SEARCH.entry_from_proto(message)


def test_a_list_with_a_double_or_an_infinite_score_is_refused() -> None:
    for numbers, scores, text in (
        ([1, 1], [1.0, 0.5], "must differ"),
        ([1, 2], [np.inf, 0.5], "must be finite"),
        ([-1, 2], [1.0, 0.5], "must be >= 0"),
    ):
        own = SourceList(
            kind="a",
            numbers=np.array(numbers),
            scores=np.array(scores, np.float32),
            totals=np.zeros(2, np.float32),
        )
        message = SEARCH.result_to_proto(SearchResult(lists=(own,)), {})
        with pytest.raises(InvalidArgument, match=text):
            SEARCH.result_from_proto(message)
