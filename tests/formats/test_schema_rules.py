"""JSON schemas that OpenAI's strict mode and Claude's structured outputs refuse are errors at load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from pydantic import BaseModel

from batchrun import Job
from batchrun.errors import JobError
from batchrun.formats.schema_rules import CLAUDE_SCHEMAS, OPENAI_SCHEMAS, closed

TEXT = {"type": "string"}


def record(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required or properties),
        "additionalProperties": False,
    }


def load(wire_format: str, **request: Any) -> Job:
    base = {"model": "m", "prompt": "{{ text }}", "max_tokens": 4000, "format": wire_format}
    return Job.from_document({"input": {"path": "x.csv"}, "request": base | request}, Path("/jobs"))


def refusal(wire_format: str, **request: Any) -> str:
    with pytest.raises(JobError) as caught:
        load(wire_format, **request)
    return str(caught.value)


ACCEPTED = record(
    name=TEXT,
    price={"type": ["number", "null"]},
    items={"type": "array", "items": record(sku=TEXT), "minItems": 1},
    kind={"anyOf": [{"$ref": "#/$defs/Kind"}, {"type": "null"}]},
) | {"$defs": {"Kind": {"type": "string", "enum": ["a", "b"]}}}
RECURSIVE = record(child={"$ref": "#/$defs/Node"}) | {
    "$defs": {"Node": record(next={"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]})}
}


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_a_schema_of_the_subset_is_accepted(wire_format: str) -> None:
    assert load(wire_format, json_schema=ACCEPTED).request.answer is not None


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "object"}, "json_schema: an object needs additionalProperties = false"),
        (
            record(a=record(b=TEXT) | {"additionalProperties": True}),
            "properties.a: an object needs additionalProperties = false",
        ),
        (
            record(a={"type": "array", "items": {"type": ["object", "null"]}}),
            "properties.a.items: an object needs additionalProperties",
        ),
        (
            record("a", a=TEXT, b=TEXT),
            'required must list every property, also b; for one that may be missing, write type = ["st',
        ),
        (record("a", "z", a=TEXT), "required lists z, which is not one of the properties"),
        (record(a={"oneOf": [TEXT]}), "properties.a: OpenAI does not support oneOf; write anyOf"),
        (record(a={"allOf": [TEXT]}), "properties.a: OpenAI does not support allOf; remove it"),
        ({"anyOf": [record(a=TEXT)]}, 'the whole schema must have type = "object"'),
        ({"type": "array", "items": TEXT}, 'the whole schema must have type = "object"'),
        (record(a={"enum": [str(n) for n in range(1_001)]}), "has 1,001 enum values; OpenAI takes"),
        (record(**{f"a{n}": TEXT for n in range(5_001)}), "has 5,001 properties"),
        (
            record(a={"$ref": "#/$defs/B"}) | {"$defs": {"B": {"type": "object"}}},
            "$defs.B: an object needs additionalProperties",
        ),
    ],
)
def test_what_openai_refuses(schema: dict[str, Any], message: str) -> None:
    found = refusal("chat", json_schema=schema)
    assert message in found
    assert "strict = false" in found
    load("chat", json_schema=schema, strict=False)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "object"}, "json_schema: an object needs additionalProperties = false"),
        (
            record(n={"type": "integer", "minimum": 1}),
            "properties.n: Claude does not support minimum; remove it, and say in description",
        ),
        (record(n={"type": "string", "maxLength": 9}), "properties.n: Claude does not support max"),
        (record(n={"type": "array", "minItems": 2}), "Claude supports minItems of 0 and 1, not 2"),
        (record(n={"type": "array", "maxItems": 2}), "Claude does not support maxItems"),
        (record(n={"oneOf": [TEXT]}), "properties.n: Claude does not support oneOf; write anyOf"),
        (record(n={"enum": [{"a": 1}]}), "properties.n: an enum can have texts, numbers"),
        (record(n={"$ref": "https://example.com/s"}), "properties.n: $ref must start with #"),
        (RECURSIVE, "$defs/Node refers to itself, which Claude does not support"),
        (record(n={"$ref": "#"}), "the whole schema refers to itself"),
    ],
)
def test_what_claude_refuses(schema: dict[str, Any], message: str) -> None:
    found = refusal("messages", json_schema=schema)
    assert message in found
    assert 'json_schema_as = "tool"' in found
    object_schema = schema | {"type": "object"}
    load("messages", json_schema=object_schema, json_schema_as="tool")


def test_each_vendor_has_its_own_subset() -> None:
    optional = record("a", a=TEXT, b=TEXT)
    load("messages", json_schema=optional)
    load("chat", json_schema=RECURSIVE)
    load("chat", json_schema=record(n={"type": "integer", "minimum": 1}))


def test_other_servers_take_any_schema() -> None:
    schema = {"type": "object"}
    for url in ("http://127.0.0.1:8000", "https://gateway.example.com"):
        load("chat", json_schema=schema, base_url=url)
        load("messages", json_schema=schema, base_url=url, provider="anthropic")
    load("chat", json_schema=schema, provider="groq")
    azure = "https://contoso.openai.azure.com/openai/v1"
    assert "additionalProperties" in refusal("chat", json_schema=schema, base_url=azure)


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_strict_tools_have_the_same_rules(wire_format: str) -> None:
    tool = {"name": "find", "input_schema": {"type": "object"}}
    load(wire_format, tools=[tool])
    found = refusal(wire_format, tools=[tool | {"strict": True}])
    assert "tools: find: an object needs additionalProperties = false (or remove strict)" in found


def test_many_problems_are_counted() -> None:
    schema = record(**{f"a{n}": {"type": "object"} for n in range(30)})
    found = refusal("messages", json_schema=schema)
    assert found.count("needs additionalProperties") == 5
    assert "25 more like these" in found


class Line(BaseModel):
    sku: str
    amount: int = 1


class Bill(BaseModel):
    lines: list[Line]
    currency: str | None = None
    note: str = ""
    first: Line | None = None


def test_a_closed_schema_is_enforced_by_both_and_keeps_what_was_asked() -> None:
    schema = closed(Bill.model_json_schema())
    assert not list(OPENAI_SCHEMAS.problems(schema))
    assert not list(CLAUDE_SCHEMAS.problems(schema))
    given = jsonschema_rs.validator_for(Bill.model_json_schema())
    found = jsonschema_rs.validator_for(schema)
    whole = {"lines": [{"sku": "a", "amount": 2}], "currency": "EUR", "note": "x", "first": None}
    assert given.is_valid(whole)
    assert found.is_valid(whole)
    assert found.is_valid({**whole, "note": None})
    assert not found.is_valid({"lines": []})
    assert not found.is_valid({**whole, "more": 1})
    assert not found.is_valid({**whole, "lines": None})


def test_an_open_schema_stays_open() -> None:
    schema = {"type": "object", "properties": {"a": TEXT}, "additionalProperties": True}
    assert closed(schema) == schema
