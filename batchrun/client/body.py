"""The body of a response: read within its bound, and within what all of them may hold together."""

from __future__ import annotations

import math
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, cast

import anyio
import httpx

from batchrun.client.encodings import unpacked
from batchrun.client.transport import BodyStream
from batchrun.errors import ProviderError, ProviderFault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping

    from batchrun.formats import StreamReader
    from batchrun.limits.memory import Share

STREAM_END_S = 1.0
CLOSE_S = 1.0
# Only longer answers are counted: with thousands in flight, those up to here take some megabytes.
SMALL_BYTES = 64 * 1024


async def hold(share: Share | None, size: int) -> None:
    """Wait until so many bytes of an answer may be held, unless they are few."""
    if size > SMALL_BYTES and share is not None:
        await share.grow(size)


async def read_whole(
    response: httpx.Response,
    headers: Mapping[str, str],
    most_bytes: int,
    share: Share | None,
) -> bytes:
    """Read a whole body: in one step where it is known to be short.

    Raises:
        ProviderError: when it is larger than `most_bytes`.
    """
    stream = response.stream
    if isinstance(stream, BodyStream) and stream.is_short and "content-encoding" not in headers:
        await hold(share, stream.length or 0)
        return await stream.whole()
    content = BytesIO()
    async for piece in pieces(response, headers, most_bytes):
        await hold(share, content.tell() + len(piece))
        content.write(piece)
    return content.getvalue()


async def pieces(
    response: httpx.Response, headers: Mapping[str, str], most_bytes: int
) -> AsyncGenerator[bytes]:
    """Yield the pieces of a body, unpacked.

    Raises:
        ProviderError: when they are more than `most_bytes`.
    """
    # httpx's iteration would also close the response, and an answer must not wait for that.
    stream = cast("AsyncIterable[bytes]", response.stream)
    encoding = headers.get("content-encoding")
    size = 0
    async for piece in stream if encoding is None else unpacked(stream, encoding):
        size += len(piece)
        if size > most_bytes:
            raise ProviderError(
                ProviderFault(
                    "response_too_large",
                    f"the body is larger than {most_bytes // 2**20} MiB",
                    response.status_code,
                    should_retry=False,
                    maybe_billed=True,
                )
            )
        yield piece


async def until_quiet(body: AsyncIterator[bytes], reader: StreamReader) -> AsyncGenerator[bytes]:
    """Yield the pieces of a stream that `reader` is fed with, until they end.

    Where nothing of the answer is missing and its end does not come, it is over when no event has come
    for a while; comments, which keep connections open, are no events.
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


async def put_away(response: httpx.Response) -> None:
    """Close a response; whether that works or not, an answer that was read is kept."""
    if isinstance(response.stream, BodyStream) and response.stream.is_read:
        return
    with (
        anyio.move_on_after(CLOSE_S, shield=True),
        suppress(httpx.TransportError),
    ):
        await response.aclose()


async def read_off(pieces: AsyncIterator[bytes]) -> None:
    """Read a finished stream to its end, so that its connection can be used again.

    The answer is there already: whatever happens now, or does not happen soon, is no failure.
    """
    with anyio.move_on_after(STREAM_END_S), suppress(httpx.TransportError, ProviderError):
        async for _ in pieces:
            pass
