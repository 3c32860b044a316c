"""The batch endpoints over HTTP, against servers on loopback whose every answer the test decides."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from batchrun import formats
from batchrun.client import ClientOptions, Credentials, PyreqwestTransport
from batchrun.client.batch_client import BatchClient
from batchrun.errors import BatchInDoubt, BatchNotCreated, NoBatchEndpoint, ProviderError
from batchrun.formats import BatchOutcome, BatchState
from batchrun.records import WireRequest
from batchrun.simulator import SimulatorConfig
from tests.conftest import DEADLINE_S
from tests.support.provider import Call, Provider, Reply, refusal, serving
from tests.support.simulated import body
from tests.support.simulated import serving as simulated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from batchrun.formats import BatchAnswer, RemoteBatch

KEY = "sk-test-0123456789abcdef"
MESSAGES, CHAT = formats.of("messages"), formats.of("chat")
BOTH = pytest.mark.parametrize("name", ["messages", "chat"])

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "ok"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 11, "output_tokens": 7},
}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
}


def batch_of(name: str, number: int = 1, url: str = "", **fields: Any) -> dict[str, Any]:
    """A batch as the vendors' references show one that has ended."""
    if name == "messages":
        return {
            "id": f"msgbatch_{number}",
            "type": "message_batch",
            "processing_status": "ended",
            "request_counts": {
                "processing": 0,
                "succeeded": 2,
                "errored": 1,
                "canceled": 0,
                "expired": 1,
            },
            "ended_at": "2026-11-28T10:00:00Z",
            "created_at": "2026-11-28T09:00:00Z",
            "expires_at": "2026-11-29T09:00:00Z",
            "results_url": f"{url}/v1/messages/batches/msgbatch_{number}/results",
            **fields,
        }
    return {
        "id": f"batch_{number}",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-in",
        "completion_window": "24h",
        "status": "completed",
        "output_file_id": "file-out",
        "error_file_id": "file-err",
        "created_at": 1795856400,
        "expires_at": 1795942800,
        "completed_at": 1795860000,
        "request_counts": {"total": 4, "completed": 2, "failed": 1},
        "metadata": {"batchrun": "a0123456789abcdef"},
        **fields,
    }


def client_for(name: str, url: str, *, timeout_s: float = DEADLINE_S) -> BatchClient:
    wire_format = formats.of(name)
    return BatchClient(
        wire_format,
        url + wire_format.path,
        (("anthropic-version", "2023-06-01"), ("x-team", "a")),
        credentials=Credentials(KEY),
        transport=PyreqwestTransport(connections=2),
        options=ClientOptions(timeout_s=timeout_s),
    )


def run(name: str, decide: Callable[[Call], Reply], act: Callable[[BatchClient], Any]) -> Provider:
    """Let `act` use a client of a server."""
    with serving(decide) as provider:

        async def main() -> None:
            await act(client_for(name, provider.url))

        anyio.run(main)
    return provider


def reply(payload: object, **more: Any) -> Reply:
    return Reply(body=json.dumps(payload).encode(), **more)


def content(name: str, rows: int = 2) -> io.BytesIO:
    """The content of a batch, as the dispatcher writes it."""
    wire_format = formats.of(name)
    batches = wire_format.batches
    assert batches is not None
    service = batches.service(f"https://api.example.com{wire_format.path}")
    lines = [
        wire_format.batch_line(f"t-{n}", WireRequest("", (), b'{"model":"m","n":%d}' % n), service)
        for n in range(rows)
    ]
    whole = batches.head + batches.separator.join(lines) + batches.tail
    assert batches.size(rows, sum(map(len, lines))) == len(whole)
    return io.BytesIO(whole)


