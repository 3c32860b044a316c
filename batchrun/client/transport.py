"""Requests over pyreqwest behind httpx's transport port; its errors become httpx's."""

from __future__ import annotations

import math
import re
import zlib
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from io import BytesIO
from os import SEEK_END
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

import anyio
import anyio.lowlevel
import httpx
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import (
    BodyDecodeError,
    ConnectError,
    ConnectTimeoutError,
    PyreqwestError,
    ReadError,
    RequestTimeoutError,
    WriteError,
)

from batchrun.errors import ProviderError, ProviderFault, quoted
from batchrun.formats import InvalidResponse

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Mapping,
        Sequence,
    )

    from pyreqwest.client import Client as PyreqwestClient
    from pyreqwest.http import HeaderMap
    from pyreqwest.response import Response

    from batchrun.formats import StreamReader
    from batchrun.limits.memory import Share


T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 60.0
# A body of at most this length is read with one call of pyreqwest.
SHORT_BODY_BYTES = 1024 * 1024
_FILE_STEP_BYTES = 256 * 1024
# httpx's request extensions that the transport reads: whether a stream was asked for, URL and headers
# as texts (made once for all requests of a job), and the time limit of the whole exchange.
STREAM_EXTENSION = "batchrun.stream"
HEAD_EXTENSION = "batchrun.head"
TIMEOUT_EXTENSION = "batchrun.timeout_s"

_CONNECTING = "client error (Connect)"
# Layers of pyreqwest's errors without information.
_LAYERS = frozenset({"connection error", _CONNECTING, "tcp connect error", "error sending request"})
_OS_ERROR = re.compile(r" \(os error \d+\)")


