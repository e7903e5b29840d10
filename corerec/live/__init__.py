"""The live catalogue: what changes of a release's items while it serves."""
