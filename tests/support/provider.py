"""A provider for tests: a real HTTP server on loopback whose every answer the test decides.

It keeps the books that a real provider would keep: what arrived, what was answered (and so billed).
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


# A limit for what takes milliseconds, on a machine with much else to do.
LONGEST_S = 120.0
LOOK_EVERY_S = 0.005


@dataclass(frozen=True)
class Call:
    """One request as it arrived. `seen` counts earlier requests with the same body."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    number: int
    seen: int

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)  # type: ignore[no-any-return]

    @property
    def prompt(self) -> str:
        """The last user turn."""
        turns = [turn for turn in self.json["messages"] if turn["role"] == "user"]
        return str(turns[-1]["content"])


@dataclass(frozen=True)
class Reply:
    """What to answer. `delay_s` passes before it, and what `until` says happens before it; `then` is
    called once it has been sent.

    `is_billed` charges for the request at once, whatever the status; by default an answer with 200
    is charged for when it is sent. Of the reply's bytes `cut` are sent, and then a reset.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    until: threading.Event | None = None
    then: Callable[[], None] | None = None
    is_billed: bool = False
    cut: int | None = None


def answer(call: Call, text: str = "ok", **reply: Any) -> Reply:
    """A success in the format that was asked for; 11 tokens in, 7 out."""
    model = call.json["model"]
    if call.path.endswith("/messages"):
        payload: dict[str, Any] = {
            "id": f"msg_{call.number}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 11, "output_tokens": 7},
        }
    else:
        payload = {
            "id": f"chatcmpl-{call.number}",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                    **_logprobs(call, text),
                }
            ],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        }
    return Reply(body=json.dumps(payload).encode(), **reply)


def _logprobs(call: Call, text: str) -> dict[str, Any]:
    """The answer as one token with a probability of a half, if asked for."""
    if not call.json.get("logprobs"):
        return {}
    token = {"token": text, "logprob": log(0.5), "bytes": None, "top_logprobs": []}
    return {"logprobs": {"content": [token], "refusal": None}}


def refusal(status: int, error_type: str, message: str = "no", **headers: str) -> Reply:
    """An error in the Claude shape, which both formats' readers know."""
    payload = {"type": "error", "error": {"type": error_type, "message": message}}
    fixed = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(payload).encode(), fixed)


class Provider:
    """Runs in a thread of its own; `decide` is called there for every request."""

    def __init__(self, decide: Callable[[Call], Reply], port: int = 0) -> None:
        self.decide = decide
        self._port = port
        self.calls: list[Call] = []
        self.billed: Counter[bytes] = Counter()
        self.url = ""
        self._seen: Counter[bytes] = Counter()
        self._connections = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def extra_bills(self) -> int:
        """How many answers were billed beyond the first of each request."""
        return sum(count - 1 for count in self.billed.values())

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(LONGEST_S)

    def stop(self) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(LONGEST_S)

    def settle(self) -> None:
        """Wait until all is done that clients have left behind which are gone now."""
        place = urlsplit(self.url)
        with socket.create_connection((place.hostname, place.port), timeout=LONGEST_S) as last:
            # Connections are accepted in order: when this one is, the earlier ones have been.
            last.shutdown(socket.SHUT_WR)
            assert last.recv(1) == b""
        deadline = time.monotonic() + LONGEST_S
        while self._connections:
            assert time.monotonic() < deadline
            time.sleep(LOOK_EVERY_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self._port, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                await self._exchange(reader, writer)
        self._connections -= 1
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        call = Call(head[0].split()[1], headers, body, len(self.calls) + 1, self._seen[body])
        self._seen[body] += 1
        self.calls.append(call)
        reply = self.decide(call)
        if reply.is_billed:
            self.billed[body] += 1
        await asyncio.sleep(reply.delay_s)
        while reply.until is not None and not reply.until.is_set():  # noqa: ASYNC110 - of a thread
            await asyncio.sleep(LOOK_EVERY_S)
        if reply.status == 200 and not reply.is_billed:
            # From here on the provider charges, whether or not the answer gets through.
            self.billed[body] += 1
        writer.write((_head(reply) + reply.body)[: reply.cut])
        await writer.drain()
        if reply.cut is not None:
            writer.transport.abort()
            raise ConnectionResetError
        if reply.then is not None:
            reply.then()


def _head(reply: Reply) -> bytes:
    headers = {"content-type": "application/json", **reply.headers}
    lines = [
        f"HTTP/1.1 {reply.status} X",
        f"content-length: {len(reply.body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@contextmanager
def serving(decide: Callable[[Call], Reply] = answer, port: int = 0) -> Iterator[Provider]:
    """Run a provider for as long as the block lasts."""
    provider = Provider(decide, port)
    provider.start()
    try:
        yield provider
    finally:
        provider.stop()


@contextmanager
def kept_port() -> Iterator[int]:
    """Keep a port on which nobody listens, so that a provider can be started there later."""
    with socket.socket() as held:
        # The provider sets this too, and then both may have the port.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class Gate:
    """Lets the first requests through, and holds those behind them until it is opened.

    So a test acts while requests are in flight, however long it takes to act.

    Args:
        through: how many are answered at once.
        delay_s: of these.
    """

    def __init__(self, through: int, *, delay_s: float = 0.0) -> None:
        self.opened = threading.Event()
        self._through = through
        self._delay_s = delay_s

    def decide(self, call: Call) -> Reply:
        """Answer what the request asked for, at once or when the gate is opened."""
        text = f"answer to {call.prompt}"
        if call.number <= self._through:
            return answer(call, text, delay_s=self._delay_s)
        return answer(call, text, until=self.opened)
