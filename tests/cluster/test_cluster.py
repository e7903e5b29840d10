"""The real cluster on Ray Serve: answers, consistency with the library, a killed replica."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from corerec.client import Client, Event
from corerec.ranking.core import RankingCore
from corerec.release import Release
from corerec.retrieval import RetrievalCore
from corerec.stages import RankEntry, RetrieveEntry, UserContext
from corerec.store import SqliteStore
from tests.cluster.running import Loader, corerec, state_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def address(cluster: Path) -> str:
    return str(state_of(cluster)["address"])


def test_the_whole_funnel_answers(cluster: Path) -> None:
    with Client(address(cluster), timeout=5) as client:
        answer = client.recommend("u000007")
    assert len({i.item_id for i in answer.items}) == 10
    assert [s.name for s in answer.stages] == ["profile", "retrieve", "rank", "rerank"]
    assert not answer.degraded
    assert answer.coverage == 1.0
    assert answer.release == state_of(cluster)["release"]
    assert all(i.title and i.category for i in answer.items)


def test_replicas_inherit_that_they_read_their_own_sockets(cluster: Path) -> None:
    pids = [r["pid"] for own in state_of(cluster)["replicas"].values() for r in own]
    assert len(pids) > 4
    for pid in pids:
        told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert b"GRPC_EXPERIMENTS=-event_engine_client,-event_engine_listener" in told


def test_on_shared_cores_the_gateway_comes_first_and_ranking_before_others(cluster: Path) -> None:
    nice = {
        service: {os.getpriority(os.PRIO_PROCESS, replica["pid"]) for replica in replicas}
        for service, replicas in state_of(cluster)["replicas"].items()
    }
    (own,) = nice.pop("gateway")
    assert own == os.getpriority(os.PRIO_PROCESS, 0)  # Ray would make it 15
    assert {"ranking", "rerank", "retrieval"} <= set(nice)
    wanted = {service: 5 if service == "ranking" else 10 for service in nice}
    assert nice == {service: {min(19, own + more)} for service, more in wanted.items()}


def test_the_cluster_scores_as_the_library_does(cluster: Path, tiny_release: Path) -> None:
    release = Release.open(tiny_release)
    retrieval, ranking = RetrievalCore.load(release), RankingCore.load(release, device="cpu")
    store = SqliteStore(cluster / "corerec.db")
    users = ["u000001", "u000042", "u000299", "nobody"]
    with Client(address(cluster), timeout=5) as client:
        for state in store.read_users(users):
            user = UserContext(
                user_id=state.user_id,
                attributes=state.attributes,
                items=state.items,
                times=state.times,
            )
            (retrieved,) = retrieval.run([RetrieveEntry(user=user, k=500)])
            candidates = retrieved.candidates
            (ranked,) = ranking.run(
                [RankEntry(user=user, candidates=candidates, k=len(candidates))]
            )
            traces = client.explain(state.user_id).traces
            ids = release.catalogue.ids
            here = {t.item_id: t for t in traces if t.retrieve_position}
            assert set(here) == {ids[n] for n in candidates.numbers}
            for column, name in ((candidates, "retrieve_score"), (ranked.candidates, "rank_score")):
                got = [getattr(here[ids[n]], name) for n in column.numbers]
                np.testing.assert_allclose(got, column.scores, atol=1e-5, rtol=0)
    store.close()


def test_no_candidate_is_lost_or_doubled(cluster: Path) -> None:
    with Client(address(cluster), timeout=5) as client:
        for user in ("u000003", "u000100", ""):
            explained = client.explain(user)
            traces = [t for t in explained.traces if t.retrieve_position]
            count = len(traces)
            assert len({t.item_id for t in traces}) == count
            assert sorted(t.retrieve_position for t in traces) == list(range(1, count + 1))
            assert sorted(t.rank_position for t in traces) == list(range(1, count + 1))
            final = [t for t in explained.traces if t.final_position]
            assert len(final) == len(explained.recommendation.items) == 10
            gone = [t.removed_by for t in traces if not t.final_position]
            assert all(gone)
            assert gone.count("ranked_out") == count - 100


def test_recorded_events_change_the_next_answer(cluster: Path) -> None:
    with Client(address(cluster), timeout=5) as client:
        best = client.recommend("newcomer").items[0].item_id
        assert client.record([Event(user_id="newcomer", item_id=best)]) == 1
        after = client.explain("newcomer", [best])
    assert after.history[0].item_id == best
    assert after.traces[0].removed_by == "seen"


def test_the_commands_print_what_a_person_reads(cluster: Path) -> None:
    shown = corerec("recommend", "--user", "u000007", "--state-dir", cluster)
    assert shown.returncode == 0, shown.stderr
    for word in ("title", "category", "score", "source", "what moved it", "retrieve", "rerank"):
        assert word in shown.stdout
    listed = json.loads(
        corerec("recommend", "--user", "u000007", "--json", "--state-dir", cluster).stdout
    )
    item = listed["items"][0]["item_id"]
    explained = corerec("explain", "--user", "u000007", "--item", item, "--state-dir", cluster)
    assert "through the funnel" in explained.stdout
    status = corerec("status", "--state-dir", cluster)
    assert all(name in status.stdout for name in ("gateway", "retrieval", "ranking", "rerank"))
    wrong = corerec("explain", "--user", "u000007", "--item", "no-such", "--state-dir", cluster)
    assert wrong.returncode == 1
    assert "item 'no-such' is not in the catalogue" in wrong.stderr


@pytest.mark.timeout(600)
def test_a_client_in_another_language_gets_the_same_list(cluster: Path, go_client: Path) -> None:
    with Client(address(cluster), timeout=5) as client:
        wanted = [i.item_id for i in client.recommend("u000007").items]
    options = ["-address", address(cluster), "-user", "u000007"]
    done = subprocess.run([go_client, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[1:11]] == wanted


def test_a_second_cluster_of_the_same_folder_is_refused(cluster: Path, tiny_release: Path) -> None:
    done = corerec("serve", tiny_release, "--state-dir", cluster)
    assert done.returncode == 1
    assert "is running already" in done.stderr


async def test_a_killed_replica_costs_nothing_and_is_replaced(cluster: Path) -> None:
    for service in ("ranking", "retrieval", "rerank"):
        before = state_of(cluster)["replicas"][service]
        assert len(before) == 2
        async with Loader(address(cluster), callers=4, pause=0.03) as loader:
            await asyncio.sleep(1.0)
            killed = time.monotonic() - loader.load.started
            os.kill(before[0]["pid"], signal.SIGKILL)
            await asyncio.sleep(3.0)
        load = loader.load
        assert load.total > 100
        assert len(load.errors) <= load.total / 1000, load.errors
        assert len(load.degraded) <= load.total / 1000, load.degraded
        assert not [d for d in load.degraded if d[0] > killed + 1.0]
        deadline = time.monotonic() + 60
        while before[0]["pid"] in (pids := _pids(cluster, service)) or len(pids) < 2:
            assert time.monotonic() < deadline, f"{service} was not replaced: {pids}"
            await asyncio.sleep(0.2)


def _pids(cluster: Path, service: str) -> list[int]:
    return [replica["pid"] for replica in state_of(cluster)["replicas"][service]]
