"""Hyper-parameter search with Ray Tune: what `corerec tune` runs."""
