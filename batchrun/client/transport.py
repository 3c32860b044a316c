"""httpx's transport port over pyreqwest, and its errors in httpx's words."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

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

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from pyreqwest.client import Client as PyreqwestClient
    from pyreqwest.response import Response

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 60.0
SHORT_BODY_BYTES = 1024 * 1024
# Tells the transport, through httpx's request extensions, that a stream was asked for.
STREAM_EXTENSION = "batchrun.stream"

_CONNECTING = "client error (Connect)"


class PyreqwestTransport(httpx.AsyncBaseTransport):
    """httpx's transport port over pyreqwest: HTTP/1.1, keep-alive, proxies from the environment.

    HTTP/1.1 on many connections is right for a batch: one HTTP/2 connection stops at the server's
    limit of concurrent streams.

    Args:
        connections: the most connections kept open to one host.
        connect_timeout_s: the longest that connecting may take.
    """

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
        builder = self._client.request(request.method, str(request.url))
        builder = builder.headers(request.headers.multi_items()).body_bytes(request.read())
        if request.extensions.get(STREAM_EXTENSION):
            # pyreqwest gathers the beginning of a body before it hands the response over, which
            # saves a step for answers in one piece and would hold a stream back.
            builder = builder.streamed_read_buffer_limit(0)
        exchange = builder.build_streamed()
        with _translating(request):
            response = await _cancellable(exchange.__aenter__())
        headers = list(response.headers.items())
        stream = BodyStream(exchange.__aexit__, response, request, _length(headers))
        return httpx.Response(response.status, headers=headers, stream=stream, request=request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


def _length(headers: list[tuple[str, str]]) -> int | None:
    """Return how long the body says it is; servers that stream or compress do not say."""
    for name, value in headers:
        if name == "content-length" and value.isdecimal():
            return int(value)
    return None


class BodyStream(httpx.AsyncByteStream):
    """A body, in one piece where it is known to be short, else chunk by chunk.

    Each step into pyreqwest costs a third of the whole exchange, so a short answer takes only one,
    and a body that was read to its end (`is_read`) needs none to be closed.
    """

    def __init__(
        self, leave: object, response: Response, request: httpx.Request, length: int | None
    ) -> None:
        self._leave = leave
        self._response = response
        self._request = request
        self._is_short = length is not None and length <= SHORT_BODY_BYTES
        self.is_read = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translating(self._request):
            if self._is_short:
                yield bytes(await _cancellable(self._response.bytes()))
            else:
                # `read` would wait until so many bytes have come, or the end.
                reader = self._response.body_reader
                while (piece := await _cancellable(reader.read_chunk())) is not None:
                    yield bytes(piece)
            self.is_read = True

    async def aclose(self) -> None:
        """Let go of the connection, unless that has happened already."""
        if not self.is_read:
            await self._leave(None, None, None)  # type: ignore[operator]


async def _cancellable(awaitable: Awaitable[T]) -> T:
    """Await pyreqwest; when the task is cancelled, with the cancellation that anyio knows.

    pyreqwest raises a `CancelledError` of its own, which no cancel scope would own up to.
    """
    try:
        return await awaitable
    except anyio.get_cancelled_exc_class():
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise


@contextmanager
def _translating(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except PyreqwestError as error:
        raise _as_httpx(error, request) from error


def _as_httpx(error: PyreqwestError, request: httpx.Request) -> httpx.TransportError:
    """Translate pyreqwest's errors at the one place where they can appear."""
    causes = getattr(error, "details", {}).get("causes") or []
    # The first cause repeats the URL; the later ones say what happened.
    reasons = [cause["message"] for cause in causes if " for url (" not in cause["message"]]
    message = ": ".join([str(error.args[0]), *reasons])
    kinds: tuple[tuple[type[PyreqwestError], type[httpx.TransportError]], ...] = (
        (ConnectTimeoutError, httpx.ConnectTimeout),
        # A connection that was there and broke is a ConnectError too, but not a failed connect.
        (ConnectError, httpx.ConnectError if _CONNECTING in reasons else httpx.ReadError),
        (RequestTimeoutError, httpx.ReadTimeout),
        (WriteError, httpx.WriteError),
        (ReadError, httpx.ReadError),
        (BodyDecodeError, httpx.RemoteProtocolError),
    )
    for kind, translated in kinds:
        if isinstance(error, kind):
            return translated(message, request=request)
    return httpx.RemoteProtocolError(message, request=request)
