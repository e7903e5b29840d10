"""The models: one a file, each with its config, and losses as pure functions."""
