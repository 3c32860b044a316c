"""The simulated provider: from the body of a request to its answer, and the books in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import orjson

from batchrun.simulator.answers import compose
from batchrun.simulator.caching import PromptCache
from batchrun.simulator.connection import HttpResponse
from batchrun.simulator.dialect import Reply
from batchrun.simulator.dice import Dice
from batchrun.simulator.fields import decode
from batchrun.simulator.ledger import LedgerBook
from batchrun.simulator.quota import Quota
from batchrun.simulator.refusals import Fault, RefusedError
from batchrun.simulator.streams import EventStream, break_off, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchrun.simulator.calls import Call
    from batchrun.simulator.config import SimulatorConfig
    from batchrun.simulator.dialect import Dialect

_DELIVERY = frozenset({"stream", "stream_options"})  # how an answer comes, not what it says


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a request that gets an answer.

    Attributes:
        latency_s: seconds until the answer is complete.
        breaks_off: it fails on its way, if it is streamed.
        spoiled: it violates the schema, if there is one.
    """

    latency_s: float
    breaks_off: bool
    spoiled: bool


class Provider:
    """Answers requests that were let in.

    Args:
        config: how it behaves.
        clock: seconds, from any origin, never going back; for the quota and the prompt cache.
        wall_clock: Unix time in seconds, for what answers tell of the time.
    """

    def __init__(
        self,
        config: SimulatorConfig,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._wall_clock = wall_clock
        self._cache = PromptCache(clock)
        self.quota = Quota(config.requests_per_minute, config.tokens_per_minute, clock)
        self.book = LedgerBook()

    async def answer(
        self, dialect: Dialect, body: bytes, headers: Mapping[bytes, bytes], request_id: str
    ) -> HttpResponse:
        """Return the answer, whole, or as a stream that begins now. Raises `RefusedError`."""
        fields = decode(body)
        call = dialect.parse(fields, headers)
        digest = self.book.digest(body)
        reservation = self.quota.admit(call.reserved_tokens)
        try:
            fate = self._draw_fate(digest)
            # Billed before the wait: a client that dies meanwhile has still been charged.
            reply = self._bill(dialect, call, fields, digest, spoiled=fate.spoiled)
            # What the cache served is not held against the limits.
            reservation.used = reply.input.total - reply.input.read + reply.output_tokens
            if call.wishes.stream:
                events = self._stream(dialect, reply, fate, request_id)
                return HttpResponse(200, events=events, afterwards=[reservation.hand_over()])
            if fate.latency_s:
                await anyio.sleep(fate.latency_s)
        finally:
            reservation.settle()
        return HttpResponse(200, to_json(dialect.completion(reply)))

    def _bill(
        self, dialect: Dialect, call: Call, fields: dict[str, Any], digest: bytes, *, spoiled: bool
    ) -> Reply:
        """Work out an answer and charge for it."""
        bills = self.book.bill(digest)
        seed = self._config.seed
        answer_id = Dice(seed, digest, bills).below(1 << 96)
        return Reply(
            call,
            compose(call, seed, *self._answer_key(fields, digest, bills), spoiled=spoiled),
            f"{dialect.answer_id_prefix}{answer_id:024x}",
            self._wall_clock(),
            self._cache.use(call.wishes.prefixes, call.input_tokens),
        )

    def _answer_key(
        self, fields: dict[str, Any], digest: bytes, bills: int
    ) -> tuple[bytes] | tuple[bytes, int]:
        """Return what the answer follows from: the body, but for how it is to be delivered.

        With a temperature the same body gets another answer each time, as it would elsewhere.
        """
        said = {name: value for name, value in fields.items() if name not in _DELIVERY}
        try:
            asked = self.book.digest(orjson.dumps(said, option=orjson.OPT_SORT_KEYS))
        except orjson.JSONEncodeError:  # nested too deeply to be written again
            asked = digest
        return (asked, bills) if fields.get("temperature") and bills > 1 else (asked,)

    def _draw_fate(self, digest: bytes) -> Fate:
        """Return what becomes of this try, or raise the failure that is due."""
        config = self._config
        tries = self.book.tries(digest)
        dice = Dice(config.seed, digest, tries)
        share = dice.share()
        if share >= config.error_rate + config.rate_limit_rate:
            latency_s = config.latency_ms / 1000 * (0.5 + dice.share())
            return Fate(
                latency_s,
                breaks_off=self._falls_on(config.stream_error_rate, digest, tries, "stream"),
                spoiled=self._falls_on(config.invalid_json_rate, digest, tries, "json"),
            )
        self.book.fail(digest)
        if share < config.rate_limit_rate:
            message = "Rate limit reached, as simulated. Try again shortly."
            raise RefusedError(Fault.RATE_LIMIT, message, wait_s=0.05 + 0.95 * dice.share())
        fault = dice.pick((Fault.SERVER_ERROR, Fault.OVERLOADED))
        raise RefusedError(fault, "The provider failed, as simulated. Try again.")

    def _falls_on(self, rate: float, digest: bytes, tries: int, what: str) -> bool:
        """Draw whether this try belongs to the share `rate`; each kind has dice of its own."""
        return rate > 0 and Dice(self._config.seed, digest, tries, what).share() < rate

    def _stream(self, dialect: Dialect, reply: Reply, fate: Fate, request_id: str) -> EventStream:
        """Return the reply as events, or those until it fails."""
        dice = Dice(self._config.seed, reply.answer_id, "stream")
        events = dialect.events(reply, dice)
        torn = False
        if fate.breaks_off:
            fault = dice.pick((Fault.SERVER_ERROR, Fault.OVERLOADED))
            failure = RefusedError(fault, "The provider failed midway, as simulated. Try again.")
            error_event = dialect.error_event(failure, request_id)
            events, torn = break_off(events, error_event, dice)
        return EventStream(spread(events, fate.latency_s, dice), torn)


def to_json(content: dict[str, Any]) -> bytes:
    """Return the body of a response."""
    return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)
