"""OpenAI's Batch API and the servers that have it: `POST /v1/files`, then `POST /v1/batches`.

Facts are from OpenAI's API reference and SDK, and from the references of the other servers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

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
    as_dicts,
    as_text,
    dumps,
    glimpse,
    text_or_none,
)
from batchrun.formats.remote_batches import BatchProblem, BatchState, RemoteBatch

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the metadata of a batch calls the tag by which it is found again.
TAG = "batchrun"
_ENDPOINT = "/chat/completions"
_LIMITS = BatchLimits(rows=50_000, size=200_000_000)
_TOGETHER_LIMITS = BatchLimits(rows=50_000, size=100_000_000)
_TOGETHER = re.compile(r"(?:^|\.)together\.(?:xyz|ai)\Z")
_AZURE = re.compile(r"\.azure\.(?:com|us|cn)\Z")
_AZURE_DEPLOYMENT = re.compile(r"/openai/deployments/[^/]+\Z")
_STATES = {
    "validating": BatchState.VALIDATING,
    "completed": BatchState.ENDED,
    "expired": BatchState.EXPIRED,
    "cancelling": BatchState.CANCELING,
    "canceling": BatchState.CANCELING,
    "cancelled": BatchState.CANCELED,
    "canceled": BatchState.CANCELED,
    "failed": BatchState.FAILED,
}
_OUTCOME_OF_CODE = {
    "batch_expired": BatchOutcome.EXPIRED,
    "batch_cancelled": BatchOutcome.CANCELED,
    "batch_canceled": BatchOutcome.CANCELED,
}
_SUCCESS = range(200, 300)
_ENDS = ("completed_at", "expired_at", "cancelled_at", "failed_at")


def _service(url: str) -> BatchService:
    root, query = split_url(url, _ENDPOINT)
    host = urlsplit(url).hostname or ""
    # Azure's batches are beside its deployments; each line names the deployment as its model.
    azure = _AZURE_DEPLOYMENT.sub("/openai", root)
    service = BatchService(
        batches=f"{azure}/batches",
        files=f"{azure}/files",
        uploads=f"{azure}/files{query}",
        query=query,
        limits=_LIMITS,
        # The paths in Azure's batches have no version.
        request_url=_ENDPOINT if _AZURE.search(host) else f"/v1{_ENDPOINT}",
    )
    return _together(service) if _TOGETHER.search(host) else service


def _together(service: BatchService) -> BatchService:
    # https://docs.together.ai/docs/inference/batch
    return replace(
        service,
        uploads=f"{service.files}/upload{service.query}",
        limits=_TOGETHER_LIMITS,
        purpose="batch-api",
        names_file=True,
    )


def _line(custom_id: str, body: bytes, service: BatchService) -> bytes:
    head = b'{"custom_id":%b,"method":"POST","url":%b,"body":'
    return head % (dumps(custom_id), dumps(service.request_url)) + body + b"}"


def _creation(file_id: str, tag: str, service: BatchService) -> bytes:
    return dumps(
        {
            "input_file_id": file_id,
            "endpoint": service.request_url,
            "completion_window": "24h",
            "metadata": {TAG: tag},
        }
    )


def _read_batch(payload: Mapping[str, Any]) -> RemoteBatch:
    payload = as_dict(payload.get("job")) or payload  # of Together, when it is created
    batch_id, status = as_text(payload.get("id")), as_text(payload.get("status")).lower()
    if not batch_id or not status:
        raise InvalidResponse(f"not a batch: {glimpse(dumps(payload))}")
    counts = as_dict(payload.get("request_counts"))
    files = (text_or_none(payload.get(name)) for name in ("output_file_id", "error_file_id"))
    ends = (time_us(payload.get(name)) for name in _ENDS)
    return RemoteBatch(
        id=batch_id,
        state=_STATES.get(status, BatchState.RUNNING),
        rows=as_count(counts.get("total")) or None,
        done=as_count(counts.get("completed")),
        failed=as_count(counts.get("failed")),
        created_us=time_us(payload.get("created_at")),
        expires_us=time_us(payload.get("expires_at")) or time_us(payload.get("job_deadline")),
        ended_us=next((end for end in ends if end is not None), None),
        tag=text_or_none(as_dict(payload.get("metadata")).get(TAG)),
        input_file=text_or_none(payload.get("input_file_id")),
        result_files=tuple(file for file in files if file),
        problem=_problem(payload),
    )


def _problem(payload: Mapping[str, Any]) -> BatchProblem | None:
    errors, error = payload.get("errors"), payload.get("error")
    if isinstance(error, str) and error:
        return BatchProblem("failed", error)
    found = as_dicts(as_dict(errors).get("data")) or as_dicts(errors)
    if not found:
        return None
    code, message = as_text(found[0].get("code")), as_text(found[0].get("message"))
    line = as_count(found[0].get("line"))
    return BatchProblem(code or "failed", message or glimpse(dumps(found[0])), line)


def _read_line(payload: Mapping[str, Any]) -> BatchLine:
    custom_id = payload.get("custom_id")
    response, error = as_dict(payload.get("response")), as_dict(payload.get("error"))
    if not isinstance(custom_id, str) or not (response or error):
        raise InvalidResponse(f"not a result of a batch: {glimpse(dumps(payload))}")
    status = as_count(response.get("status_code"))
    request_id = text_or_none(response.get("request_id"))
    body = as_dict(response.get("body"))
    if error or status not in _SUCCESS:
        outcome = _OUTCOME_OF_CODE.get(as_text(error.get("code")), BatchOutcome.ERRORED)
        return BatchLine(
            custom_id, outcome, {"error": error} if error else body, status, request_id
        )
    return BatchLine(custom_id, BatchOutcome.ANSWERED, body, status, request_id)


def _results(batch: RemoteBatch, service: BatchService) -> tuple[str, ...]:
    return tuple(service.file(file, "/content") for file in batch.result_files)


CHAT_BATCHES = BatchFormat(
    head=b"",
    separator=b"\n",
    tail=b"\n",
    content_type="application/jsonl",
    page_size=100,
    after="after",
    service=_service,
    line=_line,
    creation=_creation,
    read_batch=_read_batch,
    read_line=_read_line,
    results=_results,
)
