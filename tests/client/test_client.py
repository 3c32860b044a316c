"""One HTTP attempt against real servers on loopback: an answer, or a fault that says what happened."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from batchrun import client as client_module
from batchrun.client import (
    Client,
    ClientOptions,
    Credentials,
    Exchange,
    PyreqwestTransport,
    retry_after,
)
from batchrun.errors import ProviderError, ProviderFault
from batchrun.formats import of
from batchrun.records import Usage, WireRequest
from tests.support.clock import OwnedClockLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from batchrun.records import FormatName

pytestmark = pytest.mark.anyio

KEY = "sk-canary-0123456789abcdef"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-haiku-4-5-20251001",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2},
}
CHAT = {
    "id": "chatcmpl-1",
    "model": "m",
    "choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# A server whose every byte the test decides


@dataclass(frozen=True)
class Arrived:
    """One request as the server read it."""

    line: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Server:
    url: str = ""
    requests: list[Arrived] = field(default_factory=list)
    connections: int = 0


Handler = "Callable[[asyncio.StreamWriter], Awaitable[None]]"


@asynccontextmanager
async def serving(
    reply: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Server]:
    """Answer every request with these bytes, or by calling a function with the connection."""
    server = Server()
    tasks: list[asyncio.Task[Any] | None] = []
    writers: list[asyncio.StreamWriter] = []

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        writers.append(writer)
        tasks.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                server.requests.append(await read_request(reader))
                if isinstance(reply, bytes):
                    writer.write(reply)
                    await writer.drain()
                else:
                    await reply(writer)
        writer.close()

    listener = await asyncio.start_server(connection, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for task in filter(None, tasks):
            task.cancel()
        for writer in writers:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> Arrived:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = [line.partition(":") for line in head[1:] if line]
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Arrived(head[0], headers, await reader.readexactly(int(headers["content-length"])))


def response(
    body: bytes | Mapping[str, Any], status: int = 200, *, length: int | None = None, **headers: str
) -> bytes:
    """The bytes of a response; `length` is what it claims, right or wrong."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Reason", f"content-length: {length or len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection the hard way, with a TCP reset."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


# What is asked of it


def wire(
    url: str, *, headers: tuple[tuple[str, str], ...] = (), body: bytes = b"{}"
) -> WireRequest:
    return WireRequest(f"{url}/v1/messages", (("content-type", "application/json"), *headers), body)


@asynccontextmanager
async def opened(
    wire_format: FormatName = "messages",
    key: str | None = KEY,
    *,
    timeout_s: float = 30.0,
    transport: httpx.AsyncBaseTransport | None = None,
    reroute: tuple[str, str] | None = None,
) -> AsyncIterator[Client]:
    carrier = transport or PyreqwestTransport(connections=4)
    opened_client = Client(
        of(wire_format),
        Credentials(key),
        carrier,
        ClientOptions(timeout_s, reroute=reroute),
    )
    try:
        yield opened_client
    finally:
        await opened_client.aclose()


def hasty() -> PyreqwestTransport:
    """A transport that connects at once or not at all."""
    return PyreqwestTransport(connections=1, connect_timeout_s=0.2)


async def send(server: Server, wire_format: FormatName = "messages", **options: Any) -> Exchange:
    async with opened(wire_format, **options) as client:
        return await client.send(wire(server.url))


async def fault_of(client: Client, request: WireRequest) -> ProviderFault:
    """Send something that fails; nothing but a `ProviderError` may come out of it."""
    with anyio.fail_after(60), pytest.raises(ProviderError) as caught:
        await client.send(request)
    fault = caught.value.fault
    assert fault.message
    assert KEY not in f"{caught.value} {fault!r} {caught.value.__cause__!r}"
    return fault


async def fault_from(
    reply: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]], **options: Any
) -> ProviderFault:
    async with serving(reply) as server, opened(**options) as client:
        return await fault_of(client, wire(server.url))


# Answers


async def test_an_answer_in_the_messages_format() -> None:
    async with serving(response(MESSAGE, request_id="req_9", X_Other="1")) as server:
        exchange = await send(server)
    assert exchange.completion.texts == ("hello",)
    assert exchange.completion.usage == Usage(input_tokens=3, output_tokens=2)
    assert (exchange.http_status, exchange.request_id) == (200, "req_9")
    assert exchange.headers["x-other"] == "1"


