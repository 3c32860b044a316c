"""Compressed bodies that the transport left compressed, unpacked in bounded steps.

A kilobyte can swell to a gigabyte in one step of a decompressor, and in each of several that stand one
upon the other; so a step gives at most `STEP_BYTES`, and only one compression is taken off.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from batchrun.formats import InvalidResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

STEP_BYTES = 1024 * 1024
_PLAIN = ("", "identity")
_READ = ("gzip", "x-gzip", "deflate")
_ANY_ZLIB = 32 + zlib.MAX_WBITS  # the header says which


async def unpacked(body: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Yield the content of a body; `encoding` is its `content-encoding`.

    Raises:
        InvalidResponse: when it cannot be unpacked.
    """
    name = encoding.strip().lower()
    if name in _PLAIN:
        async for piece in body:
            yield piece
        return
    if name not in _READ:
        raise InvalidResponse(f"the body is compressed by {name[:80]!r}, which is not read")
    unpacker = zlib.decompressobj(_ANY_ZLIB)
    async for piece in body:
        packed = piece
        while packed:
            try:
                yield unpacker.decompress(packed, STEP_BYTES)
            except zlib.error as error:
                raise InvalidResponse(f"the body cannot be decompressed: {error}") from None
            packed = unpacker.unconsumed_tail
