"""One HTTP attempt: a `WireRequest` goes out, a `Completion` or a `ProviderError` comes back.

The port is httpx's: anything that is an `httpx.AsyncBaseTransport` can carry the requests, and
tests inject faults there. The transport under it by default is pyreqwest, called directly: httpx's
own pool and `AsyncClient.send` cost an order of magnitude more per request (docs/performance.md).
"""

from __future__ import annotations

import email.utils
import math
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
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

from batchrun import formats
from batchrun.errors import ProviderError, ProviderFault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from pyreqwest.client import Client as PyreqwestClient
    from pyreqwest.response import Response

    from batchrun.records import Completion, FormatName, WireRequest

# The port: whatever carries HTTP requests. Other modules name it by this alias.
TransportPort = httpx.AsyncBaseTransport

CONNECT_TIMEOUT_S = 10.0
MAX_BODY_BYTES = 32 * 1024 * 1024
READ_BYTES = 256 * 1024
MAX_RETRY_AFTER_S = 24 * 3600.0
KEEP_ALIVE_S = 60.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A successful attempt: the completion and what the response's head said.

    `headers` have lower-case names.
    """

    completion: Completion
    http_status: int
    request_id: str | None
    headers: Mapping[str, str]


class Client:
    """Sends wire requests of one format with one key.

    Args:
        wire_format: says how the key travels and how answers are read.
        key: the API key; None sends none. It is kept in this object alone.
        timeout_s: the longest that one attempt may take, from connecting to the last byte.
        transport: the port to the network.
        reroute: sends every request to this base URL instead of the one in it (the simulator).
    """

    def __init__(
        self,
        wire_format: FormatName,
        key: str | None,
        *,
        timeout_s: float,
        transport: httpx.AsyncBaseTransport,
        reroute: tuple[str, str] | None = None,
    ) -> None:
        self._format = wire_format
        self._key = key
        self._key_header = () if key is None else (formats.key_header(wire_format, key),)
        self._timeout_s = timeout_s
        self._transport = transport
        self._reroute = reroute
        self._targets: dict[str, httpx.URL] = {}

    async def send(self, wire: WireRequest) -> Exchange:
        """Make one attempt.

        Raises:
            ProviderError: for everything that is not a completion.
        """
        try:
            return await self._translated(wire)
        except ProviderError as error:
            # Some providers quote the key that they refuse.
            if self._key is None or self._key not in error.fault.message:
                raise
            message = error.fault.message.replace(self._key, "***")
            raise ProviderError(replace(error.fault, message=message)) from None

    async def _translated(self, wire: WireRequest) -> Exchange:
        """Make one attempt with every foreign error translated."""
        try:
            with anyio.fail_after(self._timeout_s):
                return await self._exchange(wire)
        except TimeoutError:
            raise _broken("timeout", f"no answer within {self._timeout_s:g} s") from None
        except httpx.ConnectError as error:
            raise _broken("connection_error", str(error), maybe_billed=False) from None
        except httpx.TimeoutException as error:
            raise _broken("timeout", str(error)) from None
        except httpx.TransportError as error:
            raise _broken("connection_error", str(error)) from None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def _exchange(self, wire: WireRequest) -> Exchange:
        response = await self._transport.handle_async_request(self._http_request(wire))
        try:
            content = await _read_bounded(response)
        finally:
            await response.aclose()
        request_id = formats.request_id(self._format, response.headers)
        if response.status_code != 200:
            raise ProviderError(_status_fault(response, content, request_id))
        try:
            completion = formats.parse(self._format, content)
        except formats.InvalidResponse as error:
            fault = ProviderFault(
                "invalid_response", str(error), 200, request_id=request_id, maybe_billed=True
            )
            raise ProviderError(fault) from None
        return Exchange(completion, response.status_code, request_id, response.headers)

    def _http_request(self, wire: WireRequest) -> httpx.Request:
        headers = [*wire.headers, *self._key_header]
        return httpx.Request("POST", self._target(wire.url), headers=headers, content=wire.body)

    def _target(self, url: str) -> httpx.URL:
        """Parse a URL once: all requests of a job go to one or a few."""
        target = self._targets.get(url)
        if target is None:
            address = url
            if self._reroute is not None:
                original, other = self._reroute
                address = other + url.removeprefix(original)
            target = self._targets[url] = httpx.URL(address)
        return target


async def _read_bounded(response: httpx.Response) -> bytes:
    """Read a body of at most `MAX_BODY_BYTES`, counted after decompression."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise ProviderError(
                ProviderFault(
                    "response_too_large",
                    f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB",
                    response.status_code,
                    should_retry=False,
                    maybe_billed=True,
                )
            )
        pieces.append(piece)
    return b"".join(pieces)


