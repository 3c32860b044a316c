"""The batch endpoint of a vendor over HTTP. Each call is one exchange; nothing is retried here.

The key is sent to the host of the base URL only. The results of a batch may be on another host: the batch
names their address.
"""

from __future__ import annotations

from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlencode, urlsplit

import anyio
import httpx

from batchrun.client import MAX_BODY_BYTES, SUCCESS, ClientOptions, rerouted
from batchrun.client.batch_content import SHOWN_BYTES, LineSplitter, cut_answer, multipart
from batchrun.client.faults import broken, status_fault, transport_fault, unusable
from batchrun.client.transport import (
    STREAM_EXTENSION,
    FileBody,
    close_quietly,
    pieces,
    plain_headers,
    read_whole,
)
from batchrun.errors import (
    BatchInDoubt,
    BatchNotCreated,
    NoBatchEndpoint,
    ProviderError,
    ProviderFault,
)
from batchrun.formats import BatchAnswer, InvalidResponse
from batchrun.formats.batches import split_url
from batchrun.formats.parsing import as_dict, as_text, dumps, glimpse, read_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Mapping

    from batchrun.client.keys import Credentials, Redaction
    from batchrun.formats import BatchFormat, RemoteBatch, WireFormat

T = TypeVar("T")

# The slowest transfer that is waited for, in bytes per second.
_SLOWEST = 100_000
_MOST_RESULTS_BYTES = 2**40
_MISSING = frozenset({404, 405, 501})
# After these, the server may have created the batch all the same.
_DOUBTFUL = frozenset({408, 409, 425, 499})


@dataclass(frozen=True, slots=True)
class _BatchCall:
    """One call: `stream` is the body, with its content type."""

    method: str
    url: str
    stream: httpx.AsyncByteStream | None = None
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] | None = None
    with_key: bool = True


