"""A job against the simulator as a server of its own, with every fault that it can rehearse."""

from __future__ import annotations

import json
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import batchrun, finish, start_batchrun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import polars as pl


@contextmanager
def simulator(*options: str) -> Iterator[str]:
    process = start_batchrun("simulate", "--latency-ms", "1", *options)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        assert finish(process)[0] == 0


def usage(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/usage", timeout=60) as response:
        found: dict[str, Any] = json.loads(response.read())
    return found


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_broken_streams_and_wrong_json_are_asked_for_again(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame], wire_format: str
) -> None:
    faults = ("--stream-error-rate", "0.2", "--invalid-json-rate", "0.2", "--error-rate", "0.1")
    schema = (
        '{ type = "object", required = ["label"], properties = { label = { enum = ["a", "b"] } } }'
    )
    request = f"stream = true\njson_schema = {schema}\n"
    with simulator(*faults) as url:
        extra = "unnest = true\n[retry]\nmax_attempts = 12\n[limits]\nconcurrency = 8"
        job = write_job(url, rows=60, wire_format=wire_format, request=request, extra=extra)
        code, _, stderr = batchrun("run", job)
        used = usage(url)
    assert code == 0, stderr
    found = results()
    assert set(found["status"]) == {"succeeded"}
    assert set(found["label"]) <= {"a", "b"}
    summary = json.loads((job.parent / "out" / "summary.json").read_text())
    causes = summary["retries"]["by_cause"]
    assert causes["invalid_answer"] > 0
    assert causes["transient"] > 0
    # Everything that the provider billed is accounted for: answered, or possibly billed.
    assert used["billed"] <= 60 + causes["invalid_answer"] + summary["possibly_double_billed"]


def test_the_limits_of_the_simulator_are_waited_out(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame]
) -> None:
    with simulator("--rpm", "1200", "--rate-limit-rate", "0.1") as url:
        job = write_job(url, rows=60, extra="[limits]\nrequests_per_minute = 1000\nconcurrency = 8")
        code, _, stderr = batchrun("run", job)
    assert code == 0, stderr
    assert set(results()["status"]) == {"succeeded"}
