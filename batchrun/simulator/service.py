"""The simulator as an HTTP service: routes, keys, and sending of answers and refusals."""

from __future__ import annotations

import itertools
import logging
import math
import signal
import time
from dataclasses import asdict, dataclass
from functools import partial
from hmac import compare_digest
from typing import TYPE_CHECKING

import anyio
import orjson

from batchrun.errors import JobError
from batchrun.simulator.batch_processing import BatchProcessor
from batchrun.simulator.calls import Fault, RefusedError
from batchrun.simulator.chat_api import SimulatedChat
from batchrun.simulator.chat_batch_api import SimulatedChatBatches
from batchrun.simulator.draws import RandomDraws
from batchrun.simulator.http_server import (
    MAX_BODY_BYTES,
    MAX_UPLOAD_BYTES,
    HttpReply,
    Router,
    TimedPart,
    serve_http,
)
from batchrun.simulator.message_batch_api import SimulatedMessageBatches
from batchrun.simulator.messages_api import SimulatedMessages
from batchrun.simulator.provider import SimulatedProvider
from batchrun.simulator.settings import SimulatorConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from anyio.abc import TaskStatus

    from batchrun.simulator.accounting import Clock, UsageRecord
    from batchrun.simulator.calls import Headers, SimulatedFormat
    from batchrun.simulator.http_server import HttpCall, RouteHandler


