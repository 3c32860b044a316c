"""One HTTP attempt: sends a `WireRequest`, returns a `Completion` or raises a `ProviderError`.

The port is httpx's: any `httpx.AsyncBaseTransport` can carry the requests, and tests inject faults
there. The default transport is pyreqwest, because the time that httpx's connection pool takes grows with
the square of the requests in flight.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import anyio
import httpx

from batchrun import formats
from batchrun.client.faults import broken, retry_after, status_fault, transport_fault, unusable
from batchrun.client.key_command import KeyCommand, KeyRenewal
from batchrun.client.keys import Credentials, Redaction
from batchrun.client.transport import (
    HEAD_EXTENSION,
    STREAM_EXTENSION,
    TIMEOUT_EXTENSION,
    PyreqwestTransport,
    close_quietly,
    drain,
    pieces,
    plain_headers,
    read_whole,
    reserve_memory,
    until_idle,
)
from batchrun.errors import JobError, ProviderError, ProviderFault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from batchrun.formats import WireFormat
    from batchrun.limits import ByteBudget
    from batchrun.limits.memory import Share
    from batchrun.records import Completion, LimitState, WireRequest

# The port that carries HTTP requests. Other modules use this name, not httpx's.
TransportPort = httpx.AsyncBaseTransport

MOST_HEADS = 100
# Servers are not trusted: a longer answer is an error, so that it cannot use all memory.
MAX_BODY_BYTES = 32 * 1024 * 1024
# Little of a stream is kept, and the reader bounds that.
MAX_STREAM_BYTES = 1024 * 1024 * 1024
_EVENT_STARTS = (b"data: ", b"event:", b"data:{")
# Statuses of a completion; some gateways answer 201 or 202.
SUCCESS = frozenset({200, 201, 202})


class _RequestHead:
    """A URL, and the headers that all requests to it share."""

    def __init__(self, request: httpx.Request) -> None:
        self.url = request.url
        self.headers = request.headers
        self.texts = str(request.url), request.headers.multi_items()


class _Outgoing(httpx.Request):
    """A request that shares its head with many others, so that it is computed only once."""

    def __init__(self, head: _RequestHead, wire: WireRequest, timeout_s: float) -> None:
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
        """The headers of the head, and the length of the body."""
        headers = self._head.headers.copy()
        headers["content-length"] = str(len(self._body))
        return headers

    def read(self) -> bytes:
        """Return the body."""
        return self._body


class Exchange(NamedTuple):
    """A successful attempt.

    Attributes:
        headers: of the response, by lower-case name.
        limits: what the limit headers among them say.
        memory: the share of the memory for answers that this one occupies until `close`.
    """

    completion: Completion
    http_status: int
    request_id: str | None
    headers: Mapping[str, str]
    limits: LimitState | None = None
    memory: Share | None = None

    def close(self) -> None:
        """Release the memory: the answer has been stored."""
        if self.memory is not None:
            self.memory.close()


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a client sends requests and reads answers.

    Attributes:
        timeout_s: maximum duration of one attempt, from connecting to the last byte, in seconds.
        auth: `bearer` or the name of a header; None for the format's default.
        keep_raw: whether completions keep the body as received.
        reroute: the beginning of URLs and what to use instead (the simulator's).
    """

    timeout_s: float
    auth: str | None = None
    keep_raw: bool = False
    reroute: tuple[str, str] | None = None


def rerouted(url: str, options: ClientOptions) -> str:
    """Return the address that a request is sent to: the URL, or that of the simulator in its place."""
    if options.reroute is None:
        return url
    original, other = options.reroute
    if url.startswith(original):
        return other + url.removeprefix(original)
    origin, foreign = urlsplit(original), urlsplit(url)
    if (foreign.scheme, foreign.netloc) != (origin.scheme, origin.netloc):
        return url
    # Nothing reaches the server whose place the simulator takes.
    return urlsplit(other)._replace(path=foreign.path, query=foreign.query).geturl()


