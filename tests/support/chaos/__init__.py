"""Chaos: the real command, killed again and again, until a run is done; then everything is counted.

`make chaos` runs it at length, `tests/run/test_chaos.py` a short form. A round is one run from its first
process to its outputs; a life is one of its processes.
"""