_MOST_PARTS = 12  # of one stream; each costs a turn of the event loop
_PART_BYTES = 200
_FIRST_SHARE = 0.4  # of the latency passes before the first event
_LEAST_EVENTS = 4  # before a stream breaks off
_DEFAULTS = SimulatorConfig()
_UPLOADS = frozenset(
    prefix + path for prefix in ("", "/v1") for path in ("/messages/batches", "/files")
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """The handlers of one path, by method, and the format of its errors."""

    wire: SimulatedFormat
    methods: Mapping[str, RouteHandler]


class Simulator:
    """A provider on loopback.

    What happens to a request follows from the seed, its body and how often that body was tried;
    only the rate limits and the prompt cache depend on time and order. A body always gets the same
    text, streamed or whole.

    Args:
        config: how it behaves.
        clock: seconds, for rate limits and prompt cache.
        wall_clock: Unix time in seconds, for times in answers.
    """

    def __init__(
        self,
        config: SimulatorConfig = _DEFAULTS,
        *,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        self._provider = SimulatedProvider(config, clock, wall_clock)
        self._messages, self._chat = SimulatedMessages(), SimulatedChat()
        self._processor = BatchProcessor(self._provider)
        routes = {
            path: Route(wire, {"POST": partial(self._complete, wire)})
            for path, wire in (("/messages", self._messages), ("/chat/completions", self._chat))
        }
        self._batches = (
            SimulatedMessageBatches(self._processor, self._messages),
            SimulatedChatBatches(self._processor, self._chat),
        )
        for batches in self._batches:
            for path, methods in batches.routes.items():
                routes[path] = Route(batches.wire, methods)
        self._router = Router(routes)

    @property
    def usage(self) -> UsageRecord:
        """What was asked and billed until now."""
        return self._provider.counter.snapshot()

    async def serve(
        self, port: int = 0, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled.

        Args:
            port: on 127.0.0.1; 0 takes a free one.
            task_status: receives the base URL as soon as connections are accepted.
        """
        try:
            await serve_http(self._respond, port, task_status, uploads=_UPLOADS)
        finally:
            self._processor.close()

    async def _respond(self, request: HttpCall, until_sent: ExitStack) -> HttpReply:
        if (request.method, request.path) == ("GET", "/usage"):
            for batches in self._batches:
                await self._processor.settle(batches)
            return HttpReply(200, orjson.dumps(asdict(self.usage), option=orjson.OPT_NON_STR_KEYS))
        route = self._router.find(request.path.removeprefix("/v1"))
        wire = route.wire if route else self._guess_format(request)
        counter = self._provider.counter
        request_id = f"req_sim_{counter.begin():016x}"
        until_sent.callback(counter.end)
        try:
            reply = await self._handler(route, request)(request, request_id, until_sent)
        except RefusedError as refused:
            reply = _refusal(wire, refused, request_id)
        except Exception:
            log.exception("A bug in the simulator: %s gets an error 500", request_id)
            message = "The simulator has a bug; its log says more."
            reply = _refusal(wire, RefusedError(Fault.SERVER_ERROR, message), request_id)
        reply.headers.append((wire.request_id_header, request_id))
        if self._provider.config.limit_headers:
            standings = self._provider.limits.standings()
            reply.headers.extend(wire.limit_headers(standings, self._provider.wall_clock()))
        counter.statuses[reply.status] += 1
        return reply

    def _handler(self, route: Route | None, request: HttpCall) -> RouteHandler:
        """Return what answers a request with the right key."""
        if route is None:
            raise RefusedError(Fault.NOT_FOUND, f"Unknown path: {request.path}")
        if request.method not in route.methods:
            allowed = ", ".join(route.methods)
            message = f"{request.method} is not allowed here; use {allowed}."
            raise RefusedError(Fault.METHOD, message, scope=allowed)
        key = self._provider.config.api_key
        if key is not None and not compare_digest(_sent_key(request), key.encode()):
            raise RefusedError(Fault.CREDENTIALS, "The API key is missing or not the right one.")
        if request.body is None:
            most = MAX_UPLOAD_BYTES if request.path in _UPLOADS else MAX_BODY_BYTES
            message = f"The request body is larger than {most // 2**20} MiB."
            raise RefusedError(Fault.TOO_LARGE, message)
        return route.methods[request.method]

    def _guess_format(self, request: HttpCall) -> SimulatedFormat:
        """Return the format whose clients send such headers, for errors at unknown paths."""
        is_messages = b"anthropic-version" in request.headers or b"x-api-key" in request.headers
        return self._messages if is_messages else self._chat

    async def _complete(
        self, wire: SimulatedFormat, request: HttpCall, request_id: str, until_sent: ExitStack
    ) -> HttpReply:
        """Answer one request, whole or as a stream that begins now."""
        # Billed before the wait: a client that leaves meanwhile has still been charged.
        answer, outcome = self._provider.answer(wire, request.body or b"", request.headers)
        settle = partial(
            self._provider.limits.settle, answer.call.reserved_tokens, answer.charged_tokens
        )
        if not answer.call.stream:
            if outcome.latency_s:
                await anyio.sleep(outcome.latency_s)
            settle()
            return HttpReply(200, orjson.dumps(wire.completion(answer)))
        until_sent.callback(settle)
        draws = RandomDraws(self._provider.config.seed, answer.number, "stream")
        events, torn = wire.events(answer, draws), False
        if outcome.broken:
            error = wire.event(wire.error(outcome.broken, request_id)[1])
            events, torn = break_off(events, error, draws)
        return HttpReply(200, spread(events, outcome.latency_s, draws), torn=torn)


def break_off(events: list[bytes], error: bytes, draws: RandomDraws) -> tuple[list[bytes], bool]:
    """Return the events of a stream that fails on its way, and whether the connection is torn.

    One half fails by an error event. The other just ends: of these, one half closes the connection
    inside the body, and one half ends the body as if it were complete, without the end marker.
    """
    least = min(_LEAST_EVENTS, len(events) - 1)
    begun = events[: least + draws.below(len(events) - least)]
    if draws.below(2):
        return [*begun, error], False
    return begun, draws.below(2) == 1


def spread(events: list[bytes], latency_s: float, draws: RandomDraws) -> tuple[TimedPart, ...]:
    """Spread events over the latency, in parts that end anywhere: inside a word or a character."""
    data = b"".join(events)
    count = min(_MOST_PARTS - 1, len(data) // _PART_BYTES)
    cuts = [0, *sorted(draws.below(len(data)) for _ in range(count)), len(data)]
    waits = [latency_s * _FIRST_SHARE] + [latency_s * (1 - _FIRST_SHARE) / max(1, count)] * count
    parts = (data[start:end] for start, end in itertools.pairwise(cuts))
    return tuple(TimedPart(wait_s, part) for wait_s, part in zip(waits, parts, strict=True) if part)


def _refusal(wire: SimulatedFormat, refused: RefusedError, request_id: str) -> HttpReply:
    status, body = wire.error(refused, request_id)
    headers: Headers = []
    if refused.wait_s is not None:
        # Rounded up, so that the request then works.
        headers.append(("retry-after", str(math.ceil(refused.wait_s))))
        if wire.retries_in_ms:
            headers.append(("retry-after-ms", str(math.ceil(refused.wait_s * 1000))))
    if refused.fault is Fault.METHOD:
        headers.append(("allow", refused.scope))
    return HttpReply(status, orjson.dumps(body), headers)


def _sent_key(request: HttpCall) -> bytes:
    """Return the API key, sent as `x-api-key` or as a bearer token: gateways take both."""
    scheme, _, token = request.headers.get(b"authorization", b"").partition(b" ")
    bearer = token.strip() if scheme.lower() == b"bearer" else b""
    return request.headers.get(b"x-api-key") or bearer


def serve_simulator(
    config: SimulatorConfig, port: int = 0, *, announce: Callable[[str], object] = print
) -> None:
    """Serve on loopback until SIGINT or SIGTERM.

    Args:
        config: how the simulated provider behaves.
        port: 0 takes a free one.
        announce: is called with the base URL once the server listens; this function returns at the end.

    Raises:
        JobError: when the port cannot be used.
    """
    try:
        anyio.run(_serve, config, port, announce)
    except OSError as error:
        raise JobError(f"port {port} cannot be used: {error.strerror or error}") from None


async def _serve(config: SimulatorConfig, port: int, announce: Callable[[str], object]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as server:
            announce(
                await server.start(
                    lambda *, task_status: Simulator(config).serve(port, task_status=task_status)
                )
            )
            async for _ in signals:
                server.cancel_scope.cancel()
                return
