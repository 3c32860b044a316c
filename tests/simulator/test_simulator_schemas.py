"""Values that the simulator writes for a JSON Schema, whatever the schema."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.simulator.calls import RefusedError
from batchrun.simulator.draws import RandomDraws, sample_pattern
from batchrun.simulator.generator import ValueGenerator
from batchrun.simulator.messages_api import SimulatedMessages
from batchrun.simulator.provider import decode
from tests.support.simulated import TICKET, body, check


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "boolean"}, "minItems": 4, "maxItems": 4},
        {"type": ["string", "null"], "pattern": r"^(?:foo|ba[rz])+\.(com|org)?$"},
        {
            "type": "object",
            "additionalProperties": {"type": "integer", "multipleOf": 7, "minimum": -3},
            "minProperties": 3,
        },
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
                {"properties": {"b": {"const": 5}}, "required": ["b"]},
            ]
        },
        {"type": "number", "minimum": 0.0001, "maximum": 0.001},
        {"type": "number", "multipleOf": 0.5, "exclusiveMinimum": 2},
        {"type": "integer", "exclusiveMaximum": -5},
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3},
        {
            "type": "array",
            "prefixItems": [{"type": "string"}, {"type": "integer"}],
            "items": False,
            "minItems": 2,
        },
        {"oneOf": [{"type": "string", "format": "email"}, {"type": "integer", "minimum": 3}]},
        {"type": "string", "minLength": 200, "maxLength": 201},
        {"enum": [1, None, "x", {"a": []}]},
        {"type": "string", "format": "date-time"},
        TICKET,
    ],
)
def test_values_satisfy_their_schema(schema: dict[str, Any]) -> None:
    for number in range(60):
        for prompt in ("", "I was billed twice for the order on Monday"):
            value = ValueGenerator(
                schema, prompt, RandomDraws(number), marked=number % 2 == 0
            ).generate()
            check(value, schema)


def test_a_schema_without_end_is_given_up() -> None:
    tree = {"type": "array", "items": {"$ref": "#"}, "minItems": 3}
    ValueGenerator(tree, "", RandomDraws(1)).generate()
    ValueGenerator({"$ref": "#"}, "", RandomDraws(1)).generate()


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\+?[0-9]{2,4}(-[0-9]{3})+$",
        r"^[^\s@]+@[\w.-]+\.(com|org)$",
        r"[\d\]]",
        r"^(?P<a>x|yy)*?z$",
    ],
)
def test_texts_match_their_pattern(pattern: str) -> None:
    for number in range(40):
        text = sample_pattern(pattern, RandomDraws(number))
        assert text is not None
        assert re.search(pattern, text)


@pytest.mark.parametrize("pattern", ["(", r"(?=a)b", r"(a)\1", "["])
def test_patterns_beyond_the_common_ones_are_left(pattern: str) -> None:
    assert sample_pattern(pattern, RandomDraws(1)) is None


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from(["object", "a", "#/x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "required",
                    "items",
                    "anyOf",
                    "allOf",
                    "enum",
                    "minItems",
                    "maxLength",
                    "minimum",
                    "multipleOf",
                    "pattern",
                    "$ref",
                    "prefixItems",
                    "uniqueItems",
                    "additionalProperties",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(schema=_ANY)
def test_any_schema_is_written_for_or_refused(schema: object) -> None:
    fields = body(output_config={"format": {"type": "json_schema", "schema": schema}})
    try:
        call = SimulatedMessages().parse(decode(json.dumps(fields).encode()), {})
    except RefusedError:
        return
    ValueGenerator(call.schema or {}, "Prompt", RandomDraws(1)).generate()
