"""The Claude Messages dialect, non-streaming."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from batchrun.simulator import calls
from batchrun.simulator.answers import Ending
from batchrun.simulator.dialect import Dialect, Headers, bearer_token
from batchrun.simulator.refusals import Fault, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.simulator.answers import Answer
    from batchrun.simulator.quota import Standing

_STOP_REASONS = {
    Ending.COMPLETE: "end_turn",
    Ending.MAX_TOKENS: "max_tokens",
    Ending.STOP: "stop_sequence",
}
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

    def api_key(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the key that was sent, in the vendor's header or as a bearer token."""
        return headers.get(b"x-api-key") or bearer_token(headers)

    def parse(self, fields: dict[str, Any]) -> calls.Call:
        """Check a request's body."""
        model = calls.model_name(fields)
        max_tokens = calls.integer(fields, "max_tokens", required=True)
        turns = calls.conversation(fields, ("user", "assistant"))
        _check_texts(turns, fields["messages"])
        for name in ("temperature", "top_p"):
            calls.check_range(fields, name, 0, 1)
        if fields.get("system"):
            turns.insert(0, calls.turn_of("system", fields["system"], "system"))
        stops = calls.stop_texts(fields, "stop_sequences")
        return calls.build_call(model, turns, max_tokens=max_tokens, stops=stops)

    def completion(
        self,
        call: calls.Call,
        answers: tuple[Answer, ...],
        answer_id: str,
        now: float,
    ) -> dict[str, Any]:
        """Return a `message`."""
        (answer,) = answers
        return {
            "id": answer_id,
            "type": "message",
            "role": "assistant",
            "model": call.model,
            "content": [{"type": "text", "text": answer.text}] if answer.text else [],
            "stop_reason": _STOP_REASONS[answer.ending],
            "stop_sequence": answer.stop,
            "usage": {
                "input_tokens": call.input_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": answer.tokens,
                "service_tier": "standard",
            },
        }

    def error(self, refused: RefusedError, request_id: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the `error`."""
        status, error_type = _ERRORS[refused.fault]
        message = f"{refused.param}: {refused.message}" if refused.param else refused.message
        detail = {"type": error_type, "message": message}
        return status, {"type": "error", "error": detail, "request_id": request_id}

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


def _check_texts(turns: list[calls.Turn], messages: list[dict[str, Any]]) -> None:
    """Refuse empty turns, and prefills that no token can continue."""
    for place, message in enumerate(messages):
        if not message.get("content") and (place < len(messages) - 1 or turns[-1].role == "user"):
            raise RefusedError(
                Fault.INVALID, "must have non-empty content", param=f"messages.{place}"
            )
    last = turns[-1]
    if last.role == "assistant" and last.text != last.text.rstrip():
        raise RefusedError(
            Fault.INVALID,
            "final assistant content cannot end with trailing whitespace",
            param="messages",
        )
