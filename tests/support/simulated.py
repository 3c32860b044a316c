"""The simulator in the process of the test, and requests to it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import jsonschema_rs
import pytest

from batchrun.simulator import Simulator, SimulatorConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import SocketStream

MODEL = "claude-haiku-4-5-20251001"


MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
BOTH = pytest.mark.parametrize("path", [MESSAGES, CHAT])


NOON = datetime.fromisoformat("2026-01-01T12:00:00+00:00").timestamp()


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = NOON + 0.25

    def __call__(self) -> float:
        return self.now


class Peer:
    """A simulator that is being served, and a plain HTTP client for it."""

    def __init__(self, simulator: Simulator, url: str, http: httpx.AsyncClient) -> None:
        self.simulator, self.url, self.http = simulator, url, http

    async def post(self, path: str, prompt: str = "Hello", **fields: object) -> httpx.Response:
        return await self.http.post(path, json=body(prompt, **fields))

    async def connect(self) -> SocketStream:
        return await anyio.connect_tcp("127.0.0.1", int(self.url.rpartition(":")[2]))


@asynccontextmanager
async def serving(
    config: SimulatorConfig | None = None, clock: Clock | None = None
) -> AsyncIterator[Peer]:
    clocks: dict[str, Any] = {"clock": clock, "wall_clock": clock} if clock else {}
    simulator = Simulator(config or SimulatorConfig(), **clocks)
    async with anyio.create_task_group() as tasks:
        url = await tasks.start(simulator.serve)
        # Nothing is encrypted here, and loading the certificates takes longer than most tests.
        async with httpx.AsyncClient(base_url=url, verify=False, timeout=120) as http:
            yield Peer(simulator, url, http)
        tasks.cancel_scope.cancel()


def body(prompt: str = "Hello", **fields: object) -> dict[str, Any]:
    """Return a request body that is valid in both formats; a field that is None is left out."""
    whole = {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": prompt}],
    } | fields
    return {name: value for name, value in whole.items() if value is not None}


def raw_request(content: bytes, *headers: str, path: str = MESSAGES) -> bytes:
    head = (f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(content)}", *headers, "", "")
    return "\r\n".join(head).encode() + content


def text_of(response: httpx.Response) -> str:
    """Return what either format says."""
    answer = response.json()
    assert response.status_code == 200, answer
    if "choices" in answer:
        return str(answer["choices"][0]["message"]["content"])
    return "".join(block["text"] for block in answer["content"])


TICKET = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": ["billing", "bug", "account"]},
        "urgency": {"type": "integer", "minimum": 1, "maximum": 5},
        "confidence": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "summary": {"type": "string", "minLength": 20},
        "code": {"type": "string", "pattern": r"^[A-Z]{3}-\d{4}$"},
        "due": {"type": ["string", "null"], "format": "date"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True},
        "replies": {"type": "array", "items": {"$ref": "#/$defs/reply"}, "maxItems": 2},
    },
    "required": ["label", "urgency", "confidence", "summary", "code", "due", "tags", "replies"],
    "additionalProperties": False,
    "$defs": {
        "reply": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "maxLength": 40},
                "next": {"anyOf": [{"$ref": "#/$defs/reply"}, {"type": "null"}]},
            },
            "required": ["text", "next"],
            "additionalProperties": False,
        }
    },
}


WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}


PURPOSE = "Tells the weather forecast of a town"


TOOLS: list[dict[str, Any]] = [
    {"name": "get_weather", "description": PURPOSE, "input_schema": WEATHER},
    {"name": "open_ticket", "description": "Files a complaint", "input_schema": TICKET},
]


CHAT_TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": tool["name"],
            "description": tool["description"],
            "parameters": tool["input_schema"],
        },
    }
    for tool in TOOLS
]


def check(value: object, schema: dict[str, Any]) -> None:
    jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(value)
