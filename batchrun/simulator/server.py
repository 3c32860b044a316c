"""The simulator on its socket: routes, keys, and what the provider answers or refuses."""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import asdict
from hmac import compare_digest
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute

from batchrun.simulator.chat import ChatDialect
from batchrun.simulator.config import SimulatorConfig
from batchrun.simulator.connection import HttpRequest, HttpResponse, serve_connection
from batchrun.simulator.dialect import sent_key
from batchrun.simulator.messages import MessagesDialect
from batchrun.simulator.provider import Provider, to_json
from batchrun.simulator.refusals import Fault, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyio.abc import SocketStream, TaskStatus

    from batchrun.simulator.dialect import Dialect
    from batchrun.simulator.ledger import Ledger

LOOPBACK = "127.0.0.1"

_MESSAGES = MessagesDialect()
_CHAT = ChatDialect()
_ROUTES: dict[str, Dialect] = {"/messages": _MESSAGES, "/chat/completions": _CHAT}
_LEDGER_PATH = "/ledger"

# Out of descriptors or memory, or the client left first: all pass, and none concerns the others.
_PASSING_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}
_ACCEPT_PAUSE_S = 0.05

log = logging.getLogger(__name__)


_DEFAULTS = SimulatorConfig()


class Simulator:
    """A provider on loopback.

    What happens to a request follows from the seed, its body and how often that body was tried;
    only the quota and the prompt cache depend on time and order. A body is always given the same
    text, streamed or whole.

    Args:
        config: how it behaves.
        clock: seconds, for the quota.
        wall_clock: Unix time in seconds, for what answers tell of the time.
    """

    def __init__(
        self,
        config: SimulatorConfig = _DEFAULTS,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._api_key = config.api_key
        self._tells_limits = config.limit_headers
        self._wall_clock = wall_clock
        self._provider = Provider(config, clock, wall_clock)

    @property
    def ledger(self) -> Ledger:
        """What was asked and billed until now."""
        return self._provider.book.snapshot()

    async def serve(
        self, port: int = 0, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled.

        Args:
            port: on 127.0.0.1; 0 takes a free one.
            task_status: is told the base URL as soon as connections are accepted.
        """
        listeners = await anyio.create_tcp_listener(local_host=LOOPBACK, local_port=port)
        (listener,) = listeners.listeners
        async with listener, anyio.create_task_group() as connections:
            bound = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django
            task_status.started(f"http://{LOOPBACK}:{bound}")
            while True:
                try:
                    await listener.serve(self._serve_connection, connections)
                except OSError as error:
                    if error.errno not in _PASSING_ERRORS:
                        raise
                    log.warning("Cannot accept connections (%s): trying again", error)
                    await anyio.sleep(_ACCEPT_PAUSE_S)

    async def _serve_connection(self, stream: SocketStream) -> None:
        await serve_connection(stream, self._respond)

    async def _respond(self, request: HttpRequest) -> HttpResponse:
        """Return the response; a streamed one is in hand until it was sent."""
        if request.path == _LEDGER_PATH and request.method == "GET":
            return HttpResponse(200, to_json(asdict(self.ledger)))
        book = self._provider.book
        request_id = f"req_sim_{book.begin():016x}"
        streams = False
        try:
            response = await self._respond_as(_dialect(request), request, request_id)
            streams = response.events is not None
        finally:
            if not streams:
                book.end()
        book.answered(response.status)
        if streams:
            response.afterwards.append(book.end)
        return response

    async def _respond_as(
        self, dialect: Dialect, request: HttpRequest, request_id: str
    ) -> HttpResponse:
        headers = [(dialect.request_id_header, request_id)]
        try:
            body = self._admit(request)
            response = await self._provider.answer(dialect, body, request.headers, request_id)
        except RefusedError as refused:
            response = _refusal(dialect, refused, request_id)
            headers += _headers_of(refused, dialect)
        except Exception:
            log.exception("A bug in the simulator: %s gets an error 500", request_id)
            bug = RefusedError(Fault.SERVER_ERROR, "The simulator has a bug; its log says more.")
            response = _refusal(dialect, bug, request_id)
        if self._tells_limits:
            headers += dialect.limit_headers(self._provider.quota.standings(), self._wall_clock())
        response.headers.extend(headers)
        return response

    def _admit(self, request: HttpRequest) -> bytes:
        """Return the body of a request for an answer by a client with the right key."""
        if _route(request.path) is None:
            raise RefusedError(Fault.NOT_FOUND, f"Unknown path: {request.path}")
        if request.method != "POST":
            raise RefusedError(Fault.METHOD, f"{request.method} is not allowed here; use POST.")
        key = self._api_key
        if key is not None and not compare_digest(sent_key(request.headers) or b"", key.encode()):
            raise RefusedError(Fault.CREDENTIALS, "The API key is missing or not the right one.")
        if request.body is None:
            raise RefusedError(Fault.TOO_LARGE, "The request body is larger than 32 MiB.")
        return request.body


def _refusal(dialect: Dialect, refused: RefusedError, request_id: str) -> HttpResponse:
    status, content = dialect.error(refused, request_id)
    return HttpResponse(status, to_json(content))


def _route(path: str) -> Dialect | None:
    return _ROUTES.get(path.removeprefix("/v1"))


def _dialect(request: HttpRequest) -> Dialect:
    """Return the dialect of the path; of an unknown path that of the headers."""
    is_messages = b"anthropic-version" in request.headers or b"x-api-key" in request.headers
    return _route(request.path) or (_MESSAGES if is_messages else _CHAT)


def _headers_of(refused: RefusedError, dialect: Dialect) -> Iterator[tuple[str, str]]:
    if refused.wait_s is not None:
        yield from dialect.retry_headers(refused.wait_s)
    if refused.fault is Fault.METHOD:
        yield "allow", "POST"