async def test_an_answer_in_the_chat_format() -> None:
    async with serving(response(CHAT, x_request_id="req_8")) as server:
        exchange = await send(server, "chat")
    assert exchange.completion.texts == ("hello",)
    assert exchange.request_id == "req_8"


async def test_what_is_sent_is_the_body_as_it_is_with_its_headers_and_the_key() -> None:
    async with serving(response(MESSAGE)) as server, opened() as client:
        body = '{"prompt": "naïve 東京"}'.encode()
        await client.send(wire(server.url, headers=(("anthropic-beta", "x"),), body=body))
    (arrived,) = server.requests
    assert arrived.line == "POST /v1/messages HTTP/1.1"
    assert arrived.body == body
    assert arrived.headers["anthropic-beta"] == "x"
    assert arrived.headers["content-type"] == "application/json"
    assert arrived.headers["host"] == server.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("wire_format", "header", "value", "reply"),
    [
        ("messages", "x-api-key", KEY, MESSAGE),
        ("chat", "authorization", f"Bearer {KEY}", CHAT),
    ],
)
async def test_the_key_travels_as_the_format_wants_it(
    wire_format: FormatName, header: str, value: str, reply: Mapping[str, Any]
) -> None:
    async with serving(response(reply)) as server:
        await send(server, wire_format)
        await send(server, wire_format, key=None)
    with_key, without_key = server.requests
    assert with_key.headers[header] == value
    assert not {"authorization", "x-api-key"} & without_key.headers.keys()


async def test_connections_are_used_again() -> None:
    async with serving(response(MESSAGE)) as server, opened() as client:
        for _ in range(5):
            await client.send(wire(server.url))
    assert server.connections == 1
    assert len(server.requests) == 5


async def test_rerouted_requests_keep_their_path_and_never_reach_their_own_host() -> None:
    async with serving(response(MESSAGE)) as server:
        reroute = ("https://api.example.invalid", server.url)
        async with opened(key=None, reroute=reroute) as client:
            await client.send(wire("https://api.example.invalid"))
    assert server.requests[0].line == "POST /v1/messages HTTP/1.1"


async def test_a_compressed_answer_is_read() -> None:
    body = gzip.compress(json.dumps(MESSAGE).encode())
    async with serving(response(body, content_encoding="gzip")) as server:
        assert (await send(server)).completion.texts == ("hello",)


async def test_an_answer_in_pieces_is_read_whole() -> None:
    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        for byte in response(MESSAGE):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

    async with serving(in_pieces) as server:
        assert (await send(server)).completion.texts == ("hello",)


async def test_a_chunked_answer_is_read() -> None:
    content = json.dumps(MESSAGE).encode()
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content)
    async with serving(head + chunks + b"0\r\n\r\n") as server:
        assert (await send(server)).completion.texts == ("hello",)


# Answers that say no


def error_body(error_type: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": error_type, "message": message}}


@pytest.mark.parametrize(
    "status", [400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 503, 529]
)
async def test_an_error_body_is_told_as_the_provider_said_it(status: int) -> None:
    body = error_body("some_error", "because")
    fault = await fault_from(response(body, status, request_id="req_7"))
    gave_up = status == 408
    assert fault == ProviderFault("some_error", "because", status, "req_7", maybe_billed=gave_up)


@pytest.mark.parametrize(
    ("body", "error_type", "words"),
    [
        (b"", "http_502", "empty body"),
        (b"<html>Bad  Gateway</html>", "http_502", "<html>Bad Gateway</html>"),
        (b'{"error": "plain"}', "http_502", "plain"),
        (b'{"error": {"code": "c1", "message": "m1"}}', "c1", "m1"),
        (b"[1, 2]", "http_502", "[1, 2]"),
        (b"null", "http_502", "null"),
        (b"\xff\xfe\x00", "http_502", "\ufffd"),
    ],
)
async def test_an_error_body_of_any_shape_makes_a_fault(
    body: bytes, error_type: str, words: str
) -> None:
    fault = await fault_from(response(body, 502))
    assert (fault.error_type, fault.http_status) == (error_type, 502)
    assert words in fault.message


async def test_the_request_id_is_found_in_the_body_when_no_header_has_it() -> None:
    body = {**error_body("api_error", "no"), "request_id": "req_body"}
    assert (await fault_from(response(body, 500))).request_id == "req_body"


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False), ("maybe", None)])
async def test_an_explicit_wish_about_retries_is_passed_on(
    value: str, *, expected: bool | None
) -> None:
    fault = await fault_from(response(b"{}", 500, x_should_retry=value))
    assert fault.should_retry is expected