class BatchClient:
    """The batches of one account at one server.

    Args:
        wire_format: one that has batches.
        url: URL of single requests, as `WireRequest.url`.
        headers: headers of single requests, without credentials.
        credentials: stored in this object alone, and redacted in everything that is received.
        transport: the port to the network.
        options: see `ClientOptions`. `timeout_s` applies to the answer of each call. A large body has more
            time, and a download may take any time as long as data arrives.
    """

    def __init__(
        self,
        wire_format: WireFormat,
        url: str,
        headers: tuple[tuple[str, str], ...],
        *,
        credentials: Credentials,
        transport: httpx.AsyncBaseTransport,
        options: ClientOptions,
    ) -> None:
        if wire_format.batches is None:
            raise ValueError(f"the format {wire_format.name} has no batches")
        self._format = wire_format
        self._batches: BatchFormat = wire_format.batches
        self.service = self._batches.service(url)
        self._headers = headers
        self._credentials = credentials
        self._transport = transport
        self._options = _at_simulator(options, self.service.batches)
        self._origin = _origin(rerouted(self.service.batches, self._options))

    @property
    def _redaction(self) -> Redaction:
        return self._credentials.redaction

    @property
    def account(self) -> str:
        """A digest of the address and the key: batches belong to an account.

        It does not reveal the key, unless the key is as short as a word.
        """
        digest = blake2b(self.service.batches.encode(), digest_size=16)
        for name, value in (("", self._credentials.account), *self._credentials.headers):
            digest.update(f"\n{name}\n{value}".encode())
        return digest.hexdigest()

    async def check(self) -> None:
        """Ask whether there are batches, before anything is sent.

        Raises:
            NoBatchEndpoint: if the server does not have them.
            ProviderError: if it cannot be asked.
        """
        # A list costs nothing and changes nothing, and every vendor has it at the batches' address.
        await self._page(None, 1)

    async def upload(self, requests: BinaryIO, tag: str) -> str | None:
        """Upload the requests of a batch; return the id of the file.

        None where a batch is created with its requests: then nothing is sent. Uploading is free.

        Args:
            requests: the content, as `BatchFormat` writes it.
            tag: names the file.

        Raises:
            ProviderError: if it was not uploaded, or no answer confirms it.
        """
        if self.service.uploads is None:
            return None
        name, form = f"{tag}.jsonl", {"purpose": self.service.purpose}
        if self.service.names_file:
            form["file_name"] = name
        body, content_type = multipart(form, requests, name, self._batches.content_type)
        payload = await self._call(_BatchCall("POST", self.service.uploads, body, content_type))
        if not (file_id := as_text(payload.get("id"))):
            raise ProviderError(_unexpected(payload))
        return file_id

    async def create(
        self,
        requests: BinaryIO,
        input_file: str | None,
        tag: str,
        headers: tuple[tuple[str, str], ...] | None = None,
    ) -> RemoteBatch:
        """Create a batch. The caller must not simply repeat the call: the batch could exist twice.

        Args:
            requests: the content, if it is not uploaded.
            input_file: what `upload` returned.
            tag: stored with the batch, if the vendor supports that.
            headers: headers of its requests, in place of the client's.

        Raises:
            BatchNotCreated: it certainly does not exist.
            BatchInDoubt: it may exist.
        """
        body: httpx.AsyncByteStream
        if self._batches.creation is None or input_file is None:
            body, content_type = FileBody(requests), self._batches.content_type
        else:
            creation = self._batches.creation(input_file, tag, self.service)
            body, content_type = httpx.ByteStream(creation), "application/json"
        url = f"{self.service.batches}{self.service.query}"
        outgoing = _BatchCall("POST", url, body, content_type, headers)
        try:
            return self._read(await self._call(outgoing))
        except ProviderError as error:
            kind = BatchInDoubt if _is_doubtful(error.fault) else BatchNotCreated
            raise kind(error.fault) from None

    async def recent(self, since_us: int | None = None) -> AsyncGenerator[RemoteBatch]:
        """Yield the account's batches, newest first, including those of other users.

        Args:
            since_us: stop at the first one that was created before this time.

        Raises:
            NoBatchEndpoint: if the server does not have them.
            ProviderError: if a page does not arrive.
        """
        last: str | None = None
        while True:
            found, has_more = await self._page(last, self._batches.page_size)
            for batch in found:
                if since_us is not None and (batch.created_us or since_us) < since_us:
                    return
                yield batch
            # A server that ignores the cursor sends the same page forever.
            if not has_more or not found or found[-1].id == last:
                return
            last = found[-1].id

    async def get(self, batch_id: str) -> RemoteBatch:
        """Return a batch as it is now.

        Raises:
            ProviderError: with status 404 if the account has no such batch.
        """
        return self._read(await self._call(_BatchCall("GET", self.service.batch(batch_id))))

    async def cancel(self, batch_id: str) -> RemoteBatch:
        """Cancel a batch. Requests that have begun may still be answered, and are billed.

        Raises:
            ProviderError: if it cannot be canceled, or no answer confirms it.
        """
        url = self.service.batch(batch_id, "/cancel")
        return self._read(await self._call(_BatchCall("POST", url, httpx.ByteStream(b""))))

    async def delete_input(self, file_id: str) -> None:
        """Delete an uploaded file. A failure is harmless: the vendor deletes it later."""
        with suppress(ProviderError):
            await self._call(_BatchCall("DELETE", self.service.file(file_id)))

    async def results(self, batch: RemoteBatch) -> AsyncGenerator[BatchAnswer]:
        """Yield the outcomes of the requests of a batch in a final state, in any order.

        After an error it can be called again; it then starts from the first one.

        Raises:
            ProviderError: if there are no results, the connection breaks, or some lines cannot be
                read; in the last case all others have been yielded.
        """
        for url in self._batches.results(batch, self.service):
            async with aclosing(self._answers(batch, url)) as answers:
                async for answer in answers:
                    yield answer

    async def _answers(self, batch: RemoteBatch, url: str) -> AsyncGenerator[BatchAnswer]:
        response = await self._open_results(batch, url)
        unread: list[bytes] = []
        try:
            async with aclosing(self._lines(response)) as lines:
                async for line, is_cut in lines:
                    answer = cut_answer(line) if is_cut else self._answer(line)
                    if answer is None:
                        unread.append(line[:SHOWN_BYTES])
                    else:
                        yield answer
        finally:
            await close_quietly(response)
        # Only now, so that a broken line does not hide the answers after it, which are paid for.
        if unread:
            message = f"{len(unread)} lines of the results cannot be read: {glimpse(unread[0])}"
            fault = ProviderFault("invalid_response", message, maybe_billed=True)
            raise ProviderError(self._redaction.fault(fault))

    def _answer(self, line: bytes) -> BatchAnswer | None:
        try:
            found = self._format.read_batch_line(line, keep_raw=self._options.keep_raw)
        except InvalidResponse:
            return None
        if found.completion is not None:
            completion = self._redaction.completion(found.completion)
            return (
                found if completion is found.completion else replace(found, completion=completion)
            )
        return (
            found
            if found.fault is None
            else replace(found, fault=self._redaction.fault(found.fault))
        )

    async def _open_results(self, batch: RemoteBatch, url: str) -> httpx.Response:
        """Start a download of results. If they are on another host, the base URL's host is tried first."""
        if _origin(rerouted(url, self._options)) == self._origin:
            return await self._open(_BatchCall("GET", url))
        try:
            return await self._open(_BatchCall("GET", self.service.batch(batch.id, "/results")))
        except ProviderError as error:
            if error.fault.http_status not in _MISSING:
                raise
        # Another host must never receive the key.
        return await self._open(_BatchCall("GET", url, with_key=False))

    async def _lines(self, response: httpx.Response) -> AsyncGenerator[tuple[bytes, bool]]:
        """Yield the lines of a body, and whether each was truncated because it is too long."""
        splitter = LineSplitter()
        headers = plain_headers(response)
        body = pieces(response, headers, _MOST_RESULTS_BYTES)
        while (
            piece := await self._in_time(anext(body, None), self._options.timeout_s)
        ) is not None:
            for line in splitter.feed(piece):
                yield line
        for line in splitter.feed(b"\n"):
            yield line

    async def _page(self, last: str | None, size: int) -> tuple[list[RemoteBatch], bool]:
        """Return the batches after the `last` one, and whether there are more."""
        asked = {"limit": size, **({} if last is None else {self._batches.after: last})}
        mark = "&" if self.service.query else "?"
        url = f"{self.service.batches}{self.service.query}{mark}{urlencode(asked)}"
        try:
            payload = await self._fetch(_BatchCall("GET", url))
        except ProviderError as error:
            is_page = error.fault.error_type == "invalid_response"
            if is_page or error.fault.http_status in _MISSING:
                raise NoBatchEndpoint(self._no_batches(error.fault)) from None
            raise
        listed = payload if isinstance(payload, list) else as_dict(payload).get("data")
        if not isinstance(listed, list):
            raise NoBatchEndpoint(self._no_batches(_unexpected(payload)))
        found = []
        for each in listed:
            with suppress(InvalidResponse):
                found.append(self._batches.read_batch(as_dict(each)))
        return found, bool(as_dict(payload).get("has_more"))

    def _no_batches(self, fault: ProviderFault) -> ProviderFault:
        message = (
            f"there is no batch endpoint at {self.service.batches} ({fault.error_type}: "
            f"{fault.message}); check base_url, or run without --batch"
        )
        return replace(fault, error_type="no_batch_endpoint", message=message)

    def _read(self, payload: Mapping[str, Any]) -> RemoteBatch:
        try:
            return self._batches.read_batch(payload)
        except InvalidResponse as error:
            raise ProviderError(self._redaction.fault(error.fault)) from None

    async def _call(self, outgoing: _BatchCall) -> dict[str, Any]:
        return as_dict(await self._fetch(outgoing))

    async def _fetch(self, outgoing: _BatchCall) -> Any:  # noqa: ANN401 - any JSON
        """Return the JSON that a call is answered with."""
        response = await self._open(outgoing)
        try:
            headers = plain_headers(response)
            content = await self._in_time(
                read_whole(response, headers, MAX_BODY_BYTES, None), self._options.timeout_s
            )
            return read_json(content)
        except InvalidResponse as error:
            fault = unusable(error.fault, response.status_code, headers, None)
            raise ProviderError(self._redaction.fault(fault)) from None
        finally:
            await close_quietly(response)

    async def _open(self, outgoing: _BatchCall) -> httpx.Response:
        """Send a request; return the response if its status is a success."""
        if (command := self._credentials.command) is not None:
            await command.renew_if_old()
        request = self._request(outgoing)
        # `timeout_s` is for the answer; uploading hundreds of megabytes takes longer.
        size = int(request.headers.get("content-length", 0))
        timeout_s = self._options.timeout_s + size / _SLOWEST
        response = await self._in_time(self._transport.handle_async_request(request), timeout_s)
        status = response.status_code
        if status in SUCCESS or status == 204:
            return response
        headers = plain_headers(response)
        try:
            content = await self._in_time(
                read_whole(response, headers, MAX_BODY_BYTES, None), self._options.timeout_s
            )
        except (InvalidResponse, ProviderError) as error:
            content = str(error).encode()  # the status counts, even if its body cannot be read
        finally:
            await close_quietly(response)
        request_id = self._format.request_id(headers)
        fault = status_fault(self._format, status, headers, content, request_id)
        address, _ = split_url(outgoing.url, "")
        raise ProviderError(self._redaction.fault(replace(fault, address=address)))

    def _request(self, outgoing: _BatchCall) -> httpx.Request:
        given = self._headers if outgoing.headers is None else outgoing.headers
        headers = [header for header in given if header[0] not in {"content-type", "accept"}]
        if outgoing.with_key:
            headers = self._credentials.sent_with(headers, self._format, self._options.auth)
        else:
            headers = []
        if outgoing.stream is not None and outgoing.content_type:
            headers.append(("content-type", outgoing.content_type))
        if isinstance(outgoing.stream, FileBody):
            headers.append(("content-length", str(outgoing.stream.length)))
        return httpx.Request(
            outgoing.method,
            rerouted(outgoing.url, self._options),
            headers=headers,
            stream=outgoing.stream or httpx.ByteStream(b""),
            extensions={STREAM_EXTENSION: True},
        )

    async def _in_time(self, awaitable: Awaitable[T], timeout_s: float) -> T:
        """Await a step of an exchange; its errors become faults."""
        try:
            with anyio.move_on_after(timeout_s):
                return await awaitable
        except httpx.TransportError as error:
            raise ProviderError(self._redaction.fault(transport_fault(error))) from None
        except InvalidResponse as error:
            raise ProviderError(self._redaction.fault(error.fault)) from None
        raise ProviderError(broken("timeout", f"no answer within {timeout_s:g} s"))


def _is_doubtful(fault: ProviderFault) -> bool:
    """Whether a batch may exist although the request to create it failed in this way."""
    # When in doubt, it may exist: creating a second batch would be paid twice, looking for it is free.
    status = fault.http_status
    if status is None:
        return fault.maybe_billed
    return status < 300 or status >= 500 or status in _DOUBTFUL


def _unexpected(payload: object) -> ProviderFault:
    message = f"not the expected answer: {glimpse(dumps(payload))}"
    return ProviderFault("invalid_response", message)


def _at_simulator(options: ClientOptions, batches: str) -> ClientOptions:
    """Return options for the simulator if the batches have another address than requests (Azure)."""
    if options.reroute is None or batches.startswith(options.reroute[0]):
        return options
    return replace(options, reroute=(batches.removesuffix("/batches"), options.reroute[1]))


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", parts.port or usual