@BOTH
def test_a_batch_is_created_and_read(name: str) -> None:
    found: list[RemoteBatch] = []

    def decide(call: Call) -> Reply:
        if call.path == "/v1/files":
            return reply({"id": "file-in", "object": "file"})
        return reply(batch_of(name))

    async def act(client: BatchClient) -> None:
        body = content(name)
        file = await client.upload(body, "a0123456789abcdef")
        found.append(await client.create(body, file, "a0123456789abcdef"))

    calls = run(name, decide, act).calls
    assert found[0].state is BatchState.ENDED
    assert (found[0].rows, found[0].done, found[0].failed) == (4, 2, 1)
    assert found[0].created_us == 1795856400_000_000
    assert found[0].expires_us == 1795942800_000_000
    assert found[0].ended_us == 1795860000_000_000
    created = calls[-1]
    assert created.headers["x-team"] == "a"
    if name == "messages":
        assert [call.path for call in calls] == ["/v1/messages/batches"]
        assert created.headers["x-api-key"] == KEY
        assert created.json == {
            "requests": [
                {"custom_id": f"t-{n}", "params": {"model": "m", "n": n}} for n in range(2)
            ]
        }
        assert found[0].results_expire_us == found[0].created_us + 29 * 86_400_000_000
    else:
        assert [call.path for call in calls] == ["/v1/files", "/v1/batches"]
        assert created.json == {
            "input_file_id": "file-in",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"batchrun": "a0123456789abcdef"},
        }
        assert (found[0].tag, found[0].input_file) == ("a0123456789abcdef", "file-in")


def test_an_uploaded_file_is_a_form_of_known_length() -> None:
    def decide(_call: Call) -> Reply:
        return reply({"id": "file-in"})

    async def act(client: BatchClient) -> None:
        await client.upload(content("chat", 20_000), "a0")

    (call,) = run("chat", decide, act).calls
    assert int(call.headers["content-length"]) == len(call.body)
    kind, _, boundary = call.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    blank, purpose, file, end = call.body.split(f"--{boundary}".encode())
    assert (blank, end) == (b"", b"--\r\n")
    assert purpose == b'\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    head, _, body = file.partition(b"\r\n\r\n")
    assert b'name="file"; filename="a0.jsonl"' in head
    lines = [json.loads(line) for line in body.strip().split(b"\n")]
    assert len(lines) == 20_000
    assert lines[7] == {
        "custom_id": "t-7",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "n": 7},
    }


@BOTH
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(400, "invalid_request_error"), BatchNotCreated),
        (refusal(413, "request_too_large"), BatchNotCreated),
        (refusal(429, "rate_limit_error", retry_after="7"), BatchNotCreated),
        (refusal(404, "not_found_error"), BatchNotCreated),
        (refusal(500, "api_error"), BatchInDoubt),
        (refusal(529, "overloaded_error"), BatchInDoubt),
        (refusal(504, "timeout_error"), BatchInDoubt),
        (Reply(body=b"<html>"), BatchInDoubt),
        (Reply(body=b"{}"), BatchInDoubt),
        (Reply(body=b'{"id": "batch_1"', cut=120), BatchInDoubt),
        (Reply(cut=0), BatchInDoubt),
        (Reply(delay_s=600), BatchInDoubt),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value.status),
)
def test_a_refused_creation_differs_from_one_in_doubt(
    name: str, answer: Reply, error: type[ProviderError]
) -> None:
    with serving(lambda _call: answer) as provider:

        async def main() -> None:
            client = client_for(name, provider.url, timeout_s=0.3 if answer.delay_s else DEADLINE_S)
            with pytest.raises(error) as raised:
                await client.create(content(name), "file-in" if name == "chat" else None, "a0")
            assert type(raised.value) is error

        anyio.run(main)
    # Never twice, whatever happened.
    assert len(provider.calls) == 1


@BOTH
def test_a_server_that_is_not_there_creates_nothing(name: str) -> None:
    with serving() as provider:
        url = provider.url

    async def main() -> None:
        with pytest.raises(BatchNotCreated):
            await client_for(name, url).create(content(name), "file-in", "a0")

    anyio.run(main)


