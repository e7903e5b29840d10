"""Asks a peer over gRPC and keeps the answers: are they the same, and where did their time go."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import grpc
from google.protobuf.json_format import ParseDict

from benchmarks.serving.load import connections
from corerec.v1 import recommender_pb2, recommender_pb2_grpc

TIMEOUT_SECONDS = 10.0
SCORE_TOLERANCE = 1e-5


class Answer(NamedTuple):
    """An answer and how long its caller waited."""

    micros: int
    response: recommender_pb2.RecommendResponse


def ask(
    address: str, requests: Sequence[dict[str, Any]], *, count: int, callers: int
) -> list[Answer]:
    """Return the answers to `count` requests, taken in turn, from callers that each wait."""
    return asyncio.run(_ask(address, requests, count, callers))


async def _ask(
    address: str, requests: Sequence[dict[str, Any]], count: int, callers: int
) -> list[Answer]:
    messages = [ParseDict(request, recommender_pb2.RecommendRequest()) for request in requests]
    answers: list[Answer | None] = [None] * count
    todo = iter(range(count))

    async def caller(stub: Any) -> None:
        for i in todo:
            started = time.monotonic()
            response = await stub.Recommend(messages[i % len(messages)], timeout=TIMEOUT_SECONDS)
            answers[i] = Answer(int((time.monotonic() - started) * 1e6), response)

    async with AsyncExitStack() as stack:
        stubs = []
        for _ in range(connections(callers)):
            # Without a pool of its own a channel shares its connection with the others.
            alone = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.insecure_channel(address, alone)
            await stack.enter_async_context(channel)
            await channel.channel_ready()
            stubs.append(recommender_pb2_grpc.RecommenderServiceStub(channel))
        await asyncio.gather(*(caller(stubs[i % len(stubs)]) for i in range(callers)))
    return [answer for answer in answers if answer is not None]


def check_same(peer: str, answers: Sequence[Answer], reference: Sequence[Answer]) -> None:
    """Raise SystemExit unless both gave the same items in the same order, with the same scores."""
    for mine, theirs in zip(answers, reference, strict=True):
        if mine.response.degraded:
            raise SystemExit(f"peer {peer} answered degraded while idle: {mine.response.degraded}")
        got = [(item.item_id, item.score) for item in mine.response.items]
        wanted = [(item.item_id, item.score) for item in theirs.response.items]
        same = len(got) == len(wanted) and all(
            a[0] == b[0] and math.isclose(a[1], b[1], rel_tol=SCORE_TOLERANCE, abs_tol=1e-6)
            for a, b in zip(got, wanted, strict=True)
        )
        if not same or not got:
            raise SystemExit(
                f"the comparison would not be fair: peer {peer} answered {got}, not {wanted}"
            )


def differences(answers: Sequence[Answer], reference: Sequence[Answer]) -> dict[str, float]:
    """Return how far lists of another precision are from the reference's.

    `same_items`: share of an answer's items that the reference's has too, mean; `same_first`: share
    of answers with the same first item; `score`: largest difference of an item's scores.
    """
    same, first, score = [], [], 0.0
    for mine, theirs in zip(answers, reference, strict=True):
        got = {item.item_id: item.score for item in mine.response.items}
        wanted = {item.item_id: item.score for item in theirs.response.items}
        common = got.keys() & wanted.keys()
        same.append(len(common) / max(len(wanted), 1))
        first.append(next(iter(got), None) == next(iter(wanted), None))
        score = max([score, *(abs(got[item] - wanted[item]) for item in common)])
    return {
        "same_items": round(sum(same) / len(same), 4),
        "same_first": round(sum(first) / len(first), 4),
        "score": round(score, 6),
    }
