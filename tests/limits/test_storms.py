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
    assert len(server.accepted) == 1_000, "each is tried again once, and no other"
    # How little they cost is proved with a virtual clock, and measured in the long form. Here another
    # process may have taken the processor; a run that crawls would take ten times as long.
    assert with_them.seconds <= 5 * without.seconds + 5


@pytest.mark.parametrize("status", [429, 503])
def test_a_run_is_back_soon_after_nothing_was_answered(status: int) -> None:
    server = Server(latency_s=0.1, down=(2, 5), status=status)
    ended = run(server, 800, 16, command)
    assert (ended.code, ended.statuses) == (0, {"succeeded": 800}), ended.stderr
    # At 16 in flight; with one or two a run that is not back would crawl. Other processes take a share.
    assert server.back_after_s(share=0.4) <= 8
    # All pause together: the requests that were in flight, and a few probes.
    assert len(server.refused) <= 16 + 30
