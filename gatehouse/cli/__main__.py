"""`python -m gatehouse.cli`: the command where its script is not on PATH."""

from gatehouse.cli import main

main()
