"""What a wire format must know; `messages` and `chat` each know it their way."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.simulator.answers import Answer
    from batchrun.simulator.calls import Call
    from batchrun.simulator.quota import Standing
    from batchrun.simulator.refusals import RefusedError

Headers = list[tuple[str, str]]


class Dialect(ABC):
    """One wire format: how its requests are read and its answers and errors are written."""

    request_id_header: str
    answer_id_prefix: str

    @abstractmethod
    def api_key(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the key that was sent."""

    @abstractmethod
    def parse(self, fields: dict[str, Any]) -> Call:
        """Check a request's body. Raises `RefusedError`."""

    @abstractmethod
    def completion(
        self, call: Call, answers: tuple[Answer, ...], answer_id: str, now: float
    ) -> dict[str, Any]:
        """Return the body of a successful answer. `now` is Unix time in seconds."""

    @abstractmethod
    def error(self, refused: RefusedError, request_id: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of an error."""

    @abstractmethod
    def limit_headers(self, standings: Mapping[str, Standing], now: float) -> Headers:
        """Return the limits, of "requests" and "tokens", as headers. `now` as in `completion`."""

    def retry_headers(self, wait_s: float) -> Headers:
        """Return when to try again: whole seconds, rounded up so that it then works."""
        return [("retry-after", str(math.ceil(wait_s)))]


def bearer_token(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the token of an `Authorization: Bearer` header."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None
