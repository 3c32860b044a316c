"""The simulator's HTTP: routes, connections, clients that behave badly."""

from __future__ import annotations

import json
import re
import socket
import struct
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from batchrun.simulator import SimulatorConfig, http_server
from batchrun.simulator.http_server import Router
from tests.support.simulated import (
    CHAT,
    MESSAGES,
    body,
    raw_request,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


async def read_responses(stream: SocketStream, count: int) -> list[tuple[int, dict[str, Any]]]:
    """Read `count` responses, as status and JSON body."""
    received = b""
    responses: list[tuple[int, dict[str, Any]]] = []
    while len(responses) < count:
        head, separator, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if separator and length and len(rest) >= int(length[1]):
            size = int(length[1])
            responses.append((int(head[9:12]), json.loads(rest[:size])))
            received = rest[size:]
        else:
            received += await stream.receive()
    return responses


def test_routes_are_found_by_path_and_by_pattern() -> None:
    router = Router({"/batches": "all", "/batches/new": "new", "/batches/{id}/results": "results"})
    found = {
        "/batches": "all",
        "/batches/new": "new",
        "/batches/b_1/results": "results",
        "/batches//results": None,
        "/batches/b_1/x/results": None,
        "/batches/b_1": None,
        "/": None,
    }
    assert {path: router.find(path) for path in found} == found


async def test_unknown_paths_and_methods_are_refused() -> None:
    async with serving() as peer:
        for path in (MESSAGES, "/messages", "/v1/messages?beta=true", "/chat/completions"):
            assert (await peer.post(path)).status_code == 200
        unknown = await peer.http.post("/v1/other", json={}, headers={"x-api-key": "k"})
        unknown_chat = await peer.http.post("/v1/other", json={})
        wrong = await peer.http.get(MESSAGES)
        head = await peer.http.head(CHAT)
        assert (await peer.post(MESSAGES)).status_code == 200
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    assert (unknown_chat.status_code, unknown_chat.json()["error"]["code"]) == (404, "unknown_url")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (head.status_code, head.content) == (405, b"")


async def test_broken_clients_disturb_nobody() -> None:
    nonsense = (
        b"\x16\x03\x01 TLS?",
        b"HELLO\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\ncontent-length: 9\r\ncontent-length: 8\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    )
    async with serving() as peer:
        for garbage in nonsense:
            async with await peer.connect() as stream:
                await stream.send(garbage)
                ((status, answer),) = await read_responses(stream, 1)
                assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
        for piece in (b"", b"POST /v1", raw_request(json.dumps(body()).encode())[:-5]):
            async with await peer.connect() as stream:
                if piece:
                    await stream.send(piece)
        assert (await peer.post(MESSAGES)).status_code == 200
    assert peer.simulator.usage.statuses == {200: 1}


async def test_a_client_that_leaves_is_billed_all_the_same() -> None:
    async with serving(SimulatorConfig(latency_ms=50)) as peer:
        async with await peer.connect() as stream:
            raw_socket = stream.extra(SocketAttribute.raw_socket)
            reset_on_close = struct.pack("ii", 1, 0)
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close)
            await stream.send(raw_request(json.dumps(body("Gone")).encode()))
            while (await peer.http.get("/usage")).json()["billed"] == 0:
                pass
        assert (await peer.post(MESSAGES, "Still here")).status_code == 200
    assert peer.simulator.usage.billed == 2


async def test_large_requests_are_refused_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "MAX_BODY_BYTES", 1000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    async with serving() as peer:
        announced = await peer.http.post(MESSAGES, content=b" " * 10_000_000)
        chunked = await peer.http.post(CHAT, content=chunks())
        headers = await peer.http.post(MESSAGES, json=body(), headers={"x": "y" * 200_000})
        async with await peer.connect() as stream:
            await stream.send(raw_request(b" " * 1001)[:-1001])
            with anyio.fail_after(60):
                ((unsent, _),) = await read_responses(stream, 1)
        assert (await peer.post(MESSAGES)).status_code == 200
    assert unsent == 413
    assert (announced.status_code, announced.json()["error"]["type"]) == (413, "request_too_large")
    assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "request_too_large")
    assert headers.status_code == 431


async def test_one_connection_serves_many_requests_even_sent_at_once() -> None:
    content = [json.dumps(body(f"Prompt {number}")).encode() for number in range(3)]
    async with serving() as peer, await peer.connect() as stream:
        await stream.send(b"".join(map(raw_request, content)))
        together = await read_responses(stream, 3)
        apart = []
        for one in content:
            await stream.send(raw_request(one))
            apart += await read_responses(stream, 1)
    assert [status for status, _ in together] == [200] * 3
    assert [answer["content"] for _, answer in apart] == [
        answer["content"] for _, answer in together
    ]


async def test_a_client_can_ask_to_close_or_to_continue() -> None:
    content = json.dumps(body()).encode()
    head = raw_request(content, "expect: 100-continue", "connection: close")[: -len(content)]
    async with serving() as peer, await peer.connect() as stream:
        await stream.send(head)
        assert await stream.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send(content)
        ((status, _),) = await read_responses(stream, 1)
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
    assert status == 200


async def test_many_connections_at_once() -> None:
    many = 300
    statuses: list[int] = []
    async with serving(SimulatorConfig(latency_ms=500)) as peer:

        async def ask(number: int) -> None:
            async with await peer.connect() as stream:
                await stream.send(raw_request(json.dumps(body(f"Prompt {number}")).encode()))
                statuses.extend(status for status, _ in await read_responses(stream, 1))

        async with anyio.create_task_group() as tasks:
            for number in range(many):
                tasks.start_soon(ask, number)
    assert statuses == [200] * many
    assert peer.simulator.usage.max_in_flight > many / 10


async def test_nobody_answers_after_the_end() -> None:
    async with serving() as peer:
        pass
    with pytest.raises(OSError, match="."):
        await peer.connect()
