"""`python -m edgeflex_flow`: the same as the command `edgeflex`."""

from edgeflex_flow.cli import main

main()
