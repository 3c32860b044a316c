"""Refuses schemas that are none, before anything is written for them."""

from __future__ import annotations

from typing import Any

from batchrun.simulator.fields import encode, invalid

_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_SIZES = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_MOST = 100_000  # of a size: nobody waits for a longer answer
_NAMED = ("properties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")


def check_schema(schema: object, path: str) -> dict[str, Any]:
    """Return the schema, an object. `path` is where the request holds it."""
    if not isinstance(schema, dict):
        invalid(path, "expected a JSON Schema, which is an object.")
    encode(schema, path)  # bounds its depth
    _check(schema, path)
    return schema


def _check(schema: object, path: str) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        invalid(path, "expected a JSON Schema.")
    _check_type(schema, path)
    _check_values(schema, path)
    for name in _NAMED:
        inner = schema.get(name, {})
        if not isinstance(inner, dict):
            invalid(f"{path}.{name}", "expected an object of schemas.")
        for key, each in inner.items():
            _check(each, f"{path}.{name}.{key}")
    for name in _LISTED:
        listed = schema.get(name, [True])
        if not isinstance(listed, list) or not listed:
            invalid(f"{path}.{name}", "expected a list of schemas.")
        for place, each in enumerate(listed):
            _check(each, f"{path}.{name}.{place}")
    for name in _SINGLE:
        _check(schema.get(name, True), f"{path}.{name}")


def _check_type(schema: dict[str, Any], path: str) -> None:
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    known = isinstance(kinds, list) and all(
        isinstance(kind, str) and kind in _TYPES for kind in kinds
    )
    if not known:
        invalid(f"{path}.type", f"expected one of {', '.join(sorted(_TYPES))}, or a list of them.")


def _check_values(schema: dict[str, Any], path: str) -> None:
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        invalid(f"{path}.required", "expected a list of property names.")
    options = schema.get("enum", [None])
    if not isinstance(options, list) or not options:
        invalid(f"{path}.enum", "expected a list that is not empty.")
    for name in _NUMBERS:
        bound = schema.get(name, 1)
        if not isinstance(bound, int | float) or isinstance(bound, bool):
            invalid(f"{path}.{name}", "expected a number.")
    if schema.get("multipleOf", 1) <= 0:
        invalid(f"{path}.multipleOf", "expected a number above 0.")
    for name in _SIZES:
        size = schema.get(name, 0)
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MOST:
            invalid(f"{path}.{name}", f"expected an integer from 0 to {_MOST}.")