async def test_the_time_to_wait_is_passed_on() -> None:
    assert (await fault_from(response(b"{}", 429, retry_after="7"))).retry_after_s == 7


async def test_the_request_id_in_an_error_body_under_200_is_kept() -> None:
    body = json.dumps({**error_body("overloaded_error", "busy"), "request_id": "req_7"}).encode()
    assert (await fault_from(response(body))).request_id == "req_7"
    assert (await fault_from(response(body, request_id="req_8"))).request_id == "req_8"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(status: int) -> None:
    async with serving(response(MESSAGE)) as other:
        reply = response(b"", status, location=f"{other.url}/elsewhere")
        fault = await fault_from(reply)
    assert other.requests == []
    assert (fault.error_type, fault.http_status) == ("redirect", status)
    assert f"{other.url}/elsewhere" in fault.message


@pytest.mark.parametrize("status", [201, 202])
async def test_a_completion_under_another_success_than_200_is_an_answer(status: int) -> None:
    async with serving(response(MESSAGE, status)) as server:
        found = await send(server)
    assert (found.completion.texts, found.http_status) == (("hello",), status)


@pytest.mark.parametrize(
    ("status", "body"), [(201, b""), (202, b'{"id": "job_1", "status": "queued"}'), (204, b"")]
)
async def test_another_success_than_200_without_a_completion_is_no_answer(
    status: int, body: bytes
) -> None:
    fault = await fault_from(response(body, status))
    assert fault.http_status == status


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>captive portal</html>", "not JSON: <html>captive portal"),
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no content blocks"),
        (json.dumps(error_body("overloaded_error", "busy")).encode(), "overloaded_error: busy"),
        (json.dumps(CHAT).encode(), "no content blocks"),
        (b'{"content": [{"type": "text", "text": "cut o', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
async def test_a_body_under_200_that_is_no_completion_may_have_been_billed(
    body: bytes, words: str
) -> None:
    fault = await fault_from(response(body, request_id="req_5"))
    expected = "overloaded_error" if b"overloaded_error" in body else "invalid_response"
    assert (fault.error_type, fault.http_status) == (expected, 200)
    assert (fault.request_id, fault.maybe_billed) == ("req_5", True)
    assert words in fault.message
    assert len(fault.message) < 3_000


# Exchanges that break


async def test_a_refused_connection_cannot_have_been_billed() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with opened() as client:
            fault = await fault_of(client, wire(url))
    assert (fault.error_type, fault.http_status) == ("connection_error", None)
    assert not fault.maybe_billed
    assert "refused" in fault.message


async def test_a_host_that_does_not_exist_cannot_have_billed() -> None:
    async with opened() as client:
        fault = await fault_of(client, wire("http://no-such-host.invalid"))
    assert (fault.error_type, fault.maybe_billed) == ("unknown_host", False)


async def close_at_once(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset_at_once(writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def reset_after_the_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.05)
    reset(writer)


async def close_in_the_body(writer: asyncio.StreamWriter) -> None:
    writer.write(response(MESSAGE, length=5_000))
    await writer.drain()
    writer.close()


async def close_in_a_chunk(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{")
    await writer.drain()
    writer.close()


async def speak_another_protocol(writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 smtp.example.com ESMTP\r\n" * 10)
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    "how",
    [
        close_at_once,
        reset_at_once,
        reset_after_the_head,
        close_in_the_body,
        close_in_a_chunk,
        speak_another_protocol,
    ],
)
async def test_an_exchange_that_breaks_after_the_request_left_may_have_been_billed(
    how: Callable[[asyncio.StreamWriter], Awaitable[None]],
) -> None:
    fault = await fault_from(how)
    assert (fault.error_type, fault.maybe_billed) == ("connection_error", True)
    assert fault.should_retry is None


async def test_a_server_that_promises_too_short_a_body_gives_no_answer() -> None:
    fault = await fault_from(response(MESSAGE, length=20))
    assert fault.error_type in {"invalid_response", "connection_error"}


async def never_answer(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def drip_the_head(writer: asyncio.StreamWriter) -> None:
    for byte in response(MESSAGE):
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


async def drip_the_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", [never_answer, drip_the_head, drip_the_body])
async def test_an_answer_that_takes_too_long_in_all_is_a_timeout(
    how: Callable[[asyncio.StreamWriter], Awaitable[None]],
) -> None:
    start = time.monotonic()
    fault = await fault_from(how, timeout_s=0.2)
    assert fault == ProviderFault("timeout", "no answer within 0.2 s", maybe_billed=True)
    assert time.monotonic() - start < 20


async def test_a_server_that_does_not_even_connect_cannot_have_billed() -> None:
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Once its queue is full, a listener lets nobody in.
        for _ in range(3):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with opened(transport=hasty()) as client:
            fault = await fault_of(client, wire(url))
    assert (fault.error_type, fault.maybe_billed) == ("timeout", False)


async def test_the_timeout_holds_whatever_carries_the_requests() -> None:
    class Stuck(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await anyio.sleep_forever()
            return httpx.Response(200, request=request)

    async with opened(transport=Stuck(), timeout_s=0.1) as client:
        fault = await fault_of(client, wire("http://x"))
    assert (fault.error_type, fault.message) == ("timeout", "no answer within 0.1 s")


async def endless_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    block = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    while True:
        writer.write(block)
        await writer.drain()


async def test_a_body_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 2 * 2**20)
    fault = await fault_from(endless_body)
    assert (fault.error_type, fault.http_status) == ("response_too_large", 200)
    assert fault.message == "the body is larger than 2 MiB"
    assert fault.maybe_billed
    assert fault.should_retry is False


async def test_a_body_that_swells_by_decompression_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 2 * 2**20)
    bomb = gzip.compress(b" " * 2**24)
    fault = await fault_from(response(bomb, content_encoding="gzip"))
    assert fault.error_type == "response_too_large"


class Scripted(httpx.AsyncBaseTransport):
    """Fails, or answers, as the test says."""

    def __init__(self, outcome: Exception | httpx.Response) -> None:
        self._outcome = outcome
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_cannot_be_decompressed_is_a_fault(encoding: str) -> None:
    fault = await fault_from(response(b"not compressed", content_encoding=encoding))
    assert fault.error_type in {"invalid_response", "connection_error"}
    assert fault.maybe_billed


async def test_a_body_that_httpx_cannot_decompress_is_a_fault() -> None:
    stream = httpx.ByteStream(b"not compressed")
    reply = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream)
    async with opened(transport=Scripted(reply)) as client:
        fault = await fault_of(client, wire("http://x"))
    assert fault.maybe_billed


def transport_errors() -> Iterator[type[httpx.TransportError]]:
    """Every error that a transport may raise."""
    kinds = [httpx.TransportError]
    while kinds:
        kind = kinds.pop()
        yield kind
        kinds += kind.__subclasses__()


@pytest.mark.parametrize("kind", [*transport_errors()], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("message", ["what happened", ""])
async def test_every_error_of_a_transport_becomes_a_fault(
    kind: type[httpx.TransportError], message: str
) -> None:
    async with opened(transport=Scripted(kind(message))) as client:
        fault = await fault_of(client, wire("http://x"))
    expected = "timeout" if issubclass(kind, httpx.TimeoutException) else "connection_error"
    assert fault.error_type == expected
    assert message in fault.message
    assert fault.http_status is None


async def test_cancelling_is_no_fault() -> None:
    async with serving(never_answer) as server, opened() as client:
        with anyio.move_on_after(0.1) as scope:
            await client.send(wire(server.url))
    assert scope.cancelled_caught


class SlowToPutAway(httpx.AsyncByteStream):
    """A body that has arrived, on a connection that takes its time to be put away."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield json.dumps(MESSAGE).encode()

    async def aclose(self) -> None:
        await anyio.sleep(0.8)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": OwnedClockLoop})])
@pytest.mark.parametrize("within_s", [0.5, 5.0])
async def test_an_answer_that_was_read_is_kept_whatever_becomes_of_its_connection(
    within_s: float,
) -> None:
    reply = httpx.Response(200, stream=SlowToPutAway())
    async with opened(transport=Scripted(reply), timeout_s=0.5) as client:
        with anyio.move_on_after(within_s):
            exchange = await client.send(wire("http://x"))
    assert exchange.completion.texts == ("hello",)


async def test_a_client_goes_on_after_a_cancelled_and_a_broken_exchange() -> None:
    replies = iter([never_answer, close_in_the_body])

    async def reply(writer: asyncio.StreamWriter) -> None:
        how = next(replies, None)
        if how is not None:
            await how(writer)
        else:
            writer.write(response(MESSAGE))

    async with serving(reply) as server, opened() as client:
        with anyio.move_on_after(0.1):
            await client.send(wire(server.url))
        await fault_of(client, wire(server.url))
        assert (await client.send(wire(server.url))).completion.texts == ("hello",)


# The key is nobody's business


async def test_the_key_is_in_no_description_of_the_client() -> None:
    async with opened() as client:
        assert KEY not in repr(client)
        assert KEY not in str(client)


@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize(
    "body",
    [
        {"error": {"type": "authentication_error", "message": f"invalid key {KEY}!"}},
        {"error": f"invalid key {KEY}"},
        {"error": {"code": KEY, "message": "invalid key"}},
        {"error": {"type": "x", "message": "." * 1_990 + KEY}},
    ],
    ids=["message", "text", "code", "cut off in the middle"],
)
async def test_a_key_that_the_provider_quotes_is_struck_out(
    status: int, body: Mapping[str, Any]
) -> None:
    fault = await fault_from(response(body, status))
    assert KEY[:9] not in repr(fault)


async def test_a_key_in_a_body_that_is_no_json_is_struck_out() -> None:
    for padding in (0, 285):
        fault = await fault_from(response(b"." * padding + KEY.encode() + b" is no key", 401))
        assert KEY[:9] not in repr(fault)


async def test_a_header_that_cannot_be_sent_is_a_fault_and_not_a_crash() -> None:
    async with serving(response(MESSAGE)) as server, opened() as client:
        request = wire(server.url, headers=(("x-team", "Größe"),))
        with suppress(ProviderError):
            await client.send(request)


# Proxies


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(response(MESSAGE)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with opened() as client:
            exchange = await client.send(wire("http://api.example.invalid"))
    assert exchange.completion.texts == ("hello",)
    assert proxy.requests[0].line == "POST http://api.example.invalid/v1/messages HTTP/1.1"


async def test_no_proxy_excludes_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(response(b"", 500)) as proxy, serving(response(MESSAGE)) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
        assert (await send(server)).completion.texts == ("hello",)
    assert proxy.requests == []


async def test_the_password_of_a_proxy_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("HTTP_PROXY", f"http://me:{KEY}@{address}")
        async with opened() as client:
            fault = await fault_of(client, wire("http://api.example.invalid"))
    assert fault.error_type == "connection_error"


async def test_without_proxies_nothing_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "")
    async with serving(response(MESSAGE)) as server:
        assert (await send(server)).completion.texts == ("hello",)


# How long to wait

DAY_S = 24 * 3600
NOW = 1_800_000_000.0


def http_date(after_s: float) -> str:
    return formatdate(NOW + after_s, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "5"}, 5),
        ({"retry-after": " 5 "}, 5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after-ms": "-1", "retry-after": "9"}, 9),
        ({"retry-after": "-10"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e35"}, DAY_S),
        ({"retry-after-ms": "1e35"}, DAY_S),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": http_date(30)}, 30),
        ({"retry-after": http_date(-30)}, 0),
        ({"retry-after": http_date(30), "date": http_date(10)}, 20),
        ({"retry-after": http_date(30), "date": "rubbish"}, 30),
        ({"retry-after": http_date(10 * DAY_S)}, DAY_S),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, DAY_S),
        ({"retry-after": "Fri, 31 Dec 100000 23:59:59 GMT"}, None),
        ({"retry-after": "Thu, 99 Foo 2026 99:99:99 GMT"}, None),
    ],
)
def test_how_long_the_server_asks_to_wait(
    headers: Mapping[str, str], expected: float | None
) -> None:
    assert retry_after(headers, now=NOW) == expected
