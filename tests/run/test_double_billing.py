"""`possibly_double_billed` is never lower than what the provider billed twice."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.conftest import command
from tests.support.fuzzing import EXAMPLES
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STREAM = {"content-type": "text/event-stream"}


def gave_up(status: int, _: Call) -> Reply:
    return refusal(status, "timeout_error", "too late")


# What a provider may do after it has charged for a request, without an answer arriving.
BILLED: dict[str, Callable[[Call], Reply]] = {
    **{f"status {status}": partial(gave_up, status) for status in (408, 504, 522, 524)},
    "reset before the answer": lambda call: replace(answer(call), cut=0),
    "reset in the head": lambda call: replace(answer(call), cut=20),
    "reset in the body": lambda call: replace(answer(call), cut=200),
    "a page in place of an answer": lambda _: Reply(body=b"<html>Gateway</html>"),
    "an empty body": lambda _: Reply(),
    "a stream without an end": lambda _: Reply(body=b'data: {"type": "ping"}\n\n', headers=STREAM),
    "an error in a stream": lambda _: Reply(
        body=b'data: {"type":"message_start","message":{}}\n\n'
        b'data: {"type":"error","error":{"type":"api_error","message":"no"}}\n\n',
        headers=STREAM,
    ),
    "no answer in time": lambda call: answer(call, delay_s=600),
}
UNBILLED: dict[str, Callable[[Call], Reply]] = {
    "status 500": lambda _: refusal(500, "api_error"),
    "status 503": lambda _: refusal(503, "api_error"),
    "status 409": lambda _: refusal(409, "conflict_error"),
}


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
@pytest.mark.parametrize("seed", range(EXAMPLES // 100 + 1))
def test_what_was_billed_twice_is_counted(tmp_path: Path, wire_format: str, seed: int) -> None:
    # Every fault has a row of its own; other rows have up to three, one after the other.
    names, chance = [*BILLED, *UNBILLED], random.Random(seed)
    plans = [[name] for name in names]
    quick = [name for name in names if name != "no answer in time"]
    plans += [chance.choices(quick, k=chance.randint(0, 3)) for _ in range(40)]

    def decide(call: Call) -> Reply:
        plan = plans[int(call.prompt)]
        if call.seen >= len(plan):
            return answer(call)
        name = plan[call.seen]
        return (
            replace(BILLED[name](call), is_billed=True) if name in BILLED else UNBILLED[name](call)
        )

    pl.DataFrame({"prompt": [str(n) for n in range(len(plans))]}).write_csv(tmp_path / "rows.csv")
    arguments = ["--set", f"format={wire_format}", "--model", "m", "--set", "max_tokens=50"]
    arguments += ["--set", "api_key_env=TEST_KEY", "--output-dir", str(tmp_path / "out"), "--quiet"]
    arguments += ["--set", "retry.timeout_s=6", "--set", "limits.max_errors=1000"]
    with serving(decide) as provider:
        code, _, stderr = command(
            "run", tmp_path / "rows.csv", "--base-url", provider.url, *arguments
        )
        assert code == 0, stderr
    found = json.loads((tmp_path / "out" / "summary.json").read_bytes())["possibly_double_billed"]
    assert found >= provider.extra_bills
    assert found == sum(name in BILLED for plan in plans for name in plan)
