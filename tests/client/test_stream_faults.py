"""What a server may send in place of a whole stream.

Each is a failed attempt with a reason, in bounded memory and time, or an answer when it is one.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from batchrun import client as client_module
from batchrun.client import Client, ClientOptions, Credentials, PyreqwestTransport
from batchrun.errors import ProviderError
from batchrun.formats import of, streaming
from batchrun.records import WireRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from batchrun.records import Completion, FormatName

    Act = Callable[[asyncio.StreamWriter], Awaitable[None]]

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


@asynccontextmanager
async def serving(act: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that reads one request and then acts."""

    writers: list[asyncio.StreamWriter] = []

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await act(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:  # also of a connection that the test did not wait for
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def send(
    act: Callable[[asyncio.StreamWriter], Awaitable[None]],
    *,
    wire_format: FormatName = "chat",
    timeout_s: float = 20.0,
    content: bytes = b"",
) -> Completion:
    async with serving(act) as url:
        transport = PyreqwestTransport(connections=1)
        client = Client(of(wire_format), Credentials("key"), transport, ClientOptions(timeout_s))
        try:
            return (await client.send(WireRequest(url, (), content, stream=True))).completion
        finally:
            await client.aclose()


def body(
    content: bytes, content_type: bytes = b"text/event-stream"
) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    async def act(writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\nconnection: close\r\n\r\n" % content_type
        writer.write(head + content)
        await writer.drain()

    return act


END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
WHOLE = json.dumps({"choices": [{"message": {"content": "whole"}}]}).encode()


@pytest.mark.parametrize(
    ("content", "content_type", "error_type"),
    [
        (b"<html>Bad gateway</html>", b"text/html", "invalid_response"),
        (b"<html>Bad gateway</html>", b"text/event-stream", "stream_cut"),
        (b"", b"text/event-stream", "stream_cut"),
        (b"", b"application/json", "invalid_response"),
        (WHOLE[:-3], b"application/json", "invalid_response"),
        (DELTA, b"text/event-stream", "stream_cut"),
        (DELTA + DELTA[:-9], b"text/event-stream", "stream_cut"),
        (DELTA + END + DELTA[:-9], b"text/event-stream", "stream_cut"),
        (DELTA + b"data: [DONE]\n\n", b"text/event-stream", "stream_cut"),
        (b"data: {\xff\xfe\n\n", b"text/event-stream", "invalid_response"),
        (b"data: " + b"[" * 200_000 + b"\n\n", b"text/event-stream", "invalid_response"),
    ],
    ids=[
        "html",
        "html-as-events",
        "nothing",
        "empty",
        "cut-json",
        "cut",
        "cut-event",
        "cut-behind-the-end",
        "no-reason",
        "bytes",
        "deep",
    ],
)
async def test_what_is_no_answer_is_a_failed_attempt(
    content: bytes, content_type: bytes, error_type: str
) -> None:
    with pytest.raises(ProviderError) as caught:
        await send(body(content, content_type))
    fault = caught.value.fault
    assert (fault.error_type, fault.http_status) == (error_type, 200)
    assert fault.maybe_billed
    assert len(fault.message) < 3_000


@pytest.mark.parametrize("content_type", [b"application/json", b"text/event-stream"])
async def test_a_whole_answer_to_a_request_for_a_stream_is_one(content_type: bytes) -> None:
    assert (await send(body(WHOLE, content_type))).texts == ("whole",)
    pretty = json.dumps(json.loads(WHOLE), indent=2).encode()
    assert (await send(body(b"\n" + pretty, content_type))).texts == ("whole",)


async def test_an_error_under_the_type_of_a_stream_is_judged_by_its_own_code() -> None:
    content = b'{"error":{"message":"Slow down","code":429,"metadata":{"retry_after_seconds":2}}}'
    with pytest.raises(ProviderError) as caught:
        await send(body(content))
    fault = caught.value.fault
    assert (fault.http_status, fault.retry_after_s, fault.maybe_billed) == (429, 2.0, False)


async def test_the_end_marker_needs_no_empty_line_behind_it() -> None:
    assert (await send(body(DELTA + END + b"data: [DONE]"))).texts == ("x",)
    assert (await send(body(DELTA + END + b"data: [DONE]\n"))).texts == ("x",)


@pytest.mark.parametrize("content_type", [b"Text/Event-Stream", b"text/plain", b"application/json"])
async def test_a_stream_under_another_type_is_read(content_type: bytes) -> None:
    assert (await send(body(DELTA + END + b"data: [DONE]\n\n", content_type))).texts == ("x",)


async def test_a_long_stream_of_small_events_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 100_000)
    events = 2 * 100_000 // len(DELTA)
    found = await send(body(DELTA * events + END + b"data: [DONE]\n\n"))
    assert found.texts == ("x" * events,)


async def test_an_answer_in_huge_events_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MAX_HELD_BYTES", 100_000)
    with pytest.raises(ProviderError, match="streamed answer is larger than") as caught:
        await send(body(DELTA.replace(b'"x"', b'"%s"' % (b"x" * 10_000)) * 20))
    assert caught.value.fault.error_type == "response_too_large"
    assert caught.value.fault.should_retry is False


async def test_bytes_that_are_no_utf8_do_not_lose_the_answer() -> None:
    broken = DELTA.replace(b'"x"', b'"\xff"')
    found = await send(body(broken + END + b"data: [DONE]\n\n"))
    assert found.texts == ("\N{REPLACEMENT CHARACTER}",)


async def test_a_server_that_keeps_the_stream_open_after_its_end_is_not_waited_for() -> None:
    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n" + DELTA + END + b"data: [DONE]\n\n")
        await writer.drain()
        await asyncio.sleep(30)

    assert (await send(act)).texts == ("x",)


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7}}\n\n'


