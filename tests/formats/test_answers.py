"""What a server answers, and what the row must say: `answers.json`, made after public bug reports.

A case is an answer (`body`, or `stream`: the JSON of each event, with `[DONE]` if `done_marker`), with its
status and headers; `then` answers the second attempt. `expect` names columns of the results, or what
the run does. Every case with a body runs streamed, too; under a status of failure it is the same body.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import command
from tests.support.provider import Call, Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import polars as pl

    WriteJob = Callable[..., Path]
    Case = dict[str, Any]

CASES: list[Case] = json.loads((Path(__file__).parent / "answers.json").read_text())


def deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The deltas of a message of the chat format, texts in two halves."""
    for name, value in message.items():
        if isinstance(value, str) and name != "role" and len(value) > 1:
            yield {name: value[: len(value) // 2]}
            yield {name: value[len(value) // 2 :]}
        elif isinstance(value, list) and name == "tool_calls":
            yield {name: [{"index": n, **call} for n, call in enumerate(value)]}
        else:
            yield {name: value}


def chat_events(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks that make up an answer of the chat format."""
    if "choices" not in body:
        return [body]
    head = {"id": body["id"], "object": "chat.completion.chunk", "model": body["model"]}
    events = []
    for choice in body["choices"]:
        parts = [{"delta": delta} for delta in deltas(choice.get("message", {}))]
        rest = {key: value for key, value in choice.items() if key not in {"message", "index"}}
        for part in (*parts, {"delta": {}, **rest}):
            events.append({**head, "choices": [{"index": choice["index"], **part}]})
    usage = [{**head, "choices": [], "usage": body["usage"]}] if "usage" in body else []
    return [*events, *usage]


def message_events(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events that make up an answer of the messages format."""
    head = {**body, "content": body["content"] and [], "stop_reason": None}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": head}]
    for index, block in enumerate(body["content"] or []):
        start = {**block, "text": ""}
        delta = {"type": "text_delta", "text": block["text"]}
        events += [
            {"type": "content_block_start", "index": index, "content_block": start},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    end = {"type": "message_delta", "delta": {"stop_reason": body["stop_reason"]}}
    return [*events, {**end, "usage": body["usage"]}, {"type": "message_stop"}]


def as_stream(wire_format: str, events: list[dict[str, Any]], *, is_marked: bool) -> Reply:
    lines = [
        (f"event: {event['type']}\n" if wire_format == "messages" else "")
        + f"data: {json.dumps(event)}\n\n"
        for event in events
    ]
    if is_marked and wire_format == "chat":
        lines.append("data: [DONE]\n\n")
    return Reply(body="".join(lines).encode(), headers={"content-type": "text/event-stream"})


def reply_to(case: Case, body: Any, *, is_first: bool, is_streamed: bool) -> Reply:
    if is_first and "stream" in case:
        return as_stream(case["format"], case["stream"], is_marked=case["done_marker"])
    if is_streamed and (not is_first or case["status"] == 200):
        events = chat_events(body) if case["format"] == "chat" else message_events(body)
        return as_stream(case["format"], events, is_marked=True)
    status, headers = (case["status"], case.get("headers", {})) if is_first else (200, {})
    return Reply(status, json.dumps(body).encode(), headers)


class Server:
    """Gives each row the answers of a case in turn; of `others` only the first row gets them."""

    def __init__(self, case: Case, *, is_streamed: bool) -> None:
        self.case = case
        self.is_streamed = is_streamed
        self.times: list[float] = []

    def __call__(self, call: Call) -> Reply:
        self.times.append(time.monotonic())
        if self.case["name"] == "flagged" and not call.prompt.endswith(" 0"):
            return answer(call)
        is_first = not call.seen or "then" not in self.case
        body = self.case.get("body") if is_first else self.case["then"]
        return reply_to(self.case, body, is_first=is_first, is_streamed=self.is_streamed)


def run(
    case: Case, write_job: WriteJob, *, is_streamed: bool, rows: int = 1
) -> tuple[int, Server, dict[str, Any]]:
    server = Server(case, is_streamed=is_streamed)
    request = "stream = true" if is_streamed or "stream" in case else ""
    with serving(server) as provider:
        job = write_job(
            provider.url,
            rows=rows,
            wire_format=case["format"],
            request=request,
            extra="[retry]\nmax_wait_s = 5",
        )
        code, _, error = command("run", job)
    assert "Traceback" not in error
    return code, server, json.loads((job.parent / "out" / "summary.json").read_text())


def found_in(row: dict[str, Any], name: str) -> object:
    if name != "tool_calls":
        return row[name]
    return [{"name": call["name"], "input": call["input"]} for call in json.loads(row[name])]


def variants() -> Iterator[Any]:
    for case in CASES:
        yield pytest.param(case, False, id=case["name"])
        if "stream" not in case:
            yield pytest.param(case, True, id=f"{case['name']}-streamed")


@pytest.mark.parametrize(("case", "is_streamed"), list(variants()))
def test_what_a_row_says(
    case: Case, is_streamed: bool, write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    expect = dict(case["expect"])
    is_fatal = expect.pop("run", None) == "exit 4"
    rows = 3 if is_fatal or case["name"] == "flagged" else 1
    code, server, summary = run(case, write_job, is_streamed=is_streamed, rows=rows)
    if is_fatal:
        assert code == 4
        assert results()["status"].to_list() == ["pending"] * rows
    if (billed := expect.pop("possibly_double_billed", None)) is not None:
        assert summary["possibly_double_billed"] == billed
    row = results().row(0, named=True)
    assert {name: found_in(row, name) for name in expect} == expect
    if case["name"] == "flagged":
        assert code == 3
        assert results()["status"].to_list() == ["errored", "succeeded", "succeeded"]
    if "attempts" in expect:
        assert len(server.times) == expect["attempts"]


WAITS = {"gemini-wait": 1.5, "reset-wait": 2.0}


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("name", WAITS)
def test_the_wait_is_kept(name: str, is_streamed: bool, write_job: WriteJob) -> None:
    case = next(case for case in CASES if case["name"] == name)
    _, server, _ = run(case, write_job, is_streamed=is_streamed)
    first, second = server.times
    assert WAITS[name] <= second - first < WAITS[name] + 10


def test_tokens_that_nobody_told_are_null_in_the_summary(write_job: WriteJob) -> None:
    case = next(case for case in CASES if case["name"] == "no-usage")
    _, _, summary = run(case, write_job, is_streamed=False)
    assert (summary["tokens"]["input"], summary["tokens"]["output"]) == (None, None)