class PyreqwestTransport(httpx.AsyncBaseTransport):
    """httpx's transport port over pyreqwest: HTTP/1.1, keep-alive, proxies from the environment.

    HTTP/1.1 on many connections is right for a batch: one HTTP/2 connection stops at the server's
    limit of concurrent streams.

    Args:
        connections: maximum number of idle connections to one host.
        connect_timeout_s: maximum time to connect, in seconds.
    """

    # Every exchange ends within TIMEOUT_EXTENSION: the client need not enforce it.
    keeps_deadlines = True

    def __init__(self, *, connections: int, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._client: PyreqwestClient = (
            ClientBuilder()
            .http1_only()
            .follow_redirects(enable=False)
            .user_agent("batchrun")
            .connect_timeout(timedelta(seconds=connect_timeout_s))
            .pool_idle_timeout(timedelta(seconds=KEEP_ALIVE_S))
            .pool_max_idle_per_host(connections)
            .build()
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the response's body is read from its stream."""
        extensions = request.extensions
        url, headers = extensions.get(HEAD_EXTENSION) or _head(request)
        builder = self._client.request(request.method, url).headers(headers)
        if isinstance(request.stream, FileBody):
            builder = builder.body_stream(request.stream)
        elif request.method == "POST":
            builder = builder.body_bytes(request.read())
        if (timeout_s := extensions.get(TIMEOUT_EXTENSION)) is not None:
            builder = builder.timeout(timedelta(seconds=timeout_s))
        if extensions.get(STREAM_EXTENSION):
            # By default pyreqwest reads the start of a body before it returns the response. This
            # saves a step for answers in one piece, and would delay a stream.
            builder = builder.streamed_read_buffer_limit(0)
        exchange = builder.build_streamed()
        response = await _translated(exchange.__aenter__(), request)
        received = _received(response.headers)
        stream = BodyStream(exchange.__aexit__, response, request, _length(received))
        return _Incoming(response.status, received, stream, request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


class _Incoming(httpx.Response):
    """A response that creates httpx's headers only when they are read."""

    def __init__(
        self,
        status: int,
        received: Mapping[str, str | list[str]],
        stream: BodyStream,
        request: httpx.Request,
    ) -> None:
        self.status_code = status
        self.received = received
        self.stream = stream
        self.request = request
        self.extensions = {}
        self.history = []
        self.is_closed = self.is_stream_consumed = False

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        """The headers."""
        return httpx.Headers(
            [
                (name, each)
                for name, value in self.received.items()
                for each in ([value] if isinstance(value, str) else value)
            ]
        )


class FileBody(httpx.AsyncByteStream):
    """The body of a request that is read from a file, piece by piece.

    Args:
        file: open for reading; it is read from its start.
        before: bytes that precede it.
        after: bytes that follow it.
    """

    def __init__(self, file: BinaryIO, before: bytes = b"", after: bytes = b"") -> None:
        self._file = file
        self._before = before
        self._after = after
        self.length = len(before) + file.seek(0, SEEK_END) + len(after)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._before
        self._file.seek(0)
        while piece := self._file.read(_FILE_STEP_BYTES):
            yield piece
        yield self._after


def _head(request: httpx.Request) -> tuple[str, list[tuple[str, str]]]:
    return str(request.url), request.headers.multi_items()


def _received(headers: HeaderMap) -> Mapping[str, str | list[str]]:
    """Return the headers of a response. Those that are not ASCII are left out: nothing reads them."""
    try:
        return headers.dict_multi_value()  # in one call: to iterate takes twice as long
    except ValueError:
        found: dict[str, str | list[str]] = {}
        for name in dict.fromkeys(headers.keys()):
            with suppress(ValueError):
                found[name] = headers.getall(name)
        return found


def plain_headers(response: httpx.Response) -> dict[str, str]:
    """Return headers by lower-case name, as a dict, whose lookups are faster than httpx's."""
    if isinstance(response, _Incoming):
        received = response.received.items()
        return {name: value if isinstance(value, str) else value[-1] for name, value in received}
    raw = response.headers.raw
    return {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in raw}


def _length(headers: Mapping[str, str | list[str]]) -> int | None:
    """Return the length of the body; servers that stream or compress do not send it."""
    value = headers.get("content-length")
    return int(value) if isinstance(value, str) and value.isdecimal() else None


class BodyStream(httpx.AsyncByteStream):
    """A body: read in one piece if it is known to be short, otherwise chunk by chunk.

    Each call of pyreqwest takes a third of the time of the whole exchange. So a short answer needs only
    one call, and a body that was read to its end (`is_read`) needs none to be closed.
    """

    def __init__(
        self, leave: object, response: Response, request: httpx.Request, length: int | None
    ) -> None:
        self._leave = leave
        self._response = response
        self._request = request
        self.length = length
        self.is_short = length is not None and length <= SHORT_BODY_BYTES
        self.is_read = False

    async def whole(self) -> bytes:
        """Read the whole body, if it `is_short`."""
        content = bytes(await _translated(self._response.bytes(), self._request))
        self.is_read = True
        return content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.is_short:
            yield await self.whole()
            return
        # `read` would wait for a number of bytes, or the end.
        reader = self._response.body_reader
        while (piece := await _translated(reader.read_chunk(), self._request)) is not None:
            yield bytes(piece)
        self.is_read = True

    async def aclose(self) -> None:
        """Release the connection, unless that has happened already."""
        if not self.is_read:
            await self._leave(None, None, None)  # type: ignore[operator]


async def _translated(awaitable: Awaitable[T], request: httpx.Request) -> T:
    """Await pyreqwest and translate its errors.

    When the task is cancelled, pyreqwest raises a `CancelledError` of its own, which no cancel scope
    recognises. The one of anyio is raised instead.
    """
    try:
        return await awaitable
    except PyreqwestError as error:
        raise _as_httpx(error, request) from error
    except anyio.get_cancelled_exc_class():
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise


def _message(reasons: Sequence[str], url: httpx.URL) -> str:
    """Return a description of the error, such as "connection refused (127.0.0.1:8001)"."""
    known = [_OS_ERROR.sub("", reason) for reason in reasons if reason not in _LAYERS]
    message = ": ".join(known or reasons[:1])
    place = _place(url) if _CONNECTING in reasons else ""
    return message[:1].lower() + message[1:] + place


def _place(url: httpx.URL) -> str:
    port = "" if url.port is None else f":{url.port}"
    return f" ({url.host}{port})"


def _https_hint(url: httpx.URL) -> str:
    """Return a question for a server of the user, which may wait for the rest of a plain request."""
    is_own = url.scheme == "https" and url.port is not None
    return "; does the server speak https?" if is_own else ""


def _as_httpx(error: PyreqwestError, request: httpx.Request) -> httpx.TransportError:
    """Translate an error of pyreqwest; this is the only place where one can appear."""
    causes = getattr(error, "details", {}).get("causes") or []
    # The first cause repeats the URL; the later ones have the reason.
    reasons = [cause["message"] for cause in causes if " for url (" not in cause["message"]]
    message = _message([str(error.args[0]), *reasons], request.url)
    is_connecting = _CONNECTING in reasons
    kinds: tuple[tuple[type[PyreqwestError], type[httpx.TransportError]], ...] = (
        # pyreqwest also uses these two for connections that broke or were slow later.
        (ConnectTimeoutError, httpx.ConnectTimeout if is_connecting else httpx.ReadTimeout),
        (ConnectError, httpx.ConnectError if is_connecting else httpx.ReadError),
        (RequestTimeoutError, httpx.ReadTimeout),
        (WriteError, httpx.WriteError),
        (ReadError, httpx.ReadError),
        (BodyDecodeError, httpx.RemoteProtocolError),
    )
    for kind, translated in kinds:
        if isinstance(error, kind):
            if translated is httpx.ConnectTimeout:
                message = f"no connection in time{_place(request.url)}{_https_hint(request.url)}"
            if translated is httpx.ReadTimeout and TIMEOUT_EXTENSION in request.extensions:
                message = f"no answer within {request.extensions[TIMEOUT_EXTENSION]:g} s"
            return translated(message, request=request)
    return httpx.RemoteProtocolError(message, request=request)


# Decompressed at a time: a few kilobytes can decompress to gigabytes.
STEP_BYTES = 1024 * 1024
_PLAIN = ("", "identity")
_READ = ("gzip", "x-gzip", "deflate")
_ANY_ZLIB = 32 + zlib.MAX_WBITS  # the header says which


async def decompressed(body: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Yield the decompressed content of a body; `encoding` is its `content-encoding`.

    Raises:
        InvalidResponse: if it cannot be decompressed.
    """
    name = encoding.strip().lower()
    if name in _PLAIN:
        async for piece in body:
            yield piece
        return
    if name not in _READ:
        raise InvalidResponse(
            f"the body has the content-encoding {quoted(name)}, which is not supported"
        )
    unpacker = zlib.decompressobj(_ANY_ZLIB)
    async for piece in body:
        packed = piece
        while packed:
            try:
                yield unpacker.decompress(packed, STEP_BYTES)
            except zlib.error as error:
                raise InvalidResponse(f"the body cannot be decompressed: {error}") from None
            packed = unpacker.unconsumed_tail


# Only tidying up, after the answer has been read: not worth a longer wait.
STREAM_END_S = 1.0
CLOSE_S = 1.0
# Only longer answers are counted: thousands of shorter ones take a few megabytes.
SMALL_BYTES = 64 * 1024


async def reserve_memory(share: Share | None, size: int) -> None:
    """Wait until `size` bytes of an answer may be kept in memory; a small size never waits."""
    if size > SMALL_BYTES and share is not None:
        await share.grow(size)


async def read_whole(
    response: httpx.Response,
    headers: Mapping[str, str],
    max_bytes: int,
    share: Share | None,
) -> bytes:
    """Read a whole body, in one step if it is known to be short.

    Raises:
        ProviderError: if it is larger than `max_bytes`.
    """
    stream = response.stream
    if isinstance(stream, BodyStream) and stream.is_short and "content-encoding" not in headers:
        await reserve_memory(share, stream.length or 0)
        return await stream.whole()
    content = BytesIO()
    async for piece in pieces(response, headers, max_bytes):
        await reserve_memory(share, content.tell() + len(piece))
        content.write(piece)
    return content.getvalue()


async def pieces(
    response: httpx.Response, headers: Mapping[str, str], max_bytes: int
) -> AsyncGenerator[bytes]:
    """Yield the decompressed pieces of a body.

    Raises:
        ProviderError: if it is larger than `max_bytes`.
    """
    # httpx's own iteration would also close the response, and an answer must not wait for that.
    stream = cast("AsyncIterable[bytes]", response.stream)
    encoding = headers.get("content-encoding")
    size = 0
    async for piece in stream if encoding is None else decompressed(stream, encoding):
        size += len(piece)
        if size > max_bytes:
            raise ProviderError(
                ProviderFault(
                    "response_too_large",
                    f"the body is larger than {max_bytes // 2**20} MiB",
                    response.status_code,
                    should_retry=False,
                    maybe_billed=True,
                )
            )
        yield piece


async def until_idle(body: AsyncIterator[bytes], reader: StreamReader) -> AsyncGenerator[bytes]:
    """Yield the pieces of a stream for `reader`, until the stream ends.

    If the answer is complete and the server does not end the stream, it is considered ended when no
    event has arrived for a while. Comments, which keep connections open, are not events.
    """
    events, deadline = 0, math.inf
    while True:
        if reader.events != events:
            quiet_s, events = reader.quiet_s, reader.events
            deadline = math.inf if quiet_s is None else anyio.current_time() + quiet_s
        with anyio.CancelScope(deadline=deadline) as scope:
            piece = await anext(body, None)
        if scope.cancelled_caught or piece is None:
            return
        yield piece


async def close_quietly(response: httpx.Response) -> None:
    """Close a response. Errors are ignored: the answer has been read."""
    if isinstance(response.stream, BodyStream) and response.stream.is_read:
        return
    with (
        anyio.move_on_after(CLOSE_S, shield=True),
        suppress(httpx.TransportError),
    ):
        await response.aclose()


async def drain(pieces: AsyncIterator[bytes]) -> None:
    """Read a finished stream to its end, so that its connection can be reused.

    The answer has been read already, so errors and a slow end are ignored.
    """
    with anyio.move_on_after(STREAM_END_S), suppress(httpx.TransportError, ProviderError):
        async for _ in pieces:
            pass
