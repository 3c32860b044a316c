"""`extra_body` and `extra_headers`: merged deeply, with templates, and without conflicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from batchrun.errors import JobError
from batchrun.job import Job
from batchrun.records import Item, RenderedItem
from batchrun.render import Renderer


def render(row: dict[str, Any], **request: Any) -> RenderedItem:
    keys = {"model": "m", "max_tokens": 10, "prompt": "p", **request}
    job = Job.from_document({"input": {"path": "t.csv"}, "request": keys}, Path("/jobs"))
    [rendered] = Renderer(job, list(row)).render([Item(0, "1", row)])
    return rendered


def body(row: dict[str, Any], **request: Any) -> dict[str, Any]:
    wire = render(row, **request).wire
    assert wire is not None
    found: dict[str, Any] = orjson.loads(wire.body)
    return found


def test_tables_are_merged_with_those_of_the_request() -> None:
    schema = {"type": "object", "additionalProperties": False}
    found = body({}, json_schema=schema, extra_body={"output_config": {"task": {"a": 1}}})
    assert found["output_config"] == {
        "format": {"type": "json_schema", "schema": schema},
        "task": {"a": 1},
    }
    found = body({}, user="u", extra_body={"metadata": {"team": "x"}})
    assert found["metadata"] == {"user_id": "u", "team": "x"}


def test_strings_are_templates_and_a_bare_column_keeps_its_type() -> None:
    found = body(
        {"n": 3, "tags": ["a", "b"], "name": "x"},
        extra_body={"depth": "{{ n }}", "in": {"tags": "{{ tags }}", "who": ["<{{ name }}>"]}},
    )
    assert found["depth"] == 3
    assert found["in"] == {"tags": ["a", "b"], "who": ["<x>"]}


def test_headers_are_templates() -> None:
    wire = render({"team": "blue"}, extra_headers={"x-team": "team {{ team }}", "x-a": "b"}).wire
    assert wire is not None
    assert dict(wire.headers)["x-team"] == "team blue"
    assert dict(wire.headers)["x-a"] == "b"
    bad = render({"team": "blue\r\nx: y"}, extra_headers={"x-team": "{{ team }}"})
    assert bad.error_message == "extra_headers.x-team: must be one line of printable ASCII text"


def test_a_column_that_is_missing_is_an_error() -> None:
    with pytest.raises(JobError, match=r"extra_body\.a\.b: the input has no column 'nme'"):
        render({"name": "x"}, extra_body={"a": {"b": "{{ nme }}"}})


@pytest.mark.parametrize(
    ("keys", "extra", "named"),
    [
        ({}, {"model": "other"}, "model"),
        ({}, {"messages": []}, "messages"),
        ({}, {"max_tokens": 5}, "max_tokens"),
        ({"temperature": 0.5}, {"temperature": 1}, "temperature"),
        ({"from_columns": ["top_k"]}, {"top_k": 1}, "top_k"),
        ({"user": "u"}, {"metadata": {"user_id": "v"}}, "metadata.user_id"),
        ({"effort": "low"}, {"output_config": {"effort": "high"}}, "output_config.effort"),
        ({"format": "chat", "json_schema": True}, {"response_format": 1}, "response_format"),
    ],
)
def test_what_another_key_sets_is_a_conflict(
    keys: dict[str, Any], extra: dict[str, Any], named: str
) -> None:
    with pytest.raises(JobError) as caught:
        render({"top_k": 1}, extra_body=extra, **keys)
    assert f"[request] extra_body: {named} is also set by another key" in str(caught.value)
