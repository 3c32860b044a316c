"""The Chat Completions dialect, in the shapes of OpenAI-compatible servers: its errors and limits.

Requests and answers have their own modules.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from batchrun.simulator import chat_answer
from batchrun.simulator.chat_request import parse_chat
from batchrun.simulator.dialect import NO_HEADERS, Dialect, Headers, Reply
from batchrun.simulator.refusals import Fault, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.simulator.calls import Call
    from batchrun.simulator.dice import Dice
    from batchrun.simulator.quota import Standing

_ERRORS: dict[Fault, tuple[int, str, str | None]] = {
    Fault.MISSING: (400, "invalid_request_error", "missing_required_parameter"),
    Fault.INVALID: (400, "invalid_request_error", "invalid_value"),
    Fault.NOT_IMPLEMENTED: (400, "invalid_request_error", "api_not_implemented"),
    Fault.CREDENTIALS: (401, "invalid_request_error", "invalid_api_key"),
    Fault.NOT_FOUND: (404, "invalid_request_error", "unknown_url"),
    Fault.METHOD: (405, "invalid_request_error", "method_not_supported"),
    Fault.TOO_LARGE: (413, "invalid_request_error", "request_too_large"),
    Fault.RATE_LIMIT: (429, "requests", "rate_limit_exceeded"),
    Fault.SERVER_ERROR: (500, "server_error", None),
    Fault.OVERLOADED: (503, "server_error", "overloaded"),
}
_INDEX = re.compile(r"\.(\d+)")


class ChatDialect(Dialect):
    """POST /v1/chat/completions."""

    request_id_header = "x-request-id"
    answer_id_prefix = "chatcmpl-sim-"

    def parse(self, fields: dict[str, Any], headers: Mapping[bytes, bytes] = NO_HEADERS) -> Call:
        """Check a request's body. The headers say nothing about it."""
        del headers
        return parse_chat(fields)

    def completion(self, reply: Reply) -> dict[str, Any]:
        """Return a `chat.completion`."""
        return chat_answer.completion(reply)

    def events(self, reply: Reply, dice: Dice) -> list[bytes]:
        """Return the chunks, and `[DONE]`."""
        return chat_answer.events(reply, dice)

    def error(self, refused: RefusedError, request_id: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the `error`; a rate limit's type names what is limited."""
        del request_id  # stands in a header only
        status, error_type, code = _ERRORS[refused.fault]
        param = _INDEX.sub(r"[\1]", refused.param) if refused.param else None
        return status, {
            "error": {
                "message": f"Invalid '{param}': {refused.message}" if param else refused.message,
                "type": refused.scope if refused.fault is Fault.RATE_LIMIT else error_type,
                "param": param,
                "code": code,
            }
        }

    def error_event(self, refused: RefusedError, request_id: str) -> bytes:
        """Return a chunk that holds an `error` instead of choices."""
        return chat_answer.event(self.error(refused, request_id)[1])

    def limit_headers(self, standings: Mapping[str, Standing], now: float) -> Headers:
        """Return `x-ratelimit-*`; resets as durations."""
        del now
        headers: Headers = []
        for what, standing in standings.items():
            headers += [
                (f"x-ratelimit-limit-{what}", str(standing.limit)),
                (f"x-ratelimit-remaining-{what}", str(standing.remaining)),
                (f"x-ratelimit-reset-{what}", _duration(standing.reset_s)),
            ]
        return headers

    def retry_headers(self, wait_s: float) -> Headers:
        """Return when to try again, in seconds and in milliseconds."""
        return [*super().retry_headers(wait_s), ("retry-after-ms", str(math.ceil(wait_s * 1000)))]


def _duration(seconds: float) -> str:
    """Return a duration as the vendor writes it: "12ms", "1.5s", "6m0s"."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"
