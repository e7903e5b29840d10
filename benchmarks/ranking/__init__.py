"""Measures the ranking network alone; needs torch, numpy and numba, and none of the services."""
