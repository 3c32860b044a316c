"""Message Batches: `POST /v1/messages/batches`, one body with all requests.

Facts are from the Claude API reference and its SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.formats.batches import (
    BatchFormat,
    BatchLimits,
    BatchLine,
    BatchOutcome,
    BatchService,
    split_url,
    time_us,
)
from batchrun.formats.parsing import (
    InvalidResponse,
    as_count,
    as_dict,
    as_text,
    dumps,
    glimpse,
    text_or_none,
)
from batchrun.formats.remote_batches import BatchState, RemoteBatch

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIMITS = BatchLimits(rows=100_000, size=256_000_000)
_KEPT_US = 29 * 24 * 3600 * 1_000_000  # after creation
_STATES = {"canceling": BatchState.CANCELING, "ended": BatchState.ENDED}
_OUTCOMES = {
    "succeeded": BatchOutcome.ANSWERED,
    "canceled": BatchOutcome.CANCELED,
    "expired": BatchOutcome.EXPIRED,
}
# Errors of single requests arrive with their type only.
_STATUS_OF_ERROR = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def _service(url: str) -> BatchService:
    address, query = split_url(url, "")
    return BatchService(batches=f"{address}/batches", query=query, limits=_LIMITS)


def _line(custom_id: str, body: bytes, _service: BatchService) -> bytes:
    return b'{"custom_id":%b,"params":%b}' % (dumps(custom_id), body)


def _read_batch(payload: Mapping[str, Any]) -> RemoteBatch:
    batch_id, status = as_text(payload.get("id")), as_text(payload.get("processing_status"))
    if not batch_id or not status:
        raise InvalidResponse(f"not a batch: {glimpse(dumps(payload))}")
    counts = as_dict(payload.get("request_counts"))
    numbers = {name: as_count(counts.get(name)) for name in counts}
    created_us = time_us(payload.get("created_at"))
    url = text_or_none(payload.get("results_url"))
    return RemoteBatch(
        id=batch_id,
        state=_STATES.get(status, BatchState.RUNNING),
        rows=sum(number or 0 for number in numbers.values()) or None,
        done=numbers.get("succeeded"),
        failed=numbers.get("errored"),
        created_us=created_us,
        expires_us=time_us(payload.get("expires_at")),
        ended_us=time_us(payload.get("ended_at")),
        results_expire_us=None if created_us is None else created_us + _KEPT_US,
        result_files=(url,) if url else (),
    )


def _read_line(payload: Mapping[str, Any]) -> BatchLine:
    custom_id, result = payload.get("custom_id"), as_dict(payload.get("result"))
    kind = as_text(result.get("type"))
    if not isinstance(custom_id, str) or not kind:
        raise InvalidResponse(f"not a result of a batch: {glimpse(dumps(payload))}")
    outcome = _OUTCOMES.get(kind, BatchOutcome.ERRORED)
    if outcome is BatchOutcome.ANSWERED:
        return BatchLine(custom_id, outcome, as_dict(result.get("message")), 200)
    error = as_dict(result.get("error"))
    named = as_dict(error.get("error")) or error
    status = _STATUS_OF_ERROR.get(as_text(named.get("type")))
    return BatchLine(
        custom_id,
        outcome,
        error,
        status if outcome is BatchOutcome.ERRORED else None,
        text_or_none(error.get("request_id")),
    )


def _results(batch: RemoteBatch, service: BatchService) -> tuple[str, ...]:
    return batch.result_files or (service.batch(batch.id, "/results"),)


MESSAGE_BATCHES = BatchFormat(
    head=b'{"requests":[',
    separator=b",\n",
    tail=b"]}",
    content_type="application/json",
    page_size=1000,
    after="after_id",
    service=_service,
    line=_line,
    read_batch=_read_batch,
    read_line=_read_line,
    results=_results,
)
