"""The simulator: from a request to its answer, and the books in between."""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import asdict, dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

import anyio
import orjson
from anyio.abc import SocketAttribute

from batchrun.simulator import calls
from batchrun.simulator.answers import compose
from batchrun.simulator.chat import ChatDialect
from batchrun.simulator.connection import HttpRequest, HttpResponse, serve_connection
from batchrun.simulator.dice import Dice
from batchrun.simulator.ledger import Ledger, LedgerBook
from batchrun.simulator.messages import MessagesDialect
from batchrun.simulator.quota import Quota
from batchrun.simulator.refusals import Fault, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyio.abc import SocketStream, TaskStatus

    from batchrun.simulator.dialect import Dialect

LOOPBACK = "127.0.0.1"

_MESSAGES = MessagesDialect()
_CHAT = ChatDialect()
_ROUTES: dict[str, Dialect] = {"/messages": _MESSAGES, "/chat/completions": _CHAT}
_LEDGER_PATH = "/ledger"

# Out of descriptors or memory, or the client left first: all pass, and none concerns the others.
_PASSING_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}
_ACCEPT_PAUSE_S = 0.05

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """How the simulated provider behaves.

    Attributes:
        requests_per_minute: limit; None for unlimited.
        tokens_per_minute: limit on input and `max_tokens` at admission, corrected afterwards by
            what was used; None for unlimited.
        latency_ms: mean time to an answer; each takes 0.5 to 1.5 times that.
        error_rate: share of requests that fail with 500, 529 (messages) or 503 (chat), unbilled.
        rate_limit_rate: share of requests that get a 429 with a short `retry-after`, unbilled.
        seed: another seed gives other answers, latencies and errors.
        api_key: the only key that is accepted; None accepts any, and none.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    latency_ms: float = 0.0
    error_rate: float = 0.0
    rate_limit_rate: float = 0.0
    seed: int = 0
    api_key: str | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}")
        if self.latency_ms < 0:
            raise ValueError(f"latency_ms must not be negative, got {self.latency_ms}")
        if min(self.error_rate, self.rate_limit_rate) < 0:
            raise ValueError("error_rate and rate_limit_rate must not be negative")
        if self.error_rate + self.rate_limit_rate > 1:
            raise ValueError("error_rate and rate_limit_rate together must not exceed 1")


_DEFAULTS = SimulatorConfig()


class Simulator:
    """A provider on loopback.

    What happens to a request follows from the seed, its body and how often that body was tried;
    only the quota depends on time. A body is always given the same text.

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
        self._config = config
        self._wall_clock = wall_clock
        self._quota = Quota(config.requests_per_minute, config.tokens_per_minute, clock)
        self._book = LedgerBook()

    @property
    def ledger(self) -> Ledger:
        """What was asked and billed until now."""
        return self._book.snapshot()

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
        if request.path == _LEDGER_PATH and request.method == "GET":
            return HttpResponse(200, _json(asdict(self.ledger)))
        with self._book.request() as number:
            response = await self._respond_as(_dialect(request), request, f"req_sim_{number:016x}")
        self._book.answered(response.status)
        return response

    async def _respond_as(
        self, dialect: Dialect, request: HttpRequest, request_id: str
    ) -> HttpResponse:
        headers = [(dialect.request_id_header, request_id)]
        try:
            status, content = 200, await self._complete(dialect, request)
        except RefusedError as refused:
            status, content = dialect.error(refused, request_id)
            headers += _headers_of(refused, dialect)
        except Exception:
            log.exception("A bug in the simulator: %s gets an error 500", request_id)
            bug = RefusedError(Fault.SERVER_ERROR, "The simulator has a bug; its log says more.")
            status, content = dialect.error(bug, request_id)
        headers += dialect.limit_headers(self._quota.standings(), self._wall_clock())
        return HttpResponse(status, _json(content), headers)

    async def _complete(self, dialect: Dialect, request: HttpRequest) -> dict[str, Any]:
        """Return the body of the answer to a request that earns one."""
        body = self._admit(dialect, request)
        call = dialect.parse(calls.decode(body))
        digest = self._book.digest(body)
        self._quota.admit(call.reserved_tokens)
        used = 0
        try:
            latency_s = self._draw_fate(digest)
            # Billed before the wait: a client that dies meanwhile has still been charged.
            bills = self._book.bill(digest)
            answers = compose(call, self._config.seed, digest)
            used = call.input_tokens + sum(answer.tokens for answer in answers)
            if latency_s:
                await anyio.sleep(latency_s)
        finally:
            self._quota.correct(call.reserved_tokens, used)
        answer_id = Dice(self._config.seed, digest, bills).below(1 << 96)
        now = self._wall_clock()
        return dialect.completion(call, answers, f"{dialect.answer_id_prefix}{answer_id:024x}", now)

    def _admit(self, dialect: Dialect, request: HttpRequest) -> bytes:
        """Return the body of a request for an answer by a client with the right key."""
        if _route(request.path) is None:
            raise RefusedError(Fault.NOT_FOUND, f"Unknown path: {request.path}")
        if request.method != "POST":
            raise RefusedError(Fault.METHOD, f"{request.method} is not allowed here; use POST.")
        key = self._config.api_key
        if key is not None and not compare_digest(
            dialect.api_key(request.headers) or b"", key.encode()
        ):
            raise RefusedError(Fault.CREDENTIALS, "The API key is missing or not the right one.")
        if request.body is None:
            raise RefusedError(Fault.TOO_LARGE, "The request body is larger than 32 MiB.")
        return request.body

    def _draw_fate(self, digest: bytes) -> float:
        """Return the seconds that the answer takes, or raise the failure that is due."""
        config = self._config
        dice = Dice(config.seed, digest, self._book.tries(digest))
        share = dice.share()
        if share >= config.error_rate + config.rate_limit_rate:
            return config.latency_ms / 1000 * (0.5 + dice.share())
        self._book.fail(digest)
        if share < config.rate_limit_rate:
            message = "Rate limit reached, as simulated. Try again shortly."
            raise RefusedError(Fault.RATE_LIMIT, message, wait_s=0.05 + 0.95 * dice.share())
        fault = dice.pick((Fault.SERVER_ERROR, Fault.OVERLOADED))
        raise RefusedError(fault, "The provider failed, as simulated. Try again.")


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


def _json(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)
