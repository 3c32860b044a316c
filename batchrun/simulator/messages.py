"""The Claude Messages dialect: its errors and limits; requests and answers have their own modules."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from batchrun.simulator import messages_answer
from batchrun.simulator.dialect import NO_HEADERS, Dialect, Headers, Reply
from batchrun.simulator.messages_request import parse_messages
from batchrun.simulator.refusals import Fault, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.simulator.calls import Call
    from batchrun.simulator.dice import Dice
    from batchrun.simulator.quota import Standing

_ERRORS = {
    Fault.MISSING: (400, "invalid_request_error"),
    Fault.INVALID: (400, "invalid_request_error"),
    Fault.NOT_IMPLEMENTED: (400, "invalid_request_error"),
    Fault.CREDENTIALS: (401, "authentication_error"),
    Fault.NOT_FOUND: (404, "not_found_error"),
    Fault.METHOD: (405, "invalid_request_error"),
    Fault.TOO_LARGE: (413, "request_too_large"),
    Fault.RATE_LIMIT: (429, "rate_limit_error"),
    Fault.SERVER_ERROR: (500, "api_error"),
    Fault.OVERLOADED: (529, "overloaded_error"),
}
# One bucket stands behind all three: the simulator does not limit input and output apart.
_LIMIT_NAMES = {"requests": ("requests",), "tokens": ("tokens", "input-tokens", "output-tokens")}


class MessagesDialect(Dialect):
    """POST /v1/messages."""

    request_id_header = "request-id"
    answer_id_prefix = "msg_sim_"

    def parse(self, fields: dict[str, Any], headers: Mapping[bytes, bytes] = NO_HEADERS) -> Call:
        """Check a request's body, by the rules of the version that the headers name."""
        return parse_messages(fields, headers.get(b"anthropic-version", b"").decode("latin-1"))

    def completion(self, reply: Reply) -> dict[str, Any]:
        """Return a `message`."""
        return messages_answer.message(reply)

    def events(self, reply: Reply, dice: Dice) -> list[bytes]:
        """Return the events from `message_start` to `message_stop`."""
        return messages_answer.events(reply, dice)

    def error(self, refused: RefusedError, request_id: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the `error`."""
        status, error_type = _ERRORS[refused.fault]
        message = f"{refused.param}: {refused.message}" if refused.param else refused.message
        detail = {"type": error_type, "message": message}
        return status, {"type": "error", "error": detail, "request_id": request_id}

    def error_event(self, refused: RefusedError, request_id: str) -> bytes:
        """Return an `error` event."""
        return messages_answer.event(self.error(refused, request_id)[1])

    def limit_headers(self, standings: Mapping[str, Standing], now: float) -> Headers:
        """Return `anthropic-ratelimit-*`; resets as RFC 3339 times, in whole seconds."""
        headers: Headers = []
        for what, standing in standings.items():
            reset = _rfc3339(math.ceil(now + standing.reset_s))
            for name in _LIMIT_NAMES[what]:
                prefix = f"anthropic-ratelimit-{name}"
                headers += [
                    (f"{prefix}-limit", str(standing.limit)),
                    (f"{prefix}-remaining", str(standing.remaining)),
                    (f"{prefix}-reset", reset),
                ]
        return headers


@lru_cache(maxsize=128)  # most requests of a second share it
def _rfc3339(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
