"""`python -m corerec.cli` is the `corerec` command."""

from corerec.cli import main

main()
