"""The profile counts stacks as py-spy wrote them and draws every frame that is wide enough.

Nothing is started here; `python -m benchmarks.profile --quick` runs the whole of it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.profile import flame, stacks

RAW = """\
<module> (a.py);serve (/opt/x/site-packages/grpc/aio/_server.py:12);run (corerec/core.py) 30
<module> (a.py);serve (/opt/x/site-packages/grpc/aio/_server.py:12) 10
Thread.run (/usr/lib/python3.11/threading.py);Worker.main_loop (ray/_private/worker.py) 99
"""
SVG = "{http://www.w3.org/2000/svg}"


def test_stacks_lose_the_machines_folders_and_threads_that_wait() -> None:
    serve = "serve (grpc/aio/_server.py)"
    assert stacks.parse(RAW) == {
        ("<module> (a.py)", serve, "run (corerec/core.py)"): 30,
        ("<module> (a.py)", serve): 10,
    }
    assert stacks.own(stacks.parse(RAW)) == {"run (corerec/core.py)": 30, serve: 10}


def test_frames_share_what_their_service_was_measured_to_use() -> None:
    root = flame.tree({"gateway": stacks.parse(RAW), "rank": Counter()}, {"gateway": 2, "rank": 1})
    assert root.count == 3
    (outer,) = root.calls["gateway"].calls.values()
    (serve,) = outer.calls.values()
    (run,) = serve.calls.values()
    assert (outer.count, serve.count, run.count) == pytest.approx((2, 2, 1.5))
    assert root.calls["rank"].calls == {}


def test_every_wide_frame_is_drawn_above_its_caller_with_its_time(tmp_path: Path) -> None:
    narrow = Counter({("wide <lambda>", "tiny"): 1, ("wide <lambda>", "run"): 9999})
    path = tmp_path / "flame.svg"
    flame.draw(flame.tree({"gateway": narrow}, {"gateway": 4.0}), "1 & 2", path)
    drawn = {}
    for group in ElementTree.parse(path).getroot().iter(f"{SVG}g"):
        title, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert title.text is not None
        assert box is not None
        name, _, time = title.text.partition(": ")
        drawn[name] = (int(box.attrib["y"]), time)
    assert "tiny" not in drawn  # a sixth of a pixel
    heights = [drawn[name][0] for name in ("all services", "gateway", "wide <lambda>", "run")]
    assert heights == sorted(heights, reverse=True)
    assert drawn["gateway"][1] == "4.000 core-ms an answer, 100.0%"


def test_a_process_is_sampled(tmp_path: Path) -> None:
    py_spy = stacks.find_py_spy()
    program = "def spin():\n    while True: pass\nspin()"
    child = subprocess.Popen([sys.executable, "-c", program])
    try:
        samplers = stacks.record(py_spy, [child.pid], tmp_path, 1)
        try:
            stacks.finish(samplers, tmp_path, 1)
        except SystemExit as failed:
            if not re.search("permission|not permitted", str(failed), re.IGNORECASE):
                raise
            pytest.skip("this system lets no process read another")
        found = stacks.read({"one": [child.pid]}, tmp_path)["one"]
    finally:
        child.kill()
        child.wait()
    ((most, samples),) = stacks.own(found).most_common(1)
    assert most.startswith("spin")
    assert samples > 50
