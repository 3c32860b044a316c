"""The short form of `make soak`: seconds show no slow leak, but one of a handle for each fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.soak import CONCURRENCY, Sample, growth, soak

SECONDS = 6

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")


@needs_proc
def test_handles_and_tasks_stay_while_one_request_in_twenty_fails(tmp_path: Path) -> None:
    samples, code = soak(tmp_path, SECONDS, 10**6)
    assert code == 130
    summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    assert summary["retries"]["total"] > 0.03 * summary["attempts"]
    found, first = growth(samples), samples[0]
    # On a slow machine connections are still being added: what they and their tasks may need is no leak.
    handles = max(found.second.handles, first.handles + CONCURRENCY)
    tasks = max(found.second.tasks, first.tasks + CONCURRENCY * 3 // 2)
    assert found.last.handles <= handles + CONCURRENCY // 4
    assert found.last.tasks <= tasks + CONCURRENCY // 4


def test_growth_is_from_the_second_third_to_the_last() -> None:
    samples = [Sample(n, 100.0 if n < 6 else 107.0, 10, 20) for n in range(9)]
    found = growth(samples)
    assert (found.second.mib, found.last.mib) == (100.0, 107.0)
    assert str(found) == "mib 100 -> 107 (+7.0%), handles 10 -> 10 (+0.0%), tasks 20 -> 20 (+0.0%)"
