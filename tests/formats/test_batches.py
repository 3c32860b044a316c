"""What batches look like at each server: addresses, lines, and how their answers are read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchrun import formats
from batchrun.formats import BatchOutcome, BatchState, InvalidResponse
from batchrun.formats.batches import time_us
from batchrun.records import WireRequest

if TYPE_CHECKING:
    from batchrun.formats import BatchFormat, RemoteBatch

MESSAGES, CHAT = formats.of("messages"), formats.of("chat")


def batches(name: str) -> BatchFormat:
    found = formats.of(name).batches
    assert found is not None
    return found


def read(name: str, **payload: Any) -> RemoteBatch:
    return batches(name).read_batch(payload)


@pytest.mark.parametrize(
    ("url", "batch", "upload", "line"),
    [
        (
            "https://api.openai.com/v1/chat/completions",
            "https://api.openai.com/v1/batches/b%2F1",
            "https://api.openai.com/v1/files",
            "/v1/chat/completions",
        ),
        (
            "https://api.groq.com/openai/v1/chat/completions",
            "https://api.groq.com/openai/v1/batches/b%2F1",
            "https://api.groq.com/openai/v1/files",
            "/v1/chat/completions",
        ),
        (
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2026-02",
            "https://x.openai.azure.com/openai/batches/b%2F1?api-version=2026-02",
            "https://x.openai.azure.com/openai/files?api-version=2026-02",
            "/chat/completions",
        ),
        (
            "https://x.openai.azure.com/openai/v1/chat/completions",
            "https://x.openai.azure.com/openai/v1/batches/b%2F1",
            "https://x.openai.azure.com/openai/v1/files",
            "/chat/completions",
        ),
        (
            "https://api.together.xyz/v1/chat/completions",
            "https://api.together.xyz/v1/batches/b%2F1",
            "https://api.together.xyz/v1/files/upload",
            "/v1/chat/completions",
        ),
        (
            "http://localhost:4000/v1/chat/completions",
            "http://localhost:4000/v1/batches/b%2F1",
            "http://localhost:4000/v1/files",
            "/v1/chat/completions",
        ),
    ],
    ids=["openai", "groq", "azure deployment", "azure", "together", "litellm"],
)
def test_batches_are_beside_the_address_of_single_requests(
    url: str, batch: str, upload: str, line: str
) -> None:
    service = batches("chat").service(url)
    assert (service.batch("b/1"), service.uploads) == (batch, upload)
    assert service.request_url == line
    assert json.loads(batches("chat").line("t-1", b'{"a":1}', service)) == {
        "custom_id": "t-1",
        "method": "POST",
        "url": line,
        "body": {"a": 1},
    }
    assert json.loads(batches("chat").creation("f", "t", service))["endpoint"] == line  # type: ignore[misc]


def test_together_has_limits_and_a_form_of_its_own() -> None:
    service = batches("chat").service("https://api.together.xyz/v1/chat/completions")
    assert service.limits.size == 100_000_000
    assert (service.purpose, service.names_file) == ("batch-api", True)
    # Not a part of the name of another host.
    other = batches("chat").service("https://nottogether.xyz/v1/chat/completions")
    assert other.purpose == "batch"
    created = read(
        "chat",
        job={
            "id": "0123",
            "input_file_id": "file-1",
            "status": "IN_PROGRESS",
            "created_at": "2026-11-28T09:00:00Z",
            "job_deadline": "2026-11-29T09:00:00Z",
        },
    )
    assert (created.id, created.state, created.input_file) == ("0123", BatchState.RUNNING, "file-1")
    assert created.expires_us == 1795942800_000_000
    failed = read("chat", id="0123", status="FAILED", error="no such model")
    assert failed.problem is not None
    assert failed.problem.message == "no such model"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("wire", [MESSAGES, CHAT], ids=["messages", "chat"])
def test_requests_of_a_batch_ask_for_whole_answers(
    wire: formats.WireFormat, streamed: bool
) -> None:
    body = b'{"model":"m","max_tokens":30000}'
    if streamed:
        body = body.removesuffix(b"}") + wire.stream_members
    request = WireRequest("", (), body, streamed)
    service = batches(wire.name).service(f"https://host{wire.path}")
    line = json.loads(wire.batch_line("t-1", request, service))
    sent = line["params"] if wire is MESSAGES else line["body"]
    assert sent == {"model": "m", "max_tokens": 30000}


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("validating", BatchState.VALIDATING),
        ("in_progress", BatchState.RUNNING),
        ("finalizing", BatchState.RUNNING),
        ("completed", BatchState.ENDED),
        ("COMPLETED", BatchState.ENDED),
        ("expired", BatchState.EXPIRED),
        ("cancelling", BatchState.CANCELING),
        ("cancelled", BatchState.CANCELED),
        ("failed", BatchState.FAILED),
        ("a word of next year", BatchState.RUNNING),
    ],
)
def test_states_of_chat_batches(status: str, state: BatchState) -> None:
    found = read("chat", id="b", status=status)
    assert found.state is state
    assert found.state.is_final is (
        state not in {BatchState.VALIDATING, BatchState.RUNNING, BatchState.CANCELING}
    )
    assert (found.rows, found.done, found.created_us, found.result_files) == (None, None, None, ())


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("in_progress", BatchState.RUNNING),
        ("canceling", BatchState.CANCELING),
        ("ended", BatchState.ENDED),
    ],
)
def test_states_of_message_batches(status: str, state: BatchState) -> None:
    counts = {"processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    found = read("messages", id="b", processing_status=status, request_counts=counts)
    assert (found.state, found.rows) == (state, 3)


def test_a_failed_batch_says_why() -> None:
    error = {"code": "duplicate_custom_id", "message": "twice", "line": 7}
    found = read("chat", id="b", status="failed", errors={"object": "list", "data": [error]})
    assert found.problem is not None
    assert (found.problem.code, found.problem.message, found.problem.line) == (
        "duplicate_custom_id",
        "twice",
        7,
    )


@pytest.mark.parametrize("name", ["messages", "chat"])
@pytest.mark.parametrize("payload", [{}, {"id": 3}, {"id": "b"}, {"status": "completed"}])
def test_something_else_is_not_a_batch(name: str, payload: dict[str, Any]) -> None:
    with pytest.raises(InvalidResponse, match="not a batch"):
        batches(name).read_batch(payload)


@pytest.mark.parametrize(
    ("wire", "line"),
    [
        (MESSAGES, {"custom_id": "a", "result": {"type": "succeeded", "message": {"x": 1}}}),
        (CHAT, {"custom_id": "a", "response": {"status_code": 200, "body": {"x": 1}}}),
        (CHAT, {"custom_id": "a", "response": {"status_code": 200, "body": "text"}}),
    ],
)
def test_a_paid_answer_that_cannot_be_read_is_a_fault_of_its_row(
    wire: formats.WireFormat, line: dict[str, Any]
) -> None:
    found = wire.read_batch_line(json.dumps(line).encode())
    assert found.outcome is BatchOutcome.ANSWERED
    assert found.completion is None
    assert found.fault is not None
    assert found.fault.maybe_billed


@pytest.mark.parametrize("wire", [MESSAGES, CHAT], ids=["messages", "chat"])
@pytest.mark.parametrize("line", [b"", b"[]", b'{"custom_id":"a"}', b'{"result":{"type":"x"}}'])
def test_a_line_without_a_row_is_not_a_result(wire: formats.WireFormat, line: bytes) -> None:
    with pytest.raises(InvalidResponse):
        wire.read_batch_line(line)


@pytest.mark.parametrize(
    ("error_type", "status"),
    [
        ("invalid_request_error", 400),
        ("request_too_large", 413),
        ("api_error", 500),
        ("overloaded_error", 529),
        ("new_error", None),
    ],
)
def test_errors_of_message_batches_have_the_status_of_single_requests(
    error_type: str, status: int | None
) -> None:
    error = {"type": "error", "error": {"type": error_type, "message": "no"}}
    line = {"custom_id": "a", "result": {"type": "errored", "error": error}}
    found = MESSAGES.read_batch_line(json.dumps(line).encode())
    assert found.fault is not None
    assert (found.fault.error_type, found.fault.http_status) == (error_type, status)
    assert not found.fault.maybe_billed


@pytest.mark.parametrize(
    ("value", "microseconds"),
    [
        (1795856400, 1795856400_000_000),
        ("2026-11-28T09:00:00Z", 1795856400_000_000),
        ("2026-11-28T10:00:00.5+01:00", 1795856400_500_000),
        (None, None),
        ("soon", None),
        (True, None),
        (10**20, None),
        (-1, None),
    ],
)
def test_times_are_read_in_both_spellings(value: object, microseconds: int | None) -> None:
    assert time_us(value) == microseconds
