"""Servers that misbehave on the wire: each exchange ends, in bounded time and memory, as a fault.

Those of streams are in test_stream_faults.py, the plainer ones in test_client.py.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import tracemalloc
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import pytest

from batchrun.client import Client, ClientOptions, Credentials, PyreqwestTransport
from batchrun.dispatch.judgement import TrackRecord, judge
from batchrun.errors import ProviderError
from batchrun.formats import of
from batchrun.limits.retry_delays import Cause
from batchrun.records import WireRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from batchrun.errors import ProviderFault
    from batchrun.records import FormatName

    Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

pytestmark = pytest.mark.anyio

ANSWERED = TrackRecord(answered=True)
MANY_BYTES = 150 * 2**20
OK = b"HTTP/1.1 200 OK\r\n"
ANSWER = (
    b'{"type":"message","id":"i","model":"m","content":[{"type":"text","text":"hello"}],'
    b'"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":2}}'
)
WHOLE = OK + b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def serving(act: Act, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A server that treats every connection as the test says."""

    writers: list[asyncio.StreamWriter] = []

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await act(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(connection, host, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://{'[::1]' if ':' in host else host}:{port}"
    finally:
        server.close()
        for writer in writers:  # also of a connection that the test did not wait for
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def opened(
    wire_format: FormatName = "messages", timeout_s: float = 10.0, connect_timeout_s: float = 10.0
) -> AsyncIterator[Client]:
    client = Client(
        of(wire_format),
        Credentials("key"),
        PyreqwestTransport(connections=2, connect_timeout_s=connect_timeout_s),
        ClientOptions(timeout_s),
    )
    try:
        yield client
    finally:
        await client.aclose()


def wire(url: str, body: bytes = b"{}") -> WireRequest:
    return WireRequest(f"{url}/v1/messages", (("content-type", "application/json"),), body)


async def fault_from(
    act: Act, *, body: bytes = b"{}", wire_format: FormatName = "messages", timeout_s: float = 10.0
) -> ProviderFault:
    async with serving(act) as url, opened(wire_format, timeout_s) as client:
        with anyio.fail_after(timeout_s + 10), pytest.raises(ProviderError) as caught:
            await client.send(wire(url, body))
    fault = caught.value.fault
    assert fault.message
    assert len(fault.message) < 3_000
    return fault


def replying(*pieces: bytes) -> Act:
    """Read the head of a request, send these bytes and close."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    return act


def reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


# Resets, phase by phase


async def reset_when_connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def reset_in_the_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1_000)
    reset(writer)


async def reset_in_the_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK + b"content-le")
    await writer.drain()
    await asyncio.sleep(0.05)
    reset(writer)


async def reset_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(WHOLE[:-20])
    await writer.drain()
    await asyncio.sleep(0.05)
    reset(writer)


@pytest.mark.parametrize(
    "how", [reset_when_connected, reset_in_the_request, reset_in_the_head, reset_in_the_body]
)
async def test_a_reset_in_any_phase_is_tried_again(how: Act) -> None:
    large = b" " * 8 * 2**20
    fault = await fault_from(how, body=large if how is reset_in_the_request else b"{}")
    assert (fault.error_type, fault.http_status) == ("connection_error", None)
    # The server had the connection: whatever it did with what came through it, nobody knows. A
    # reset may also come before the connection is known to be there: then nothing has been sent.
    never_connected = how is reset_when_connected and "(127.0.0.1:" in fault.message
    assert fault.maybe_billed != never_connected
    assert judge(fault, ANSWERED).cause is Cause.TRANSIENT


# Heads


async def endless(writer: asyncio.StreamWriter, start: bytes, piece: bytes) -> int:
    """Send until the other side hangs up or `MANY_BYTES` have gone; return how much has."""
    sent = len(start)
    writer.write(start)
    with suppress(ConnectionError):
        while sent < MANY_BYTES:
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
    return sent


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (OK, b"".join(b"x-%d: %s\r\n" % (n, b"a" * 500) for n in range(1_000))),
        (OK + b"x-endless: ", b"a" * 500_000),
        (b"HTTP/1.1 200 ", b"a" * 500_000),
    ],
    ids=["lines", "line", "reason"],
)
async def test_a_head_that_never_ends_is_cut_off(start: bytes, piece: bytes) -> None:
    sent = 0

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        sent = await endless(writer, start, piece)

    fault = await fault_from(act)
    assert fault.error_type == "connection_error"
    assert sent < MANY_BYTES / 3


async def test_interim_answers_without_end_are_ended_by_the_time_limit() -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(0.01)

    fault = await fault_from(act, timeout_s=0.5)
    assert (fault.error_type, fault.maybe_billed) == ("timeout", True)


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: lots\r\n",
        b"content-length: -1\r\n",
        b"content-length: 18446744073709551617\r\n",
        b"content-length: 5\r\ncontent-length: 7\r\n",
        b"transfer-encoding: chunked\r\n",  # and no chunk follows
        b"bad header\r\n",
        b"x-null: \0\r\n",
    ],
)
async def test_heads_that_make_no_sense(head: bytes) -> None:
    fault = await fault_from(replying(OK + head + b"\r\n" + ANSWER))
    assert fault.error_type in {"connection_error", "invalid_response"}
    assert judge(fault, ANSWERED).cause is Cause.TRANSIENT


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 099 X", b"HTTP/1.1 1000 X", b"HTTP/9.9 200 OK", b"200 OK", b"\0\xff"]
)
async def test_status_lines_that_are_none(line: bytes) -> None:
    fault = await fault_from(replying(line + b"\r\n\r\n" + ANSWER))
    assert fault.error_type == "connection_error"


async def test_a_tls_server_spoken_to_plainly_and_the_other_way_round() -> None:
    fault = await fault_from(replying(b"\x15\x03\x01\x00\x02\x02\x50"))
    assert fault.error_type == "connection_error"

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(WHOLE)
        await writer.drain()

    async with serving(plain) as url, opened() as client:
        with pytest.raises(ProviderError) as caught:
            await client.send(wire(url.replace("http:", "https:")))
    assert caught.value.fault.error_type == "tls_error"
    assert not caught.value.fault.maybe_billed


async def test_a_plain_server_that_waits_for_more_than_the_hello_of_tls() -> None:
    async def wait(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with serving(wait) as url, opened(connect_timeout_s=0.2) as client:
        with pytest.raises(ProviderError) as caught:
            await client.send(wire(url.replace("http:", "https:")))
    fault = caught.value.fault
    assert (fault.error_type, fault.maybe_billed) == ("timeout", False)
    assert fault.message.endswith(f"({url.removeprefix('http://')}); does the server speak https?")


async def test_headers_that_are_no_ascii_are_left_out() -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        odd = "x-served-by: Zürich\r\n".encode() + b"x-region: Z\xfcrich\r\nrequest-id: r1\r\n"
        writer.write(WHOLE.replace(b"\r\n", b"\r\n" + odd, 1))
        await writer.drain()

    async with serving(act) as url, opened() as client:
        exchange = await client.send(wire(url))
    assert (exchange.completion.texts, exchange.request_id) == (("hello",), "r1")


# Bodies


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad", b"500 Oops"])
async def test_a_body_of_a_gigabyte_is_cut_off(status: bytes) -> None:
    sent = 0

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        start = b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n" % (status, 2**30)
        sent = await endless(writer, start, b" " * 2**20)

    fault = await fault_from(act)
    assert (fault.error_type, fault.message) == (
        "response_too_large",
        "the body is larger than 32 MiB",
    )
    assert judge(fault, ANSWERED).cause is Cause.NO
    assert sent < MANY_BYTES


@pytest.mark.parametrize(
    ("encoding", "wraps", "error_type"),
    [
        ("gzip", 1, "response_too_large"),
        ("GZIP", 1, "response_too_large"),
        ("x-gzip", 1, "response_too_large"),
        ("gzip, gzip", 2, "invalid_response"),
        ("gzip", 2, "invalid_response"),
    ],
)
async def test_a_gigabyte_in_a_small_body_takes_no_memory(
    encoding: str, wraps: int, error_type: str
) -> None:
    body = gzip.compress(b" " * 2**26)
    for _ in range(1, wraps):
        body = gzip.compress(body)
    head = OK + b"content-encoding: %s\r\ncontent-length: %d\r\n\r\n" % (
        encoding.encode(),
        len(body),
    )
    tracemalloc.start()
    try:
        fault = await fault_from(replying(head, body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fault.error_type == error_type
    assert peak < 48 * 2**20


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"exotic", b"gzip, br"])
@pytest.mark.parametrize("status", [b"200 OK", b"401 No"])
async def test_a_compression_that_is_wrong_or_not_known(encoding: bytes, status: bytes) -> None:
    head = b"HTTP/1.1 %s\r\ncontent-encoding: %s\r\ncontent-length: 5\r\n\r\nplain"
    fault = await fault_from(replying(head % (status, encoding)))
    assert fault.error_type in {"connection_error", "invalid_response", "http_401"}
    if fault.http_status == 401:
        assert judge(fault, ANSWERED).cause is Cause.FATAL


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad"])
@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"error":', b"}")])
async def test_json_that_nests_too_deep(
    wire_format: FormatName, status: bytes, left: bytes, right: bytes
) -> None:
    body = left * 100_000 + b"1" + right * 100_000
    head = b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    fault = await fault_from(replying(head + body), wire_format=wire_format)
    assert fault.http_status == int(status[:3])
    assert fault.error_type in {"invalid_response", "http_400"}


# Addresses


async def test_a_server_on_ipv6() -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    async with serving(replying(WHOLE), "::1") as url, opened() as client:
        exchange = await client.send(wire(url))
    assert exchange.completion.texts == ("hello",)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True
