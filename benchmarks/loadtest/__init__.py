"""ghz against a running cluster, and the report of it."""
