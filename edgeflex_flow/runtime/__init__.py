"""The runtimes: bytewax, and an inline one with a virtual clock."""
