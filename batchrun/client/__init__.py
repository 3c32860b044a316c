"""One HTTP attempt: a `WireRequest` goes out, a `Completion` or a `ProviderError` comes back.

The port is httpx's: anything that is an `httpx.AsyncBaseTransport` can carry the requests, and
tests inject faults there. The transport under it by default is pyreqwest, called directly: httpx's
own pool slows down with the square of the requests in flight.
"""

from __future__ import annotations

import email.utils
import math
import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import httpx

from batchrun import formats
from batchrun.client.keys import Credentials
from batchrun.client.transport import (
    HEAD_EXTENSION,
    STREAM_EXTENSION,
    TIMEOUT_EXTENSION,
    PyreqwestTransport,
    hold,
    pieces,
    put_away,
    read_off,
    read_whole,
    until_quiet,
)
from batchrun.errors import ProviderError, ProviderFault
from batchrun.formats.credentials import MASK

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from batchrun.formats import WireFormat
    from batchrun.limits import ByteBudget
    from batchrun.limits.memory import Share
    from batchrun.records import Completion, LimitState, WireRequest

# The port: whatever carries HTTP requests. Other modules name it by this alias.
TransportPort = httpx.AsyncBaseTransport

MAX_BODY_BYTES = 32 * 1024 * 1024
# Of a stream little is kept; what is, the reader bounds.
MAX_STREAM_BYTES = 1024 * 1024 * 1024
_EVENT_STARTS = (b"data: ", b"event:", b"data:{")
MAX_RETRY_AFTER_S = 24 * 3600.0
# A completion may come with any of these; gateways answer 201 and 202 for what they made or queued.
SUCCESS = frozenset({200, 201, 202})


class _Head:
    """An address, and the headers that all requests to it have."""

    def __init__(self, request: httpx.Request) -> None:
        self.url = request.url
        self.headers = request.headers
        self.texts = str(request.url), request.headers.multi_items()


class _Outgoing(httpx.Request):
    """A request whose head is that of many: what is the same is not worked out for each."""

    def __init__(self, head: _Head, wire: WireRequest, timeout_s: float) -> None:
        self.method = "POST"
        self.url = head.url
        self.stream = httpx.ByteStream(wire.body)
        self.extensions = {
            HEAD_EXTENSION: head.texts,
            STREAM_EXTENSION: wire.stream,
            TIMEOUT_EXTENSION: timeout_s,
        }
        self._head = head
        self._body = wire.body

    @property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        """Those of the head, and the length of the body."""
        headers = self._head.headers.copy()
        headers["content-length"] = str(len(self._body))
        return headers

    def read(self) -> bytes:
        """Return the body."""
        return self._body


@dataclass(frozen=True, slots=True)
class Exchange:
    """A successful attempt: the completion and what the response's head said.

    `headers` have lower-case names; `limits` is what the limit headers among them say. `memory` is what
    a long answer takes of what all may take, until this is closed.
    """

    completion: Completion
    http_status: int
    request_id: str | None
    headers: Mapping[str, str]
    limits: LimitState | None = None
    memory: Share | None = None

    def close(self) -> None:
        """Let others have the memory: the answer has been dealt with."""
        if self.memory is not None:
            self.memory.close()


