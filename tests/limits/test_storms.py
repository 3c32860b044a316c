"""Refusals and outages of a real server, in short; `python -m tests.support.storms` is the long form."""

from __future__ import annotations

import pytest

from tests.conftest import command
from tests.support.storms import Server, run


def test_a_few_refusals_at_random_do_not_slow_a_run_down() -> None:
    without = run(Server(), 1_000, 64, command)
    server = Server(share=0.02)
    with_them = run(server, 1_000, 64, command)
    assert (without.code, with_them.code) == (0, 0), with_them.stderr
    assert server.refused
    # By how little shows in the long form, on a machine that does nothing else.
    assert with_them.seconds <= 2 * without.seconds + 0.5


@pytest.mark.parametrize("status", [429, 503])
def test_a_run_is_back_soon_after_nothing_was_answered(status: int) -> None:
    server = Server(latency_s=0.1, down=(2, 5), status=status)
    ended = run(server, 800, 16, command)
    assert (ended.code, ended.statuses) == (0, {"succeeded": 800}), ended.stderr
    assert server.back_after_s() <= 5
    # All pause together: the requests that were in flight, and a few probes.
    assert len(server.refused) <= 16 + 30
