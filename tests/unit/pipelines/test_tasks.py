"""A release of several tasks and another network: trained from types of event, and it answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from corerec.engines.dlrm import DlrmConfig
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.train import train_release
from corerec.ranking.core import RankingCore
from corerec.ranking.model import RankingModelConfig
from corerec.release import Release
from corerec.stages import Candidates, RankEntry, RankResult, UserContext


def test_a_release_ranks_by_clicks_and_purchases(tiny_data: Path, tmp_path: Path) -> None:
    config = TrainConfig.tiny()
    ranking = RankingModelConfig(
        network="dlrm",
        dlrm=DlrmConfig(bottom=(8,), top=(16,)),
        tasks=("interaction", "buy"),
        objective="interaction + 3 * buy",
    )
    path = train_release(tiny_data, tmp_path, replace(config, ranking=ranking))
    tasks = json.loads((path / "metrics.json").read_text())["ranker"]["tasks"]
    assert set(tasks) == {"interaction", "buy"}
    for own in tasks.values():
        assert 0 <= own["ece"] <= own["ece_before"] + 0.05
        assert own["logloss"] <= own["logloss_before"] + 1e-6
    # Fewer cases are bought than seen: the labels made a difference.
    assert tasks["buy"]["logloss"] < tasks["interaction"]["logloss"]
    core = RankingCore.load(Release.open(path), device="cpu")
    numbers = np.arange(20)
    candidates = Candidates(
        numbers=numbers, scores=np.zeros(20, np.float32), sources=np.ones(20, np.uint8)
    )
    (found,) = core.run([RankEntry(user=UserContext(), candidates=candidates, k=20)])
    assert isinstance(found, RankResult)
    assert sorted(found.candidates.numbers) == numbers.tolist()
    assert ((found.candidates.scores > 0) & (found.candidates.scores < 4)).all()
