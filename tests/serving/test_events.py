"""RecordEvents: all or nothing, durable when acknowledged, visible to the next request."""

from __future__ import annotations

import grpc
import pytest

from corerec.v1 import recommender_pb2 as pb


async def test_recorded_events_are_seen_by_the_next_request(stub) -> None:
    before = await stub.Recommend(pb.RecommendRequest(user_id="fresh", page_size=100))
    best = before.items[0].item_id
    events = [pb.Event(user_id="fresh", item_id=best)]
    answer = await stub.RecordEvents(pb.RecordEventsRequest(events=events))
    assert answer.stored_count == 1
    after = await stub.Explain(
        pb.ExplainRequest(recommend=pb.RecommendRequest(user_id="fresh"), item_ids=[best])
    )
    assert after.history[0].item_id == best
    assert after.traces[0].removed_by == "seen"
    assert best not in [i.item_id for i in after.recommend.items]


async def test_an_event_id_makes_a_retry_safe(stub) -> None:
    request = pb.RecordEventsRequest(
        events=[pb.Event(user_id="u9", item_id="i1", event_id="e-1", event_time_micros=5)]
    )
    assert (await stub.RecordEvents(request)).stored_count == 1
    assert (await stub.RecordEvents(request)).stored_count == 0


@pytest.mark.parametrize(
    ("event", "code", "text"),
    [
        (pb.Event(user_id="", item_id="i1"), "INVALID_ARGUMENT", "events[1].user_id must have"),
        (pb.Event(user_id="u", item_id=""), "INVALID_ARGUMENT", "events[1].item_id must have"),
        (pb.Event(user_id="u", item_id="no"), "NOT_FOUND", "item 'no' is not in the catalogue"),
        (
            pb.Event(user_id="u", item_id="i1", event_time_micros=-1),
            "INVALID_ARGUMENT",
            "events[1].event_time_micros must be in [0,",
        ),
    ],
)
async def test_one_bad_event_stores_none(stub, event, code, text) -> None:
    good = pb.Event(user_id="whole", item_id="i7")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RecordEvents(pb.RecordEventsRequest(events=[good, event]))
    assert caught.value.code().name == code
    assert text in caught.value.details()
    answer = await stub.Explain(pb.ExplainRequest(recommend=pb.RecommendRequest(user_id="whole")))
    assert not answer.history


async def test_no_events_and_too_many_are_refused(stub) -> None:
    for count in (0, 1001):
        events = [pb.Event(user_id="u", item_id="i1")] * count
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RecordEvents(pb.RecordEventsRequest(events=events))
        assert f"events must number in [1, 1000], got {count}" in caught.value.details()