class Client:
    """Sends wire requests of one format with one key.

    Args:
        wire_format: says how the key travels and how answers are read.
        key: the API key; None sends none. It is kept in this object alone.
        timeout_s: the longest that one attempt may take, from connecting to the last byte.
        transport: the port to the network.
        auth: `bearer` or `x-api-key`; None for what the format uses.
        reroute: sends every request to this base URL instead of the one in it (the simulator).
        keep_raw: whether completions keep the body as received.
        memory: bounds the bytes of long answers that are held; None leaves each to its own bound.
        secret_headers: further headers, by lower-case names. As the key, they are struck out of
            everything that comes back.
    """

    def __init__(
        self,
        wire_format: WireFormat,
        key: str | None,
        *,
        timeout_s: float,
        transport: httpx.AsyncBaseTransport,
        reroute: tuple[str, str] | None = None,
        auth: str | None = None,
        keep_raw: bool = False,
        secret_headers: tuple[tuple[str, str], ...] = (),
        memory: ByteBudget | None = None,
    ) -> None:
        self._format = wire_format
        self._keep_raw = keep_raw
        self._redaction = Credentials(key, secret_headers).redaction
        self._key_header = () if key is None else (wire_format.key_header(key, auth),)
        self._secret_headers = secret_headers
        self._memory = memory
        self._timeout_s = timeout_s
        self._transport = transport
        self._transport_keeps_deadlines = getattr(transport, "keeps_deadlines", False)
        self._reroute = reroute
        self._heads: dict[tuple[str, tuple[tuple[str, str], ...]], _Head] = {}

    async def send(self, wire: WireRequest) -> Exchange:
        """Make one attempt.

        Raises:
            ProviderError: for everything that is not a completion.
        """
        share = None if self._memory is None else self._memory.share()
        try:
            exchange = await self._translated(wire, share)
        except BaseException as error:
            if share is not None:
                share.close()
            if isinstance(error, ProviderError):
                raise ProviderError(self._redaction.fault(error.fault)) from None
            raise
        completion = self._redaction.completion(exchange.completion)
        return (
            exchange
            if completion is exchange.completion
            else replace(exchange, completion=completion)
        )

    async def _translated(self, wire: WireRequest, share: Share | None) -> Exchange:
        """Make one attempt with every foreign error translated."""
        try:
            return await self._in_time(wire, share)
        except httpx.TransportError as error:
            raise ProviderError(_transport_fault(error)) from None

    async def _in_time(self, wire: WireRequest, share: Share | None) -> Exchange:
        if self._transport_keeps_deadlines:
            return await self._exchange(wire, share)
        with anyio.move_on_after(self._timeout_s):
            return await self._exchange(wire, share)
        raise ProviderError(_broken("timeout", f"no answer within {self._timeout_s:g} s"))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def _exchange(self, wire: WireRequest, share: Share | None) -> Exchange:
        request = _Outgoing(self._head(wire), wire, self._timeout_s)
        response = await self._transport.handle_async_request(request)
        headers = _plain(response.headers)
        request_id = self._format.request_id(headers)
        request_id = request_id and self._redaction.text(request_id)
        try:
            completion = await self._read(wire, response, headers, request_id, share)
        except formats.InvalidResponse as error:
            status = response.status_code
            if status not in SUCCESS:  # an error is one also when its body cannot be unpacked
                fault = self._status_fault(status, headers, str(error).encode(), request_id)
                raise ProviderError(fault) from None
            raise ProviderError(_unusable(error.fault, status, headers, request_id)) from None
        finally:
            await put_away(response)
        return Exchange(
            completion,
            response.status_code,
            request_id,
            headers,
            self._format.limit_state(headers),
            share,
        )

    async def _read(
        self,
        wire: WireRequest,
        response: httpx.Response,
        headers: Mapping[str, str],
        request_id: str | None,
        share: Share | None,
    ) -> Completion:
        # The answer's own type decides: a server may stream unasked, or not although asked.
        status = response.status_code
        is_success = status in SUCCESS
        if is_success and "text/event-stream" in headers.get("content-type", "").lower():
            body = pieces(response, headers, MAX_STREAM_BYTES)
            return await self._read_stream(wire, body, share)
        content = await read_whole(response, headers, MAX_BODY_BYTES, share)
        if not is_success:
            raise ProviderError(self._status_fault(status, headers, content, request_id))
        if content.lstrip()[:6] in _EVENT_STARTS:
            # Some servers stream under the type of a whole answer.
            return await self._read_stream(wire, _whole(content), share)
        return self._format.parse(content, keep_raw=self._keep_raw)

    async def _read_stream(
        self, wire: WireRequest, body: AsyncGenerator[bytes], share: Share | None
    ) -> Completion:
        reader = self._format.stream_reader(wire, keep_raw=self._keep_raw)
        try:
            async with aclosing(body) as body_pieces:
                async for piece in until_quiet(body_pieces, reader):
                    reader.feed(piece)
                    await hold(share, reader.held)
                    if reader.is_ended:
                        await read_off(body_pieces)
                        break
            return reader.finish()
        except formats.InvalidResponse as error:
            fault = reader.with_facts(error.fault)
            raise formats.InvalidResponse(fault.message, fault=fault) from None
        except httpx.TransportError as error:
            raise ProviderError(reader.with_facts(_transport_fault(error))) from None

    def _status_fault(
        self, status: int, headers: Mapping[str, str], content: bytes, request_id: str | None
    ) -> ProviderFault:
        body = self._format.describe_error(content)
        error_type, message = body.error_type, body.message
        if 300 <= status < 400:
            target = _without_secrets(headers.get("location", "nowhere"))
            error_type = "redirect"
            message = f"the server redirects to {target}; redirects are not followed"
        return ProviderFault(
            error_type=error_type or f"http_{status}",
            message=message,
            http_status=status,
            request_id=request_id or body.request_id,
            retry_after_s=_wait_s(status, headers, body.retry_after_s),
            should_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "")),
            maybe_billed=status in formats.BILLED_STATUSES,
        )

    def _head(self, wire: WireRequest) -> _Head:
        """Make address and headers once: all requests of a job have one or a few."""
        key = (wire.url, wire.headers)
        head = self._heads.get(key)
        if head is None:
            try:
                head = self._heads[key] = self._new_head(wire)
            except (httpx.InvalidURL, UnicodeError) as error:
                fault = ProviderFault(
                    "invalid_request", f"cannot be sent: {error}", should_retry=False
                )
                raise ProviderError(fault) from None
        return head

    def _new_head(self, wire: WireRequest) -> _Head:
        # A header of the job's own takes the place of ours of the same name.
        given = {name for name, _ in (*wire.headers, *self._secret_headers)}
        key_header = [header for header in self._key_header if header[0] not in given]
        replaced = {name for name, _ in self._secret_headers}
        plain = [header for header in wire.headers if header[0] not in replaced]
        address = wire.url
        if self._reroute is not None:
            original, other = self._reroute
            address = other + wire.url.removeprefix(original)
        request = httpx.Request(
            "POST", address, headers=[*plain, *self._secret_headers, *key_header]
        )
        del request.headers["content-length"]
        return _Head(request)


