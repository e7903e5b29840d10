"""Explain: by its own record no candidate is lost or doubled between stages."""

from __future__ import annotations

import grpc
import pytest

from corerec.v1 import recommender_pb2 as pb


async def explain(stub, user: str = "u1", items: tuple[str, ...] = (), **fields):
    inner = pb.RecommendRequest(user_id=user, **fields)
    return await stub.Explain(pb.ExplainRequest(recommend=inner, item_ids=items))


async def test_every_candidate_is_accounted_for_once(stub) -> None:
    answer = await explain(stub)
    numbers = [t.item_number for t in answer.traces]
    assert len(numbers) == len(set(numbers)) == 500
    assert sorted(t.retrieve_position for t in answer.traces) == list(range(1, 501))
    assert sorted(t.rank_position for t in answer.traces) == list(range(1, 501))
    final = sorted(t.final_position for t in answer.traces if t.final_position)
    assert final == list(range(1, 11))
    left = [t.removed_by for t in answer.traces]
    assert (left.count(""), left.count("ranked_out"), left.count("cut")) == (10, 400, 90)


async def test_explain_gives_the_list_that_recommend_gives(stub) -> None:
    listed = await stub.Recommend(pb.RecommendRequest(user_id="u1"))
    explained = (await explain(stub)).recommend
    assert [i.item_number for i in listed.items] == [i.item_number for i in explained.items]


async def test_items_asked_for_say_where_they_left(stub) -> None:
    answer = await explain(stub, items=("i519", "i0", "i999", "i20", "i450"))
    assert [t.removed_by for t in answer.traces] == [
        "",
        "seen",
        "not_retrieved",
        "ranked_out",
        "cut",
    ]
    assert answer.traces[0].final_position == 1
    assert answer.traces[3].note.startswith("ranked 500")


async def test_history_is_newest_first(stub) -> None:
    answer = await explain(stub)
    assert [h.item_id for h in answer.history] == [f"i{n}" for n in range(19, -1, -1)]
    assert answer.history[0].title == "Title 19"


async def test_without_ranking_the_record_still_adds_up(cluster, stub) -> None:
    cluster.endpoints["ranking"].set([])
    answer = await explain(stub)
    assert len(answer.traces) == 500
    assert sum(1 for t in answer.traces if t.final_position) == 10
    assert [t.removed_by for t in answer.traces].count("") == 10


async def test_an_unknown_item_is_not_found(stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await explain(stub, items=("no-such",))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "item 'no-such' is not in the catalogue"
