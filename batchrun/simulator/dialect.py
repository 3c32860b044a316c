"""What a wire format must know; `messages` and `chat` each know it their way."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.simulator.answers import Answer
    from batchrun.simulator.caching import InputUse
    from batchrun.simulator.calls import Call
    from batchrun.simulator.dice import Dice
    from batchrun.simulator.quota import Standing
    from batchrun.simulator.refusals import RefusedError

Headers = list[tuple[str, str]]
NO_HEADERS: Mapping[bytes, bytes] = {}


@dataclass(frozen=True, slots=True)
class Reply:
    """All that is told in answer to a call.

    Attributes:
        call: what was asked.
        answers: the choices.
        answer_id: names this answer among all.
        now: Unix time in seconds.
        input: what the prompt cost.
    """

    call: Call
    answers: tuple[Answer, ...]
    answer_id: str
    now: float
    input: InputUse

    @property
    def output_tokens(self) -> int:
        """What all choices cost, thoughts included."""
        return sum(answer.tokens for answer in self.answers)

    @property
    def thinking_tokens(self) -> int:
        """What the thoughts of all choices cost."""
        return sum(answer.thinking_tokens for answer in self.answers)


class Dialect(ABC):
    """One wire format: how its requests are read and its answers and errors are written."""

    request_id_header: str
    answer_id_prefix: str

    @abstractmethod
    def parse(self, fields: dict[str, Any], headers: Mapping[bytes, bytes] = NO_HEADERS) -> Call:
        """Check a request's body. Raises `RefusedError`."""

    @abstractmethod
    def completion(self, reply: Reply) -> dict[str, Any]:
        """Return the body of a successful answer."""

    @abstractmethod
    def events(self, reply: Reply, dice: Dice) -> list[bytes]:
        """Return the same answer as server-sent events, the last of which marks the end."""

    @abstractmethod
    def error(self, refused: RefusedError, request_id: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of an error."""

    @abstractmethod
    def error_event(self, refused: RefusedError, request_id: str) -> bytes:
        """Return an error as the event that ends a stream too early."""

    @abstractmethod
    def limit_headers(self, standings: Mapping[str, Standing], now: float) -> Headers:
        """Return the limits, of "requests" and "tokens", as headers. `now` is Unix time."""

    def retry_headers(self, wait_s: float) -> Headers:
        """Return when to try again: whole seconds, rounded up so that it then works."""
        return [("retry-after", str(math.ceil(wait_s)))]


def sent_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the API key that was sent, as `x-api-key` or as a bearer token: gateways take both."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    bearer = token.strip() if scheme.lower() == b"bearer" else None
    return headers.get(b"x-api-key") or bearer