class Client:
    """Sends wire requests of one format with one set of credentials.

    Args:
        wire_format: how the key is sent and how answers are read.
        credentials: stored in this object alone, and redacted in everything that is received.
        transport: the port to the network.
        options: see `ClientOptions`.
        memory: bounds the bytes of long answers in memory; None for no common bound.
    """

    def __init__(
        self,
        wire_format: WireFormat,
        credentials: Credentials,
        transport: httpx.AsyncBaseTransport,
        options: ClientOptions,
        memory: ByteBudget | None = None,
    ) -> None:
        self._format = wire_format
        self._options = options
        self._credentials = credentials
        self._memory = memory
        self._transport = transport
        self._transport_keeps_deadlines = getattr(transport, "keeps_deadlines", False)
        self._heads: dict[tuple[object, ...], _RequestHead] = {}

    @property
    def _redaction(self) -> Redaction:
        return self._credentials.redaction

    async def send(self, wire: WireRequest) -> Exchange:
        """Make one attempt.

        Raises:
            ProviderError: if the answer is not a completion, or none arrived.
        """
        share = None if self._memory is None else self._memory.share()
        try:
            if (command := self._credentials.command) is None:
                exchange = await self._in_time(wire, share)
            else:
                exchange = await self._with_a_valid_key(command, wire, share)
        except BaseException as error:
            # Also when cancelled: memory that is not released would block other answers.
            if share is not None:
                share.close()
            if isinstance(error, ProviderError):
                raise ProviderError(self._redaction.fault(error.fault)) from None
            raise
        completion = self._redaction.completion(exchange.completion)
        return (
            exchange
            if completion is exchange.completion
            else exchange._replace(completion=completion)
        )

    async def _with_a_valid_key(
        self, command: KeyCommand, wire: WireRequest, share: Share | None
    ) -> Exchange:
        """Make one attempt; repeat it if its short-lived key was refused and there is a new one."""
        await command.renew_if_old()
        used = command.key
        try:
            return await self._in_time(wire, share)
        except ProviderError as error:
            if error.fault.http_status != 401 or not await _renewed(command, used, error.fault):
                raise
        return await self._in_time(wire, share)

    async def _in_time(self, wire: WireRequest, share: Share | None) -> Exchange:
        """Make one attempt within its time limit; translate errors of the transport."""
        try:
            if self._transport_keeps_deadlines:
                return await self._exchange(wire, share)
            with anyio.move_on_after(self._options.timeout_s):
                return await self._exchange(wire, share)
        except httpx.TransportError as error:
            raise ProviderError(transport_fault(error)) from None
        raise ProviderError(broken("timeout", f"no answer within {self._options.timeout_s:g} s"))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def _exchange(self, wire: WireRequest, share: Share | None) -> Exchange:
        request = _Outgoing(self._head(wire), wire, self._options.timeout_s)
        # No retry here: a request that was sent may be billed, so each exchange is a separate attempt.
        response = await self._transport.handle_async_request(request)
        headers = plain_headers(response)
        request_id = self._format.request_id(headers)
        request_id = request_id and self._redaction.text(request_id)
        try:
            completion = await self._read(wire, response, headers, request_id, share)
        except formats.InvalidResponse as error:
            status = response.status_code
            if status not in SUCCESS:  # the status counts, even if its body cannot be read
                fault = status_fault(self._format, status, headers, str(error).encode(), request_id)
                raise ProviderError(fault) from None
            raise ProviderError(unusable(error.fault, status, headers, request_id)) from None
        finally:
            await close_quietly(response)
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
        # The content type decides: some servers stream without being asked, or do not although asked.
        status = response.status_code
        is_success = status in SUCCESS
        if is_success and "text/event-stream" in headers.get("content-type", "").lower():
            body = pieces(response, headers, MAX_STREAM_BYTES)
            return await self._read_stream(wire, body, share)
        content = await read_whole(response, headers, MAX_BODY_BYTES, share)
        if not is_success:
            raise ProviderError(status_fault(self._format, status, headers, content, request_id))
        if content.lstrip()[:6] in _EVENT_STARTS:
            # Some servers send a stream with the content type of a whole answer.
            return await self._read_stream(wire, _whole(content), share)
        return self._format.parse(content, keep_raw=self._options.keep_raw)

    async def _read_stream(
        self, wire: WireRequest, body: AsyncGenerator[bytes], share: Share | None
    ) -> Completion:
        reader = self._format.stream_reader(wire, keep_raw=self._options.keep_raw)
        try:
            async with aclosing(body) as body_pieces:
                async for piece in until_idle(body_pieces, reader):
                    reader.feed(piece)
                    await reserve_memory(share, reader.held)
                    if reader.is_ended:
                        # Nothing after the end marker counts, but an unread body costs the connection.
                        await drain(body_pieces)
                        break
            return reader.finish()
        except formats.InvalidResponse as error:
            fault = reader.with_facts(error.fault)
            raise formats.InvalidResponse(fault.message, fault=fault) from None
        except httpx.TransportError as error:
            raise ProviderError(reader.with_facts(transport_fault(error))) from None

    def _head(self, wire: WireRequest) -> _RequestHead:
        """Return URL and headers; all requests of a job share one or a few."""
        key = (wire.url, wire.headers, self._credentials.current_key)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= MOST_HEADS:  # the headers of each row may differ
                self._heads.clear()
            try:
                head = self._heads[key] = self._new_head(wire)
            except (httpx.InvalidURL, UnicodeError) as error:
                fault = ProviderFault(
                    "invalid_request", f"cannot be sent: {error}", should_retry=False
                )
                raise ProviderError(fault) from None
        return head

    def _new_head(self, wire: WireRequest) -> _RequestHead:
        headers = self._credentials.sent_with(wire.headers, self._format, self._options.auth)
        request = httpx.Request("POST", rerouted(wire.url, self._options), headers=headers)
        del request.headers["content-length"]
        return _RequestHead(request)


async def _renewed(command: KeyCommand, used: str, fault: ProviderFault) -> bool:
    """Run the command for a new key; if it fails, the run stops with the command's message."""
    try:
        return await command.renew(used)
    except JobError as error:
        message = f"{fault.message}; {error}"
        raise ProviderError(replace(fault, message=message)) from None


async def _whole(content: bytes) -> AsyncGenerator[bytes]:
    yield content


__all__ = [
    "Client",
    "ClientOptions",
    "Credentials",
    "Exchange",
    "KeyCommand",
    "KeyRenewal",
    "PyreqwestTransport",
    "TransportPort",
    "retry_after",
]
