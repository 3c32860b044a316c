"""A third API needs one `WireFormat` and its registration: everything else works with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import batchrun
from batchrun import formats
from batchrun.formats import Capabilities, InvalidResponse, WireFormat
from batchrun.job import Job
from batchrun.records import Completion, Ending, Message, Usage
from batchrun.run.run_options import RunOptions
from tests.support.jobs import refusal as job_refusal
from tests.support.provider import Call, Reply, serving

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from batchrun.records import Request

MODEL = "parrot-1"


def body(request: Request) -> dict[str, Any]:
    return {
        "engine": request.model,
        "input": [[message.role, message.content] for message in request.messages],
        "heat": request.parameters.temperature,
    }


def read_usage(usage: object) -> Usage:
    counts = usage if isinstance(usage, list) else [None, None]
    return Usage(input_tokens=counts[0], output_tokens=counts[1])


def read_answer(payload: Mapping[str, Any]) -> Completion:
    if "output" not in payload:
        raise InvalidResponse("the answer has no output")
    return Completion(
        texts=(payload["output"],),
        stop_reason="end",
        model=payload.get("engine"),
        response_id=None,
        usage=read_usage(payload.get("usage")),
        ending=Ending.STOP,
    )


class Lines:
    """Events with a piece of text each; the last one has the usage."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.last: dict[str, Any] = {}
        self.is_ended = False

    @property
    def is_whole(self) -> bool:
        return bool(self.last)

    @property
    def choices(self) -> int:
        return int(self.has_begun)

    @property
    def has_begun(self) -> bool:
        return bool(self.pieces or self.last)

    def add(self, payload: dict[str, Any]) -> None:
        self.pieces.append(payload.get("piece", ""))
        if "usage" in payload:
            self.last = payload
            self.is_ended = True

    def end(self) -> None:
        self.is_ended = True

    def head(self) -> dict[str, Any]:
        return {"engine": MODEL, **self.last}

    def body(self) -> dict[str, Any]:
        return {**self.head(), "output": "".join(self.pieces)}


def write_turns(turns: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(turn["role"], str(turn["content"]).upper()) for turn in turns)


def continue_body(
    body: dict[str, Any], said: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {**body, "input": [*body["input"], said, *results]}


TOY = WireFormat(
    name="toy",
    title="Toy",
    path="/v2/speak",
    base_url="https://toy.example",
    key_env="TOY_KEY",
    auth="bearer",
    example_model=MODEL,
    capabilities=Capabilities(parameters={"temperature": (0, 10)}),
    request_id_headers=("x-toy-id",),
    stream_members=b',"live":1}',
    headers=lambda _request: (("x-toy-version", "2"),),
    body=body,
    read_answer=read_answer,
    read_usage=read_usage,
    assembler=Lines,
    write_turns=write_turns,
    continue_body=continue_body,
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(formats.FORMATS, TOY.name, TOY)
    monkeypatch.setenv(TOY.key_env, "a-key-for-the-toy")


def answered(call: Call) -> Reply:
    """A refusal first, then an answer, whole or as a stream."""
    if call.seen == 0:
        return Reply(429, b'{"error": "too fast"}', {"retry-after-ms": "1"})
    headers = {"x-toy-id": f"toy-{call.number}"}
    text = call.json["input"][0][1] + "!"
    if call.json.get("live"):
        pieces: list[dict[str, Any]] = [{"piece": text[:2]}, {"piece": text[2:], "usage": [3, 2]}]
        events = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces)
        return Reply(body=events.encode(), headers={**headers, "content-type": "text/event-stream"})
    payload = {"output": text, "engine": call.json["engine"], "usage": [3, 2]}
    return Reply(body=json.dumps(payload).encode(), headers=headers)


def job(folder: Path, base_url: str, **request: Any) -> Job:
    (folder / "words.csv").write_text("word\nhello\nworld\n", encoding="utf-8")
    document = {
        "name": "words",
        "input": {"path": "words.csv"},
        "request": {
            "format": "toy",
            "base_url": base_url,
            "model": MODEL,
            "prompt": "{{ word }}",
            "temperature": 7,
            **request,
        },
        "output": {"dir": "out"},
    }
    return Job.from_document(document, folder)


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_runs_in_a_third_format(tmp_path: Path, stream: bool) -> None:
    with serving(answered) as provider:
        report = batchrun.run_job(
            job(tmp_path, provider.url, stream=stream), RunOptions(quiet=True)
        )
    assert report.exit_code == 0
    rows = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert rows["response"].to_list() == ["HELLO!", "WORLD!"]
    assert rows["attempts"].to_list() == [2, 2]
    assert rows["input_tokens"].to_list() == [3, 3]
    assert [text.startswith("toy-") for text in rows["request_id"]] == [True, True]
    call = provider.calls[0]
    assert (call.path, call.headers["x-toy-version"]) == ("/v2/speak", "2")
    assert call.headers["authorization"] == "Bearer a-key-for-the-toy"
    wanted = {"engine": MODEL, "input": [["user", "HELLO"]], "heat": 7.0}
    assert call.json == ({**wanted, "live": 1} if stream else wanted)


def test_a_preview_and_an_estimate_know_a_third_format(tmp_path: Path) -> None:
    words = job(tmp_path, "https://toy.example")
    (line, _) = batchrun.preview(words, 2)
    shown = json.loads(line)
    assert shown["url"] == "https://toy.example/v2/speak"
    assert shown["headers"]["authorization"] == "Bearer ***"
    (found,) = batchrun.estimate(words)
    assert found.requests == 2


def test_errors_of_a_job_file_name_what_a_third_format_cannot_express() -> None:
    request = {"format": "toy", "model": MODEL, "prompt": "{{ word }}"}
    assert (
        "top_p: the toy format has no top_p; "
        'use format = "messages" or "chat" or remove it'
        in job_refusal(request={**request, "top_p": 1})
    )
    assert "between 0 and 10 in the toy format" in job_refusal(
        request={**request, "temperature": 11}
    )
    assert 'must be "messages" or "chat" or "toy"' in job_refusal(
        request={**request, "format": "speech"}
    )
