"""What a local cluster sets for Ray: what must be, and what is left to who sets it himself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from corerec.serving.ray_environment import ENVIRONMENT, QUIET, local_environment


def test_what_a_user_has_set_stays_and_what_must_be_is_set() -> None:
    assert local_environment({}) == {**QUIET, **ENVIRONMENT}
    for name in QUIET:
        found = local_environment({name: "7", "OTHER": "1"})
        assert found.items() == {**QUIET, **ENVIRONMENT}.items() - {(name, QUIET[name])}
    taken = local_environment(dict.fromkeys(ENVIRONMENT, "1"))
    assert all(taken[name] == text for name, text in ENVIRONMENT.items())


@pytest.mark.parametrize("name", sorted(QUIET))
def test_the_installed_ray_knows_each_setting(name: str) -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    readers = [
        folder / "serve" / "_private" / "constants.py",
        folder / "_private" / "log_monitor.py",
        folder / "core" / "src" / "ray" / "gcs" / "gcs_server",
    ]
    # Ray's servers take RAY_<name of a setting>, and hold the name alone.
    own = name.removeprefix("RAY_") if name[4:5].islower() else name
    assert any(own.encode() in reader.read_bytes() for reader in readers), own