def held_open(*pieces: bytes | float, pings: bool = False) -> Act:
    """Send pieces, and wait between them; then neither say more nor close the connection."""

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n")
        for piece in pieces:
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                writer.write(piece)
                await writer.drain()
        while True:
            await asyncio.sleep(0.1)
            if pings:
                writer.write(b": ping\n\n")
                await writer.drain()

    return act


@pytest.mark.parametrize("pings", [False, True])
async def test_an_answer_that_is_whole_ends_without_a_marker_or_an_end(
    monkeypatch: pytest.MonkeyPatch, *, pings: bool
) -> None:
    monkeypatch.setattr(streaming, "QUIET_S", 0.3)
    monkeypatch.setattr(streaming, "QUIET_WITHOUT_USAGE_S", 3.0)
    start = time.monotonic()
    found = await send(held_open(DELTA + END, 1.0, USAGE, pings=pings), timeout_s=60)
    assert (found.texts, found.usage.output_tokens) == (("x",), 7)
    assert time.monotonic() - start < 10
    assert (await send(held_open(DELTA + END, pings=pings), timeout_s=60)).texts == ("x",)


LATE_ERROR = b'data: {"error":{"code":500,"message":"it broke"}}\n\n'


@pytest.mark.parametrize(
    ("pieces", "quiet_s", "limit_s", "message"),
    [
        ((DELTA,), 0.2, 2.0, "no answer within 2 s"),
        ((DELTA + END + USAGE[:-9],), 0.2, 2.0, "no answer within 2 s"),
        ((DELTA + END + USAGE, 1.0, LATE_ERROR), 600.0, 600.0, "it broke"),
    ],
    ids=["no-reason", "within-an-event", "an-error-later"],
)
async def test_only_a_whole_answer_ends_before_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
    pieces: tuple[bytes | float, ...],
    quiet_s: float,
    limit_s: float,
    message: str,
) -> None:
    monkeypatch.setattr(streaming, "QUIET_S", quiet_s)
    monkeypatch.setattr(streaming, "QUIET_WITHOUT_USAGE_S", 0.2)
    with pytest.raises(ProviderError, match=message):
        await send(held_open(*pieces), timeout_s=limit_s)


async def test_a_choice_that_has_not_begun_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "QUIET_WITHOUT_USAGE_S", 0.2)
    other = (DELTA + END).replace(b'"index":0', b'"index":1')
    found = await send(held_open(DELTA + END, 1.0, other), timeout_s=60, content=b'{"n":2}')
    assert found.texts == ("x", "x")


async def test_a_stream_that_never_ends_is_ended_by_the_time_limit() -> None:
    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(b": ping\n\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    with pytest.raises(ProviderError) as caught:
        await send(act, timeout_s=0.5)
    assert caught.value.fault.error_type == "timeout"


async def test_a_stream_of_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments are not kept, so only the bytes that were received can bound them."""
    monkeypatch.setattr(client_module, "MAX_STREAM_BYTES", 2 * 2**20)

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n" + DELTA)
        while True:
            writer.write(b": ping\n\n" * 1_000)
            await writer.drain()

    with pytest.raises(ProviderError, match="the body is larger than 2 MiB") as caught:
        await send(act)
    assert caught.value.fault.error_type == "response_too_large"
    assert caught.value.fault.should_retry is False
    assert caught.value.fault.maybe_billed


async def test_a_stream_without_bounds_is_cut_off() -> None:
    sent = 0

    async def act(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + b"\r\n")
        while sent < 4 * client_module.MAX_BODY_BYTES:
            writer.write(b"data: " if not sent else b"x" * 1_000_000)
            sent += 1_000_000
            await writer.drain()

    with pytest.raises(ProviderError, match="a stream event is larger than 32 MiB") as caught:
        await send(act)
    assert caught.value.fault.should_retry is False
    assert sent < 2 * client_module.MAX_BODY_BYTES


async def test_a_connection_that_breaks_in_a_stream_may_have_been_billed() -> None:
    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"content-length: 100000\r\n\r\n" + DELTA)
        await writer.drain()

    with pytest.raises(ProviderError) as caught:
        await send(act)
    assert caught.value.fault.error_type == "connection_error"
    assert caught.value.fault.maybe_billed
