"""The Chat Completions dialect, non-streaming, in the shapes of OpenAI-compatible servers."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from batchrun.simulator import calls
from batchrun.simulator.answers import Ending
from batchrun.simulator.dialect import Dialect, Headers, bearer_token
from batchrun.simulator.refusals import Fault, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.simulator.answers import Answer
    from batchrun.simulator.quota import Standing

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_FINISH_REASONS = {Ending.COMPLETE: "stop", Ending.MAX_TOKENS: "length", Ending.STOP: "stop"}
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

    def api_key(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the bearer token that was sent."""
        return bearer_token(headers)

    def parse(self, fields: dict[str, Any]) -> calls.Call:
        """Check a request's body."""
        model = calls.model_name(fields)
        turns = calls.conversation(fields, _ROLES)
        limits = [calls.integer(fields, name) for name in ("max_completion_tokens", "max_tokens")]
        calls.check_range(fields, "temperature", 0, 2)
        calls.check_range(fields, "top_p", 0, 1)
        for name in ("presence_penalty", "frequency_penalty"):
            calls.check_range(fields, name, -2, 2)
        return calls.build_call(
            model,
            turns,
            max_tokens=next(filter(None, limits), None),
            stops=calls.stop_texts(fields, "stop"),
            choices=calls.choice_count(fields),
        )

    def completion(
        self, call: calls.Call, answers: tuple[Answer, ...], answer_id: str, now: float
    ) -> dict[str, Any]:
        """Return a `chat.completion`."""
        return {
            "id": answer_id,
            "model": call.model,
            "object": "chat.completion",
            "created": int(now),
            "choices": [
                {
                    "index": place,
                    "message": {"role": "assistant", "content": answer.text},
                    "finish_reason": _FINISH_REASONS[answer.ending],
                }
                for place, answer in enumerate(answers)
            ],
            "usage": _usage(call.input_tokens, sum(answer.tokens for answer in answers)),
        }

    def error(self, refused: RefusedError, request_id: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the `error`; a rate limit's type names what is limited."""
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

    def limit_headers(self, standings: Mapping[str, Standing], now: float) -> Headers:
        """Return `x-ratelimit-*`; resets as durations."""
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


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Return the usage with all that gateways add; those who bill by it read the first three."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": 0,
            "text_tokens": 0,
            "audio_tokens": 0,
            "image_tokens": 0,
        },
        "completion_tokens_details": {
            "text_tokens": 0,
            "audio_tokens": 0,
            "reasoning_tokens": 0,
        },
        "input_tokens": 0,
        "output_tokens": 0,
        "input_tokens_details": None,
        "claude_cache_creation_5_m_tokens": 0,
        "claude_cache_creation_1_h_tokens": 0,
    }


def _duration(seconds: float) -> str:
    """Return a duration as the vendor writes it: "12ms", "1.5s", "6m0s"."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"
