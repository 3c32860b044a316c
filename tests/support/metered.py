"""A provider that enforces limits, on the clock of the event loop, and a batch sent to it.

Its buckets are those of the simulator, and its headers pass through the readers of both formats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import anyio

from batchrun.client import Exchange
from batchrun.dispatch import Accounts, LiveDispatcher, Rules
from batchrun.errors import ProviderError, ProviderFault
from batchrun.formats import limit_state
from batchrun.job import LimitsConfig, RetryConfig
from batchrun.limits import ErrorBudget, Limits, Waits
from batchrun.pricing import PriceBook
from batchrun.records import (
    Attempt,
    AttemptStart,
    Completion,
    Parameters,
    PlannedRequest,
    Request,
    Result,
    Turn,
    Usage,
    WireRequest,
)
from batchrun.simulator.accounting import RateLimits
from batchrun.simulator.calls import RefusedError
from batchrun.simulator.chat_api import SimulatedChat
from batchrun.simulator.messages_api import SimulatedMessages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anyio.abc import ObjectSendStream

    from batchrun.records import FormatName, LimitState

MODEL = "claude-haiku-4-5-20251001"


@dataclass(frozen=True)
class Row:
    """One request: how long its prompt is, what may come back, and what does."""

    prompt_tokens: int = 100
    max_tokens: int = 100
    answer_tokens: int = 60
    model: str = MODEL


@dataclass
class Metered:
    """Answers after a latency, refuses what exceeds its quota at once, and keeps the books."""

    rpm: int | None = None
    tpm: int | None = None
    wire_format: FormatName = "messages"
    headers: bool = True
    latency_s: Callable[[int], float] = lambda _number: 1.0
    rows: Mapping[int, Row] = field(default_factory=dict)
    accepted: list[tuple[float, int]] = field(default_factory=list)
    answered: list[tuple[float, int]] = field(default_factory=list)
    refused: list[tuple[float, int]] = field(default_factory=list)
    used_tokens: list[tuple[float, int]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self.quota = RateLimits(self.rpm, self.tpm, anyio.current_time)
        self.wire = SimulatedMessages() if self.wire_format == "messages" else SimulatedChat()

    async def send(self, wire: WireRequest) -> Exchange:
        key = int(wire.body.split(b"|")[0])
        row = self.rows[key]
        await anyio.sleep(0.01)  # on the way there
        now = anyio.current_time()
        try:
            self.quota.admit(row.prompt_tokens + row.max_tokens)
        except RefusedError as refused:
            self.refused.append((now, key))
            raise ProviderError(
                ProviderFault(
                    "rate_limit_error",
                    refused.message,
                    429,
                    retry_after_s=math.ceil(refused.wait_s or 0.0),
                    limits=self.limits(),
                )
            ) from None
        self.accepted.append((now, key))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await anyio.sleep(self.latency_s(len(self.accepted)))
        self.at_once -= 1
        used = row.prompt_tokens + row.answer_tokens
        self.quota.settle(row.prompt_tokens + row.max_tokens, used)
        self.answered.append((anyio.current_time(), key))
        self.used_tokens.append((anyio.current_time(), used))
        usage = Usage(input_tokens=row.prompt_tokens, output_tokens=row.answer_tokens)
        completion = Completion(("yes",), "end_turn", row.model, "id", usage)
        return Exchange(completion, 200, None, {}, self.limits())

    def limits(self) -> LimitState | None:
        if not self.headers:
            return None
        now = 1_700_000_000 + anyio.current_time()
        return limit_state(dict(self.wire.limit_headers(self.quota.standings(), now)), now)

    @property
    def refused_share(self) -> float:
        return len(self.refused) / max(1, len(self.refused) + len(self.accepted))

    def refused_share_since(self, since: float) -> float:
        """The share that was refused after some time."""
        refused = sum(at >= since for at, _ in self.refused)
        return refused / max(1, refused + sum(at >= since for at, _ in self.accepted))

    def per_minute(self, since: float, until: float) -> float:
        """How many requests a minute were accepted in a stretch of time."""
        return sum(since <= at < until for at, _ in self.accepted) * 60 / (until - since)

    def tokens_per_minute(self, since: float, until: float) -> float:
        used = sum(tokens for at, tokens in self.used_tokens if since <= at < until)
        return used * 60 / (until - since)


class Memory:
    """A journal in memory."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.starts: list[AttemptStart] = []
        self.attempts: list[Attempt] = []

    async def begin(self, start: AttemptStart) -> None:
        self.starts.append(start)

    async def fail(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    async def finish(self, result: Result) -> None:
        self.attempts.append(result.last)
        self.results.append(result)

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        raise NotImplementedError

    async def keep(self, *events: Any) -> None:
        raise NotImplementedError


def planned(key: int, row: Row, wire_format: FormatName) -> PlannedRequest:
    parameters = Parameters(max_tokens=row.max_tokens)
    request = Request(wire_format, "http://x", row.model, (), parameters=parameters)
    # English text has about four bytes to a token.
    body = f"{key}|".encode().ljust(row.prompt_tokens * 4, b".")
    return PlannedRequest(key, str(key), request, WireRequest("http://x/v1", (), body))


async def dispatch(
    provider: Metered,
    row: Callable[[int], Row],
    *,
    count: int = 10**9,
    seconds: float,
    concurrency: int | None = None,
    limits: LimitsConfig | None = None,
    **parts: Any,
) -> tuple[LiveDispatcher, Memory]:
    """Send rows for a number of seconds of the clock of the loop, or until all have an answer."""
    journal, waits = Memory(), Waits(anyio.current_time)
    dispatcher = LiveDispatcher(
        provider,
        journal,
        Limits(limits or LimitsConfig(concurrency), waits, jitter=lambda: 0.5, **parts),
        accounts=Accounts(waits, ErrorBudget(10**9), PriceBook("anthropic")),
        rules=Rules(RetryConfig(max_wait_s=3_600), jitter=lambda: 0.5),
    )
    rows: dict[int, Row] = {}
    provider.rows = rows

    async def feed(send: ObjectSendStream[Sequence[PlannedRequest]]) -> None:
        async with send:
            for key in range(1, count + 1):
                rows[key] = row(key)
                try:
                    await send.send([planned(key, rows[key], provider.wire_format)])
                except anyio.BrokenResourceError:
                    return

    with anyio.move_on_after(seconds):
        send, receive = anyio.create_memory_object_stream["Sequence[PlannedRequest]"]()
        async with receive, anyio.create_task_group() as group:
            group.start_soon(feed, send)
            await dispatcher.run(receive)
    return dispatcher, journal


__all__ = ["MODEL", "Metered", "Row", "dispatch", "planned", "replace"]
