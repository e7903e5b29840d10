"""Histograms that are cheap to fill in, against prometheus_client's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Plain

from corerec.serving.histogram import Histogram

BOUNDS = (0.001, 0.5, 1, 2048)


def text(registry: CollectorRegistry) -> list[str]:
    """What a scrape gets, without the moments at which series were made."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(BOUNDS) | st.floats(-1, 5000)),
        max_size=30,
    )
)
def test_a_scrape_reads_what_the_librarys_own_would_say(values: list[tuple[str, float]]) -> None:
    own, plain = CollectorRegistry(), CollectorRegistry()
    fast = Histogram("x_seconds", "What.", ("stage",), buckets=BOUNDS, registry=own)
    slow = Plain("x_seconds", "What.", ("stage",), buckets=BOUNDS, registry=plain)
    for stage, value in values:
        fast.labels(stage).observe(value)
        slow.labels(stage).observe(value)
    assert text(own) == text(plain)


def test_without_labels_there_is_a_series_from_the_beginning() -> None:
    own, plain = CollectorRegistry(), CollectorRegistry()
    fast = Histogram("x", "What.", buckets=BOUNDS, registry=own)
    slow = Plain("x", "What.", buckets=BOUNDS, registry=plain)
    assert text(own) == text(plain)
    fast.observe(3)
    slow.observe(3)
    assert text(own) == text(plain)


def test_labels_must_be_as_many_as_there_are_names() -> None:
    histogram = Histogram("x", "What.", ("a", "b"), buckets=BOUNDS, registry=CollectorRegistry())
    with pytest.raises(ValueError, match=r"x has the labels \('a', 'b'\), got \('c',\)"):
        histogram.labels("c")
