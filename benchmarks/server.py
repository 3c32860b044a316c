"""A provider that answers at once: one process, no parsing beyond what HTTP needs.

Prints its port, then one line `first <seconds since the epoch>` when the first request arrives.
`GET` on any path answers with the number of requests so far.
"""

from __future__ import annotations

import asyncio
import sys
import time

_BODY = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"claude-haiku-4-5-20251001",'
    b'"content":[{"type":"text","text":"A short answer."}],"stop_reason":"end_turn",'
    b'"stop_sequence":null,"usage":{"input_tokens":40,"output_tokens":5}}'
)
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_BODY)
) + _BODY


class Provider(asyncio.Protocol):
    """One connection."""

    requests = 0

    def __init__(self) -> None:
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._buffer += data
        while (end := self._request_end()) is not None:
            head = bytes(self._buffer[:4])
            del self._buffer[:end]
            self._transport.write(self._count() if head == b"GET " else self._answer())

    def _request_end(self) -> int | None:
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return None
        field = self._buffer.lower().find(b"content-length:", 0, head)
        length = 0
        if field >= 0:
            length = int(self._buffer[field + 15 : self._buffer.find(b"\r\n", field)])
        end = head + 4 + length
        return end if len(self._buffer) >= end else None

    def _answer(self) -> bytes:
        Provider.requests += 1
        if Provider.requests == 1:
            print("first", time.time(), flush=True)
        return _ANSWER

    def _count(self) -> bytes:
        text = str(Provider.requests).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text)


async def serve() -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(serve()))