def _broken(error_type: str, message: str, *, maybe_billed: bool = True) -> ProviderError:
    """An exchange that broke: once bytes have left, the provider may have billed it."""
    return ProviderError(
        ProviderFault(error_type, message or error_type, maybe_billed=maybe_billed)
    )


def _status_fault(
    response: httpx.Response, content: bytes, request_id: str | None
) -> ProviderFault:
    status = response.status_code
    error_type, message, body_id = formats.describe_error(content)
    if 300 <= status < 400:
        target = response.headers.get("location", "nowhere")
        error_type = "redirect"
        message = f"the server redirects to {target}; redirects are not followed, mend base_url"
    return ProviderFault(
        error_type=error_type or f"http_{status}",
        message=message,
        http_status=status,
        request_id=request_id or body_id,
        retry_after_s=retry_after(response.headers),
        should_retry={"true": True, "false": False}.get(response.headers.get("x-should-retry", "")),
    )


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return how many seconds the server asks to wait.

    In order of precedence: `retry-after-ms`, `retry-after` in seconds, `retry-after` as an HTTP
    date, which is measured from the response's own `date` where it has one. Negative, infinite
    and unreadable values count as none; absurdly long ones are cut to a day.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, MAX_RETRY_AFTER_S)
    text = headers.get("retry-after")
    seconds = _seconds(text)
    if seconds is None and text is not None:
        until, since = _http_date(text), _http_date(headers.get("date", ""))
        if until is not None:
            start = since if since is not None else (time.time() if now is None else now)
            seconds = max(0.0, until - start)
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _http_date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


class PyreqwestTransport(httpx.AsyncBaseTransport):
    """httpx's transport port over pyreqwest: HTTP/1.1, keep-alive, proxies from the environment.

    HTTP/1.1 on many connections is right for a batch: one HTTP/2 connection stops at the server's
    limit of concurrent streams.

    Args:
        connections: the most connections kept open to one host.
        timeout_s: the longest that one exchange may take.
    """

    def __init__(self, *, connections: int, timeout_s: float) -> None:
        self._client: PyreqwestClient = (
            ClientBuilder()
            .http1_only()
            .follow_redirects(enable=False)
            .user_agent("batchrun")
            .connect_timeout(timedelta(seconds=min(CONNECT_TIMEOUT_S, timeout_s)))
            .timeout(timedelta(seconds=timeout_s))
            .pool_idle_timeout(timedelta(seconds=KEEP_ALIVE_S))
            .pool_max_idle_per_host(connections)
            .build()
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the response's body is read from its stream."""
        builder = self._client.request(request.method, str(request.url))
        builder = builder.headers(request.headers.multi_items()).body_bytes(request.content)
        exchange = builder.build_streamed()
        try:
            response = await exchange.__aenter__()
        except PyreqwestError as error:
            raise _as_httpx(error, request) from error
        return httpx.Response(
            response.status,
            headers=list(response.headers.items()),
            stream=_BodyStream(exchange.__aexit__, response, request),
            request=request,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


class _BodyStream(httpx.AsyncByteStream):
    def __init__(self, leave: object, response: Response, request: httpx.Request) -> None:
        self._leave = leave
        self._reader = response.body_reader
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (piece := await self._reader.read(READ_BYTES)) is not None:
                yield bytes(piece)
        except PyreqwestError as error:
            raise _as_httpx(error, self._request) from error

    async def aclose(self) -> None:
        await self._leave(None, None, None)  # type: ignore[operator]


def _as_httpx(error: PyreqwestError, request: httpx.Request) -> httpx.TransportError:
    """Translate pyreqwest's errors at the one place where they can appear."""
    causes = getattr(error, "details", {}).get("causes") or []
    # The first cause repeats the URL; the later ones say what happened.
    reasons = [cause["message"] for cause in causes if " for url (" not in cause["message"]]
    message = ": ".join([str(error.args[0]), *reasons])
    kinds: tuple[tuple[type[PyreqwestError], type[httpx.TransportError]], ...] = (
        (ConnectTimeoutError, httpx.ReadTimeout),  # also raised when the answer is late
        (ConnectError, httpx.ConnectError),
        (RequestTimeoutError, httpx.ReadTimeout),
        (WriteError, httpx.WriteError),
        (ReadError, httpx.ReadError),
        (BodyDecodeError, httpx.RemoteProtocolError),
    )
    for kind, translated in kinds:
        if isinstance(error, kind):
            return translated(message, request=request)
    return httpx.RemoteProtocolError(message, request=request)
