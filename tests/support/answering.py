"""Bodies and refusals of both formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from batchrun.errors import JobError
from batchrun.job import Job
from batchrun.records import Item
from batchrun.render import Renderer

if TYPE_CHECKING:
    from collections.abc import Mapping


PARAMS: dict[str, TypeAdapter[Any]] = {
    "messages": TypeAdapter(MessageCreateParamsNonStreaming),
    "chat": TypeAdapter(CompletionCreateParamsNonStreaming),
}


def job(wire_format: str, **request: Any) -> Job:
    base = {"model": "m", "prompt": "{{ text }}", "max_tokens": 4000, "format": wire_format}
    return Job.from_document({"input": {"path": "x.csv"}, "request": base | request}, Path("/jobs"))


def body(wire_format: str, row: Mapping[str, Any] | None = None, **request: Any) -> dict[str, Any]:
    """The body of a row, accepted by the official SDK's own types."""
    values = {"text": "hi", **(row or {})}
    (item,) = Renderer(job(wire_format, **request), list(values)).render([Item(0, "1", values)])
    assert item.wire is not None, item.error_message
    found: dict[str, Any] = json.loads(item.wire.body)
    PARAMS[wire_format].validate_python(found)
    return found


def refusal(wire_format: str, **request: Any) -> str:
    with pytest.raises(JobError) as caught:
        job(wire_format, **request)
    return str(caught.value)