def _unusable(
    fault: ProviderFault, status: int, headers: Mapping[str, str], request_id: str | None
) -> ProviderFault:
    """An answer under a status of success that is none: the status that it gives itself counts."""
    status = fault.http_status or status
    return replace(
        fault,
        http_status=status,
        request_id=request_id or fault.request_id,
        retry_after_s=_wait_s(status, headers, fault.retry_after_s),
    )


def _transport_fault(error: httpx.TransportError) -> ProviderFault:
    kind = "timeout" if isinstance(error, httpx.TimeoutException) else "connection_error"
    before = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
    return _broken(kind, str(error), maybe_billed=not before)


def _broken(error_type: str, message: str, *, maybe_billed: bool = True) -> ProviderFault:
    """An exchange that broke: once bytes have left, the provider may have billed it."""
    return ProviderFault(error_type, message or error_type, maybe_billed=maybe_billed)


def _without_secrets(target: str) -> str:
    """Return where a redirect leads, without user, parameters and fragment: they may be secret."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "an address that is not valid"
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query=parts.query and MASK, fragment="").geturl()


def _wait_s(status: int, headers: Mapping[str, str], body_s: float | None) -> float | None:
    """Return the wait that a refusal asks for: by `retry-after`, in its body, or until a reset."""
    waits = [retry_after(headers), body_s]
    if status == 429:
        waits.append(formats.seconds_until_reset(headers))
    found = next((wait for wait in waits if wait is not None), None)
    return None if found is None else min(found, MAX_RETRY_AFTER_S)


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Return headers as a dict: httpx's own lookups go through all of them each time."""
    return {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in headers.raw}


async def _whole(content: bytes) -> AsyncGenerator[bytes]:
    yield content


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


__all__ = [
    "Client",
    "Credentials",
    "Exchange",
    "PyreqwestTransport",
    "TransportPort",
    "retry_after",
]
