"""Suggested fixes for errors and unusual endings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.records import Ending, unusual_endings

if TYPE_CHECKING:
    from batchrun.pricing.totals import RunTotals

_ROOM = "raise [request] max_tokens (reasoning counts towards it), or shorten the prompt"
_REWORD = "reword the prompt, or use another model"
_FILTER = "reword the prompt, or change the provider's content filter"
_SHORTER = "shorten the prompt, or use a model with a longer context window"
_SLOWER = "the provider is overloaded: run again later, or raise [retry] max_wait_s"
_AGAIN = "temporary network or server error: run again to retry these rows"
_KEY = "check the API key in the variable named by [request] api_key_env, and its permissions"
_NOT_ALLOWED = (
    "other rows were answered: the content of these rows may be filtered, or the API key may lack a "
    "permission that they need"
)
_NOT_FOUND = "other rows were answered: check the model of these rows, then use --retry-errored"
_ACCOUNT = "raise the account's quota, credit or spend limit, then run again"
_NETWORK = "check base_url and the network, then run again"
_COLUMN = "correct these rows in the table, or the key in [request] that reads them"
_IMAGE = "use a JPEG, PNG, GIF or WebP image that is small enough and inside [request] image_dir"

_DOCUMENT = (
    "use a PDF or UTF-8 text that is small enough and inside [request] document_dir, or an address "
    "where the provider fetches those"
)

_HINTS = {
    "abort": _AGAIN,
    "api_error": _AGAIN,
    "authentication_error": _KEY,
    "billing_error": _ACCOUNT,
    "billing_hard_limit_reached": _ACCOUNT,
    "cancelled": "the run was stopped while the request was in flight: run again",
    "certificate_error": "check base_url and the clock of this machine, then run again",
    "connection_error": _NETWORK,
    "context_length_exceeded": _SHORTER,
    "credit_balance_exhausted": _ACCOUNT,
    "cut_answer": _ROOM,
    "document_too_large": _DOCUMENT,
    "empty_model": _COLUMN,
    "empty_prompt": _COLUMN,
    "filtered_answer": _FILTER,
    "http_401": _KEY,
    "http_403": _NOT_ALLOWED,
    "http_404": _NOT_FOUND,
    "http_413": _SHORTER,
    "http_429": _SLOWER,
    "image_too_large": _IMAGE,
    "insufficient_quota": _ACCOUNT,
    "insufficient_system_resource": _AGAIN,
    "interrupted": "the process ended before the answer arrived: run again",
    "invalid_answer": "relax json_schema, describe the JSON in the prompt, or raise max_tokens",
    "invalid_api_key": _KEY,
    "invalid_document": _DOCUMENT,
    "invalid_image": _IMAGE,
    "invalid_messages": _COLUMN,
    "invalid_parameter": _COLUMN,
    "invalid_request_error": "the provider rejected the request: check it with batchrun preview",
    "invalid_response": "the server at base_url does not use this format: check base_url and format",
    "invalid_text": "remove characters that JSON cannot contain from these rows",
    "model_not_found": _NOT_FOUND,
    "not_found_error": _NOT_FOUND,
    "null_value": 'fill the empty cells, or set a default: {{ column or "none" }}',
    "over_token_limit": "raise the token limit in [limits], or shorten the prompt",
    "overloaded_error": _SLOWER,
    "permission_error": _NOT_ALLOWED,
    "rate_limit_error": _SLOWER,
    "rate_limit_exceeded": _SLOWER,
    "refused_answer": _REWORD,
    "rejected_empty": "check the column raw ([request] keep_raw), or use another model",
    "rejected_filtered": _FILTER,
    "rejected_length": _ROOM,
    "rejected_refusal": _REWORD,
    "request_too_large": _SHORTER,
    "server_error": _AGAIN,
    "stream_cut": _AGAIN,
    "stream_error": _AGAIN,
    "template_error": "correct the template, or the rows for which it fails",
    "timeout": "raise [retry] timeout_s, or lower [limits] concurrency, then run again",
    "tls_error": "check the port in base_url and whether the server speaks https, then run again",
    "unknown_host": _NETWORK,
    "unsupported_parameter": 'remove the parameter from [request], or set on_unsupported = "drop"',
    "unknown_price": "set the price of the model in [price], or remove max_cost_usd",
}


# The meaning of each unusual ending, and a suggested fix.
_ENDINGS: dict[str, tuple[str, str]] = {
    Ending.LENGTH: ("cut at max_tokens or at the end of the context window", _ROOM),
    Ending.REFUSAL: ("the model or the provider refused to answer", _REWORD),
    Ending.FILTERED: ("a content filter removed the answer or part of it", _FILTER),
    Ending.PAUSED: (
        "the provider paused its turn; the answer is incomplete",
        "check the columns error_message and response",
    ),
    Ending.ERROR: ("the provider failed during the answer", "run again with --retry-errored"),
    Ending.UNKNOWN: (
        "the stop reason is missing or unknown",
        "check the columns stop_reason and response",
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A type of error or an unusual ending, with its number of occurrences and a suggested fix.

    `meaning` is an example of the error, or the meaning of the ending.
    """

    name: str
    count: int
    meaning: str
    remedy: str | None


def error_problems(totals: RunTotals) -> list[Problem]:
    """Return the errors of rows that failed permanently, the most frequent first."""
    return [
        Problem(error_type, count, example or "", _hint(error_type, totals))
        for error_type, (count, example) in totals.errors_by_type.items()
    ]


def _hint(error_type: str, totals: RunTotals) -> str | None:
    # A server that answers other rows does use the format.
    is_other = error_type == "invalid_response" and totals.succeeded
    return _AGAIN if is_other else hint(error_type)


def ending_problems(totals: RunTotals) -> list[Problem]:
    """Return the endings of answers that look complete but are not."""
    return [
        Problem(ending, count, *_ENDINGS.get(ending, _ENDINGS[Ending.UNKNOWN]))
        for ending, count in unusual_endings(totals.endings).items()
    ]


def hint(error_type: str) -> str | None:
    """Return a suggested fix for errors of a type; None if there is none."""
    if error_type in _HINTS:
        return _HINTS[error_type]
    if error_type.endswith(("_spend_limit_exceeded", "_usage_limit_exceeded")):
        return _ACCOUNT
    return _AGAIN if error_type.startswith("http_5") else None
