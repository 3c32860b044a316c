"""How to mend what went wrong, by the type of the error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.records import Ending

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROOM = "raise [request] max_tokens (reasoning counts, too), or shorten the prompt"
_REWORD = "reword the prompt, or use another model"
_FILTER = "reword the prompt, or change the provider's content filter"
_SHORTER = "shorten the prompt, or ask a model with a longer context"
_SLOWER = "the provider was too busy: run again later, or raise [retry] max_wait_s"
_AGAIN = "passing trouble of the network or the server: run again to send these rows once more"
_KEY = "check the key in the variable that [request] api_key_env names, and what it may be used for"
_NOT_ALLOWED = (
    "other rows were answered: the content of these may be filtered, or the key may not use what they "
    "ask for"
)
_NOT_FOUND = "other rows were answered: check the model of these rows, then use --retry-errored"
_ACCOUNT = "raise the account's quota, credit or spend limit, then run again"
_COLUMN = "mend these rows in the table, or the key in [request] that reads them"
_IMAGE = "mend the image: JPEG, PNG, GIF or WebP, small enough, below [request] image_dir"

_HINTS = {
    "abort": _AGAIN,
    "api_error": _AGAIN,
    "authentication_error": _KEY,
    "billing_error": _ACCOUNT,
    "billing_hard_limit_reached": _ACCOUNT,
    "cancelled": "the run was stopped while this was under way: run again",
    "connection_error": "check base_url and the network, then run again",
    "context_length_exceeded": _SHORTER,
    "credit_balance_exhausted": _ACCOUNT,
    "cut_answer": _ROOM,
    "empty_model": _COLUMN,
    "empty_prompt": _COLUMN,
    "filtered_answer": _FILTER,
    "image_too_large": _IMAGE,
    "insufficient_quota": _ACCOUNT,
    "insufficient_system_resource": _AGAIN,
    "interrupted": "the process ended before the answer arrived: run again",
    "invalid_answer": "relax json_schema, say in the prompt what is wanted, or raise max_tokens",
    "invalid_api_key": _KEY,
    "invalid_image": _IMAGE,
    "invalid_messages": _COLUMN,
    "invalid_parameter": _COLUMN,
    "invalid_request_error": "the provider refused what was asked: look at it with batchrun preview",
    "invalid_response": "what answers at base_url does not speak this format: check base_url, format",
    "invalid_text": "remove what cannot be written as JSON from these rows",
    "model_not_found": _NOT_FOUND,
    "not_found_error": _NOT_FOUND,
    "null_value": 'fill the empty cells, or give a default: {{ column or "none" }}',
    "over_token_limit": "raise the token limit in [limits], or shorten the prompt",
    "overloaded_error": _SLOWER,
    "permission_error": _NOT_ALLOWED,
    "rate_limit_error": _SLOWER,
    "rate_limit_exceeded": _SLOWER,
    "refused_answer": _REWORD,
    "rejected_empty": "look at the column raw ([request] keep_raw), or use another model",
    "rejected_filtered": _FILTER,
    "rejected_length": _ROOM,
    "rejected_refusal": _REWORD,
    "request_too_large": _SHORTER,
    "server_error": _AGAIN,
    "stream_cut": _AGAIN,
    "stream_error": _AGAIN,
    "template_error": "mend the template, or the rows it fails for",
    "timeout": "raise [retry] timeout_s, or lower [limits] concurrency, then run again",
    "unknown_price": "give the model's price in [price], or take max_cost_usd out",
}
_BY_STATUS = {
    "http_401": _KEY,
    "http_403": _NOT_ALLOWED,
    "http_404": _NOT_FOUND,
    "http_413": _SHORTER,
    "http_429": _SLOWER,
}


# What each unusual ending means, and what helps.
ENDINGS: Mapping[str, tuple[str, str]] = {
    Ending.LENGTH: ("cut at max_tokens or at the end of the context window", _ROOM),
    Ending.REFUSAL: ("the model or the provider refused to answer", _REWORD),
    Ending.FILTERED: ("a content filter removed the answer or a part of it", _FILTER),
    Ending.PAUSED: (
        "the provider paused its turn, and the answer is not finished",
        "look at the columns error_message and response",
    ),
    Ending.ERROR: ("the provider failed while it was answering", "run again with --retry-errored"),
    Ending.UNKNOWN: (
        "the provider named no stop reason, or one that batchrun does not know",
        "look at the columns stop_reason and response",
    ),
}


def hint(error_type: str) -> str | None:
    """Return how to mend errors of a type; None when there is nothing useful to say."""
    if (known := _HINTS.get(error_type) or _BY_STATUS.get(error_type)) is not None:
        return known
    if error_type.endswith(("_spend_limit_exceeded", "_usage_limit_exceeded")):
        return _ACCOUNT
    return _AGAIN if error_type.startswith("http_5") else None
