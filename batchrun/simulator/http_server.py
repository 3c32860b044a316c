"""HTTP/1.1 on loopback: bounded requests in, responses and event streams out, and a router.

Nothing here depends on the formats. h11 reads requests, because any program can send them. Responses are
written directly: checking them with h11 took as long as all other work for a request.
"""

from __future__ import annotations

import errno
import logging
import re
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BytesIO
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar
from urllib.parse import parse_qsl

import anyio
import h11
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from anyio.abc import SocketStream, TaskStatus

    # What is pushed to the stack runs when the response was sent, or cannot be.
    Handler = Callable[["HttpCall", ExitStack], Awaitable["HttpReply"]]
    # The same with an id of the request.
    RouteHandler = Callable[["HttpCall", str, ExitStack], Awaitable["HttpReply"]]

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024  # the limit of the Messages API
MAX_UPLOAD_BYTES = 256 * 1024 * 1024  # the limit of its batches
_FILE_STEP = 256 * 1024

_LINGER_S = 1.0
# Out of descriptors or memory, or the client left first: all pass, and none concerns the others.
_PASSING_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}
_ACCEPT_PAUSE_S = 0.05
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}
_STREAM_FRAMING = (
    "content-type: text/event-stream; charset=utf-8",
    "cache-control: no-cache",
    "transfer-encoding: chunked",
)
_LAST_CHUNK = b"0\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NOT_HTTP = (  # in the shape of both formats, because no path says which one it is
    b'{"type":"error","error":{"type":"invalid_request_error",'
    b'"message":"The request is not valid HTTP/1.1.","param":null,"code":null}}'
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One request."""

    method: str
    path: str  # without the query
    headers: Mapping[bytes, bytes]  # lower-case names; of repeated ones the last
    body: bytes | None  # None when it was larger than `MAX_BODY_BYTES` and therefore not read
    query: Mapping[str, str] = field(default_factory=dict)
    upload: BinaryIO | None = None  # in place of a body where uploads are expected


@dataclass(frozen=True, slots=True)
class TimedPart:
    """A part of a stream: the seconds to wait before it, and its bytes."""

    wait_s: float
    data: bytes


@dataclass(frozen=True, slots=True)
class FileContent:
    """A body in a file, and its content type."""

    path: Path
    content_type: str

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True)
class HttpReply:
    """One response."""

    status: int
    body: bytes | tuple[TimedPart, ...] | FileContent  # JSON, an event stream, or a file
    headers: list[tuple[str, str]] = field(default_factory=list)  # without content type and length
    torn: bool = False  # the connection is closed without an end of the body
    lost: bool = False  # the connection is closed without an answer


class Router(Generic[T]):
    """Finds the route of a path.

    Args:
        routes: routes by path. A segment in braces, as in "/batches/{id}", matches any segment.
    """

    def __init__(self, routes: Mapping[str, T]) -> None:
        self._exact = {path: found for path, found in routes.items() if "{" not in path}
        patterns = {path: re.sub(r"{\w+}", "[^/]+", path) for path in routes if "{" in path}
        self._patterns = [(re.compile(text), routes[path]) for path, text in patterns.items()]

    def find(self, path: str) -> T | None:
        """Return the route of `path`; None for an unknown path."""
        matching = (found for pattern, found in self._patterns if pattern.fullmatch(path))
        return self._exact.get(path) or next(matching, None)


async def serve_http(
    handle: Handler,
    port: int,
    task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
    *,
    uploads: frozenset[str] = frozenset(),
) -> None:
    """Serve on 127.0.0.1 until cancelled.

    Args:
        handle: answers one request.
        port: 0 takes a free one.
        uploads: paths where bodies may be large, and are written to a temporary file.
        task_status: receives the base URL as soon as connections are accepted.
    """

    async def serve_connection(stream: SocketStream) -> None:
        # A client may vanish at any moment; crash tests do so on purpose.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            async with stream:
                unread: bytes | None = b""
                while unread is not None:
                    unread = await _exchange(stream, unread, handle, uploads)

    listeners = await anyio.create_tcp_listener(local_host=LOOPBACK, local_port=port)
    (listener,) = listeners.listeners
    async with listener, anyio.create_task_group() as connections:
        bound = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django
        task_status.started(f"http://{LOOPBACK}:{bound}")
        while True:
            try:
                await listener.serve(serve_connection, connections)
            except OSError as error:
                if error.errno not in _PASSING_ERRORS:
                    raise
                log.warning("Cannot accept connections (%s): trying again", error)
                await anyio.sleep(_ACCEPT_PAUSE_S)


async def _exchange(
    stream: SocketStream, received: bytes, handle: Handler, uploads: frozenset[str]
) -> bytes | None:
    """Answer one request, whose first bytes may be `received` already.

    Returns:
        What was received of the next request; None when there can be none.
    """
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    if received:  # to h11, no bytes are the end of the stream
        reader.receive_data(received)
    try:
        request = await _read_request(reader, stream, uploads)
    except h11.RemoteProtocolError as error:
        await stream.send(_head(HttpReply(error.error_status_hint, _NOT_HTTP), closing=True))
        await stream.send(_NOT_HTTP)
        await _linger(stream)
        return None
    if request is None:
        return None
    closing = reader.their_state is not h11.DONE
    with ExitStack() as until_sent:
        if request.upload is not None:
            until_sent.callback(request.upload.close)
        reply = await handle(request, until_sent)
        if reply.lost:
            return None
        closing |= reply.torn
        await _send(stream, reply, closing=closing, bodiless=request.method == "HEAD")
    if request.body is None:
        await _linger(stream)
    return None if closing else reader.trailing_data[0]


async def _read_request(
    reader: h11.Connection, stream: SocketStream, uploads: frozenset[str]
) -> HttpCall | None:
    """Return the next request; None when the client is done."""
    head = await _next_event(reader, stream)
    if not isinstance(head, h11.Request):
        return None
    headers = {name.lower(): value for name, value in head.headers.raw_items()}
    path, _, query = head.target.decode("ascii").partition("?")
    method, body, upload = head.method.decode("ascii"), None, None
    announced = int(headers.get(b"content-length", 0))
    if method == "POST" and path in uploads:
        upload = await _read_upload(reader, stream, announced)
        body = None if upload is None else b""
    else:
        body = await _read_body(reader, stream, announced)
    return HttpCall(method, path, headers, body, dict(parse_qsl(query)), upload)


async def _read_body(reader: h11.Connection, stream: SocketStream, announced: int) -> bytes | None:
    """Return the body; None as soon as it is known to be too large."""
    body = BytesIO()
    is_whole = await _copy_body(reader, stream, body, announced, MAX_BODY_BYTES)
    return body.getvalue() if is_whole else None


async def _read_upload(
    reader: h11.Connection, stream: SocketStream, announced: int
) -> BinaryIO | None:
    """Return the body in a temporary file; None as soon as it is known to be too large."""
    file = TemporaryFile()  # noqa: SIM115 - closed when the request is answered
    try:
        if await _copy_body(reader, stream, file, announced, MAX_UPLOAD_BYTES):
            file.seek(0)
            return file
    except BaseException:
        file.close()
        raise
    file.close()
    return None


async def _copy_body(
    reader: h11.Connection, stream: SocketStream, target: BinaryIO, announced: int, most: int
) -> bool:
    """Write a body to a file; return False as soon as it is known to be larger than `most`."""
    if announced > most:
        return False
    if reader.they_are_waiting_for_100_continue:
        await stream.send(_CONTINUE)
    size = 0
    while isinstance(event := await _next_event(reader, stream), h11.Data):
        size += len(event.data)
        if size > most:
            return False
        target.write(event.data)
    return True


async def _next_event(reader: h11.Connection, stream: SocketStream) -> object:
    while (event := reader.next_event()) is h11.NEED_DATA:
        try:
            reader.receive_data(await stream.receive())
        except anyio.EndOfStream:
            reader.receive_data(b"")
    return event


async def _send(stream: SocketStream, reply: HttpReply, *, closing: bool, bodiless: bool) -> None:
    """Send a response: a whole one in one write, a stream whenever one of its parts is due."""
    pending = _head(reply, closing=closing)
    if isinstance(reply.body, bytes):
        await stream.send(pending if bodiless else pending + reply.body)
    elif isinstance(reply.body, FileContent):
        await stream.send(pending)
        if not bodiless:
            await _send_file(stream, reply.body, torn=reply.torn)
    else:
        await _send_parts(stream, pending, reply.body, torn=reply.torn)


async def _send_file(stream: SocketStream, content: FileContent, *, torn: bool) -> None:
    """Send a file; half of it if the connection is to be torn."""
    left = content.size // 2 if torn else content.size
    with content.path.open("rb") as file:
        while left and (piece := file.read(min(left, _FILE_STEP))):
            await stream.send(piece)
            left -= len(piece)


async def _send_parts(
    stream: SocketStream, pending: bytes, parts: tuple[TimedPart, ...], *, torn: bool
) -> None:
    for part in parts:
        if part.wait_s:
            await stream.send(pending)
            await anyio.sleep(part.wait_s)
            pending = b""
        pending += b"%x\r\n%b\r\n" % (len(part.data), part.data)
    await stream.send(pending if torn else pending + _LAST_CHUNK)


def _head(reply: HttpReply, *, closing: bool) -> bytes:
    """Return the status line and the headers."""
    head = [
        f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, '')}",
        *_framing(reply.body),
        *(f"{name}: {value}" for name, value in reply.headers),
    ]
    if closing:
        head.append("connection: close")
    return "\r\n".join((*head, "", "")).encode("ascii")


def _framing(body: bytes | tuple[TimedPart, ...] | FileContent) -> tuple[str, ...]:
    """Return the headers that describe the body."""
    if isinstance(body, bytes):
        return "content-type: application/json", f"content-length: {len(body)}"
    if isinstance(body, FileContent):
        return f"content-type: {body.content_type}", f"content-length: {body.size}"
    return _STREAM_FRAMING


async def _linger(stream: SocketStream) -> None:
    """Let the client read the answer first: closing over unread input would reset the connection."""
    await stream.send_eof()
    with anyio.move_on_after(_LINGER_S), suppress(anyio.EndOfStream):
        while True:
            await stream.receive()
