"""A whole endpoint with a query: requests arrive there, with the key in the header that the job names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.conftest import KEY, command
from tests.support.provider import answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATH = "/openai/deployments/d/chat/completions?api-version=2024-10-21"


def test_requests_go_to_the_endpoint_as_written(write_job: Callable[..., Path]) -> None:
    with serving(answer) as server:
        address = f"{server.url}{PATH}"
        job = write_job(address, rows=2, wire_format="chat", request='auth = "api-key"')
        code, shown, stderr = command("preview", job, "-n", "1")
        assert code == 0, stderr
        assert json.loads(shown)["url"] == address
        assert json.loads(shown)["headers"]["api-key"] == "***"
        code, _, stderr = command("run", job, "--quiet")
        assert code == 0, stderr
        assert {call.path for call in server.calls} == {PATH}
        assert {call.headers["api-key"] for call in server.calls} == {KEY}
        assert not any("authorization" in call.headers for call in server.calls)


def test_a_simulated_run_does_not_reach_the_endpoint(write_job: Callable[..., Path]) -> None:
    with serving(answer) as server:
        job = write_job(f"{server.url}{PATH}", rows=2, wire_format="chat")
        code, _, stderr = command("run", job, "--simulate", "--quiet")
        assert code == 0, stderr
        assert server.calls == []
