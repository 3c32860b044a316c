"""A provider that answers at once: one process, no parsing beyond what HTTP needs.

Usage: python -m benchmarks.server [LATENCY_MS]

Prints its port, then one line `first <seconds since the epoch>` when the first request arrives.
`GET` on any path answers with the number of requests so far and the CPU seconds that they took.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

_BODY = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"claude-haiku-4-5-20251001",'
    b'"content":[{"type":"text","text":"A short answer."}],"stop_reason":"end_turn",'
    b'"stop_sequence":null,"usage":{"input_tokens":40,"output_tokens":5}}'
)
_CHAT_BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-mini","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"A short answer."},'
    b'"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":40,"completion_tokens":5,"total_tokens":45}}'
)


def _whole(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


_ANSWER, _CHAT_ANSWER = _whole(_BODY), _whole(_CHAT_BODY)


class Connection(asyncio.Protocol):
    """An HTTP/1.1 connection that answers every complete request; its body is not looked at."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._buffer += data
        while (end := self._request_end()) is not None:
            line = bytes(self._buffer[: self._buffer.find(b"\r\n")])
            del self._buffer[:end]
            self.answer(line)

    def answer(self, line: bytes) -> None:
        """Answer a request with this request line."""
        raise NotImplementedError

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


class Provider(Connection):
    """Answers after a fixed latency; `GET` returns the number of requests and the CPU time."""

    requests = 0
    latency_s = 0.0

    def answer(self, line: bytes) -> None:  # noqa: D102 - see Connection
        if line.startswith(b"GET "):
            self._transport.write(self._count())
        elif self.latency_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self.latency_s, self._transport.write, self._answer(line))
        else:
            self._transport.write(self._answer(line))

    def _answer(self, line: bytes) -> bytes:
        Provider.requests += 1
        if Provider.requests == 1:
            print("first", time.time(), flush=True)
        return _CHAT_ANSWER if b"/chat/completions" in line else _ANSWER

    def _count(self) -> bytes:
        return _whole(f"[{Provider.requests}, {time.process_time()}]".encode())


async def serve() -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Provider.latency_s = float(sys.argv[1]) / 1000
    sys.exit(asyncio.run(serve()))