def lines_of(name: str) -> bytes:
    """Results as the vendors' references show them: answered, refused, expired, canceled."""
    error = {"type": "invalid_request_error", "message": "too long"}
    if name == "messages":
        results: list[dict[str, Any]] = [
            {"type": "succeeded", "message": MESSAGE},
            {"type": "errored", "error": {"type": "error", "error": error, "request_id": "req_9"}},
            {"type": "expired"},
            {"type": "canceled"},
        ]
        lines = [{"custom_id": f"t-{n}", "result": result} for n, result in enumerate(results)]
    else:
        responses: list[tuple[Any, Any]] = [
            ({"status_code": 200, "request_id": "req_0", "body": COMPLETION}, None),
            ({"status_code": 400, "request_id": "req_9", "body": {"error": error}}, None),
            (None, {"code": "batch_expired", "message": "expired"}),
            (None, {"code": "batch_cancelled", "message": "canceled"}),
        ]
        lines = [
            {"id": f"batch_req_{n}", "custom_id": f"t-{n}", "response": response, "error": error}
            for n, (response, error) in enumerate(responses)
        ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def collect(client: BatchClient, batch: RemoteBatch) -> list[BatchAnswer]:
    return [answer async for answer in client.results(batch)]


async def extend(found: list[BatchAnswer], answers: AsyncIterator[BatchAnswer]) -> None:
    async for answer in answers:
        found.append(answer)


async def ended(client: BatchClient) -> RemoteBatch:
    return await client.get("1")


@BOTH
def test_results_are_read_as_live_answers_are(name: str) -> None:
    found: list[BatchAnswer] = []
    output, _, rest = lines_of(name).partition(b"\n")

    def decide(call: Call) -> Reply:
        if call.path.endswith("/1"):
            return reply(batch_of(name, url=provider_url[0]))
        if call.path == "/v1/files/file-out/content":
            return Reply(body=output + b"\n")
        return Reply(body=rest if name == "chat" else lines_of(name))

    provider_url = [""]
    with serving(decide) as provider:
        provider_url[0] = provider.url

        async def main() -> None:
            client = client_for(name, provider.url)
            found.extend(await collect(client, await ended(client)))

        anyio.run(main)
    answered, refused, expired, canceled = sorted(found, key=lambda answer: answer.custom_id)
    assert answered.outcome is BatchOutcome.ANSWERED
    assert answered.completion is not None
    assert answered.completion.texts == ("ok",)
    assert answered.completion.usage.output_tokens == 7
    assert refused.outcome is BatchOutcome.ERRORED
    assert refused.fault is not None
    assert (refused.fault.error_type, refused.fault.http_status, refused.fault.message) == (
        "invalid_request_error",
        400,
        "too long",
    )
    assert refused.fault.request_id == "req_9"
    assert not refused.fault.maybe_billed
    assert (expired.outcome, canceled.outcome) == (BatchOutcome.EXPIRED, BatchOutcome.CANCELED)


@BOTH
def test_a_torn_download_fails_after_what_arrived_and_can_be_repeated(name: str) -> None:
    line = lines_of(name).split(b"\n")[0] + b"\n"
    body = line * 3
    seen: list[int] = []

    def decide(call: Call) -> Reply:
        torn = call.number == 1
        return Reply(body=body, cut=60 + len(line) * 2 + 50 if torn else None)

    async def act(client: BatchClient) -> None:
        batch = formats.of(name).batches.read_batch(  # type: ignore[union-attr]
            batch_of(name, error_file_id=None, results_url=None)
        )
        for _ in range(2):
            count = 0
            try:
                async for _answer in client.results(batch):
                    count += 1
            except ProviderError as error:
                assert error.fault.error_type == "connection_error"  # noqa: PT017
            seen.append(count)

    run(name, decide, act)
    assert seen[0] < 3
    assert seen[1] == 3


@BOTH
def test_lines_that_cannot_be_read_do_not_hide_the_others(name: str) -> None:
    line = lines_of(name).split(b"\n")[0]
    large = line[:-1] + b',"x":"' + b"x" * (33 * 2**20) + b'"}'
    body = b"\n".join([b"<html>", line, b"", large, line[:40], line])
    found: list[BatchAnswer] = []

    async def act(client: BatchClient) -> None:
        batch = formats.of(name).batches.read_batch(  # type: ignore[union-attr]
            batch_of(name, error_file_id=None, results_url=None)
        )
        with pytest.raises(ProviderError, match="2 lines of the results cannot be read: <html>"):
            await extend(found, client.results(batch))

    run(name, lambda _call: Reply(body=body), act)
    assert [answer.completion is not None for answer in found] == [True, False, True]
    assert found[1].custom_id == "t-0"
    assert found[1].fault is not None
    assert found[1].fault.error_type == "response_too_large"
    assert found[1].fault.maybe_billed


def test_the_key_is_sent_to_the_host_of_the_base_url_only() -> None:
    line = lines_of("messages").split(b"\n")[0]
    with serving(lambda _call: Reply(body=line)) as foreign:

        def decide(call: Call) -> Reply:
            if call.path.endswith("/results"):
                return refusal(404, "not_found_error")
            return reply(batch_of("messages", url=foreign.url))

        async def act(client: BatchClient) -> None:
            (answer,) = await collect(client, await ended(client))
            assert answer.completion is not None

        home = run("messages", decide, act)
    assert [call.path for call in home.calls] == [
        "/v1/messages/batches/1",
        "/v1/messages/batches/msgbatch_1/results",
    ]
    (call,) = foreign.calls
    assert KEY not in json.dumps(dict(call.headers))
    assert "x-team" not in call.headers


@BOTH
def test_batches_are_listed_page_by_page_back_to_a_time(name: str) -> None:
    after = "after_id" if name == "messages" else "after"
    times = [1795856400 - 60 * n for n in range(7)]

    def decide(call: Call) -> Reply:
        start = int(call.path.split(f"{after}=")[1].rpartition("_")[2]) if after in call.path else 0
        page = [
            batch_of(name, n, created_at=times[n - 1]) for n in range(start + 1, min(start + 4, 8))
        ]
        return reply({"data": page, "has_more": start + 3 < 7, "last_id": page[-1]["id"]})

    found: list[str] = []

    async def act(client: BatchClient) -> None:
        found.extend([batch.id async for batch in client.recent(times[4] * 1_000_000)])
        found.append("all")
        found.extend([batch.id async for batch in client.recent()])

    calls = run(name, decide, act).calls
    numbers = [each.rpartition("_")[2] for each in found]
    assert numbers == [*"12345", "all", *"1234567"]
    assert len(calls) == 2 + 3


@BOTH
@pytest.mark.parametrize(
    "answer",
    [
        refusal(404, "not_found_error"),
        refusal(405, "method"),
        Reply(404, b"<html>nothing here</html>"),
        Reply(body=b"<html>welcome</html>"),
        Reply(body=b'{"hello": 1}'),
    ],
    ids=["404", "405", "404 page", "page", "other json"],
)
def test_a_server_without_batches_is_recognized_before_anything_is_sent(
    name: str, answer: Reply
) -> None:
    async def act(client: BatchClient) -> None:
        with pytest.raises(NoBatchEndpoint, match=r"there is no batch endpoint at http://127"):
            await client.check()

    (call,) = run(name, lambda _call: answer, act).calls
    assert call.body == b""


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("messages", "https://api.anthropic.com/v1/messages"),
        ("chat", "https://api.openai.com/v1/chat/completions"),
        ("chat", "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=1"),
    ],
)
@pytest.mark.anyio
async def test_the_simulator_takes_the_place_of_a_batch_endpoint(name: str, url: str) -> None:
    root = url.partition("?")[0].removesuffix("/chat/completions").removesuffix("/messages")
    async with simulated(SimulatorConfig(batch_s=0.05)) as peer:
        client = BatchClient(
            formats.of(name),
            url,
            (),
            credentials=Credentials(),
            transport=PyreqwestTransport(connections=2),
            options=ClientOptions(timeout_s=DEADLINE_S, reroute=(root, f"{peer.url}/v1")),
        )
        await client.check()
        lines = [
            formats.of(name).batch_line(
                f"t-{n}", WireRequest("", (), json.dumps(body(f"Hi {n}")).encode()), client.service
            )
            for n in range(3)
        ]
        shape = formats.of(name).batches
        assert shape is not None
        requests = io.BytesIO(shape.head + shape.separator.join(lines) + shape.tail)
        batch = await client.create(requests, await client.upload(requests, "a0"), "a0")
        with anyio.fail_after(DEADLINE_S):
            while not batch.state.is_final:
                (batch,) = [each async for each in client.recent()]
        answers = await collect(client, batch)
    assert (batch.rows, batch.done) == (3, 3)
    assert sorted(answer.custom_id for answer in answers) == ["t-0", "t-1", "t-2"]
    assert all(answer.completion is not None for answer in answers)
