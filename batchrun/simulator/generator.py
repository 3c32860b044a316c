"""Generates values that satisfy a JSON Schema and refer to the prompt: structured answers, tool arguments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from batchrun.simulator.draws import sample_pattern
from batchrun.simulator.labels import rank_labels
from batchrun.simulator.prose import MARK, describe, find_topics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.simulator.draws import RandomDraws

    Schema = Mapping[str, Any]

_SHALLOW = 4  # below this depth only what is required is written
_DEEPEST = 60
_MOST_VALUES = 5_000
_MOST_CHARACTERS = 100_000  # of one text, whatever its `minLength`
_MORE_ITEMS = 2
_RANGE = 100  # of a number with one bound, or none
_MOST_STEPS = 2**53  # of a number's range: beyond, floats skip integers
_REDRAWS = 20
_FALLBACK_WORDS = ("first", "second", "third")
_LONG_TEXTS = ("summary", "description", "reason", "explanation", "comment", "text", "answer")
_FORMATS = {
    "date": "2026-0{0}-1{0}",
    "time": "1{0}:0{0}:00Z",
    "date-time": "2026-0{0}-1{0}T1{0}:00:00Z",
    "duration": "PT{0}M",
    "email": "person{0}@example.com",
    "hostname": "host{0}.example.com",
    "ipv4": "192.0.2.{0}",
    "ipv6": "2001:db8::{0}",
    "uri": "https://example.com/{0}",
    "uuid": "0000000{0}-0000-4000-8000-000000000000",
}
_HINTS = (  # of the type that a schema leaves unsaid
    ("object", ("properties", "required", "additionalProperties", "minProperties")),
    ("array", ("items", "prefixItems", "minItems", "maxItems")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)


class ValueGenerator:
    """Generates one value for a schema.

    Supported: types, enum, const, objects, arrays, bounds of all kinds, pattern, format, `$ref` within the
    schema, anyOf, oneOf, allOf. Not supported: not, if, contains, dependent schemas.

    Args:
        schema: a valid JSON Schema.
        subject: the text that the value refers to.
        draws: choose values that the schema leaves open.
        marked: whether free texts say that they are simulated.
    """

    def __init__(
        self, schema: Schema, subject: str, draws: RandomDraws, *, marked: bool = False
    ) -> None:
        self._root = schema
        self._subject = subject
        topics = find_topics(subject)
        self._topics = topics if len(topics) > 2 else [*topics, *_FALLBACK_WORDS]
        self._draws = draws
        self._mark = f"{MARK} " if marked else ""
        self._left = _MOST_VALUES

    def generate(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the value."""
        return self._value(self._root, "", 0)

    def _value(self, schema: object, name: str, depth: int, taken: Sequence[Any] = ()) -> Any:  # noqa: ANN401
        """Return a value, if possible one that is not `taken`; `name` is that of its property."""
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:  # a schema without end: no value satisfies it
            return None
        flat = self._flatten(schema if isinstance(schema, dict) else {}, depth)
        if options := [flat["const"]] if "const" in flat else flat.get("enum"):
            return self._option([each for each in options if each not in taken] or options)
        kind = self._type_of(flat)
        if kind in {"object", "array"}:
            return self._object(flat, depth) if kind == "object" else self._array(flat, name, depth)
        if kind in {"integer", "number"}:
            return self._number(flat, whole=kind == "integer")
        if kind == "string":
            return self._text(flat, name)
        return self._draws.below(2) == 1 if kind == "boolean" else None

    def _flatten(self, schema: Schema, depth: int) -> Schema:
        """Return the schema without references, alternatives and conjunctions."""
        for _ in range(_DEEPEST):
            if "$ref" in schema:
                schema = _merge(_without(schema, "$ref"), self._resolve(schema["$ref"]))
            elif parts := schema.get("allOf"):
                schema = _without(schema, "allOf")
                for part in parts:
                    schema = _merge(schema, part)
            elif branches := schema.get("anyOf") or schema.get("oneOf"):
                # Deep down a simple one, so that recursion ends.
                branch = self._draws.pick(branches) if depth < _SHALLOW else _simplest(branches)
                schema = _merge(_without(schema, "anyOf", "oneOf"), branch)
            else:
                break
        return schema

    def _resolve(self, reference: str) -> Schema:
        """Return the target of a `$ref` such as "#/$defs/item"; {} if it does not exist."""
        target: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            target = target.get(key) if isinstance(target, dict) else None
        return target if isinstance(target, dict) else {}

    def _option(self, options: list[Any]) -> Any:  # noqa: ANN401
        """Return a value of an enum; of labels, the one that the subject mentions."""
        labels = tuple(option for option in options if isinstance(option, str) and option)
        if len(labels) < 2:
            return self._draws.pick(options)
        return rank_labels(labels, self._subject, self._draws)[0]

    def _type_of(self, schema: Schema) -> str:
        kinds = schema.get("type")
        if isinstance(kinds, list):
            others = [kind for kind in kinds if kind != "null"]
            # Now and then null where it may be, or readers never learn to expect it.
            return str(self._draws.pick(others * 4 + ["null"] * (len(others) < len(kinds))))
        hinted = (kind for kind, hints in _HINTS if any(hint in schema for hint in hints))
        return kinds or next(hinted, "string")

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties: dict[str, Any] = schema.get("properties", {})
        required: list[str] = schema.get("required", [])
        optional = (name for name in properties if name not in required)
        dropped = {name for name in optional if depth >= _SHALLOW or self._draws.below(4) == 0}
        names = [name for name in properties if name not in dropped]
        names += [name for name in required if name not in properties]
        rest = schema.get("additionalProperties")
        least = int(schema.get("minProperties", isinstance(rest, dict) and not properties))
        spare = [name for name in (*properties, *self._topics) if name not in names]
        spare += [f"key_{number}" for number in range(min(least, _MOST_VALUES))]
        names += spare[: max(0, least - len(names))]
        return {name: self._value(properties.get(name, rest), name, depth + 1) for name in names}

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        first = schema.get("prefixItems", [])
        values: list[Any] = []
        for place in range(self._length(schema, len(first), depth)):
            item = first[place] if place < len(first) else schema.get("items", {})
            taken = values if schema.get("uniqueItems") else []
            drawn = (self._value(item, name, depth + 1, taken) for _ in range(_REDRAWS))
            value = next(((each,) for each in drawn if each not in taken), None)
            if value is None:  # there are no more
                break
            values += value
        return values

    def _length(self, schema: Schema, prefixed: int, depth: int) -> int:
        """Return the number of items; `prefixed` of them have schemas of their own."""
        least = min(int(schema.get("minItems", 0)), _MOST_VALUES)
        most = min(int(schema.get("maxItems", _MOST_VALUES)), _MOST_VALUES)
        if prefixed:
            return min(most, max(least, prefixed))
        if depth >= _SHALLOW:
            return least
        low = max(least, min(most, 1))
        return low + self._draws.below(max(0, min(most - low, _MORE_ITEMS)) + 1)

    def _number(self, schema: Schema, *, whole: bool) -> float:
        low, high = _bounds(schema)
        step = schema.get("multipleOf") or (1 if whole else 0.01)
        if whole and step != int(step):
            step = 1
        if max(-low, high) / step > _MOST_STEPS:
            return math.ceil(low) if whole else low
        first, last = math.ceil(low / step), math.floor(high / step)
        if last < first:  # no multiple of it lies between the bounds
            return 0 if whole else (low + high) / 2
        drawn = (first + self._draws.below(last - first + 1)) * step
        return int(drawn) if whole else round(drawn, 6)

    def _text(self, schema: Schema, name: str) -> str:
        if shape := _FORMATS.get(schema.get("format", "")):
            return shape.format(1 + self._draws.below(9))
        if pattern := schema.get("pattern"):
            drawn = sample_pattern(pattern, self._draws)
            if drawn is not None:
                return drawn
        least = min(int(schema.get("minLength", 0)), _MOST_CHARACTERS)
        most = min(int(schema.get("maxLength", _MOST_CHARACTERS)), _MOST_CHARACTERS)
        if any(hint in name.lower() for hint in _LONG_TEXTS):
            text = describe(self._topics, self._draws)
        else:
            text = " ".join(self._draws.sample(self._topics, 1 + self._draws.below(2)))
        if len(self._mark) + len(text) <= most:
            text = self._mark + text
        if len(text) < least:
            text = f"{text} " * math.ceil(least / (len(text) + 1))
        return text[:most]


def _simplest(branches: list[Any]) -> Any:  # noqa: ANN401 - a schema, or a boolean
    return min(
        branches,
        key=lambda branch: (
            isinstance(branch, dict) and ("$ref" in branch or "properties" in branch)
        ),
    )


def _bounds(schema: Schema) -> tuple[float, float]:
    """Return the least and the greatest number that a schema allows; a range of 100 by default."""
    low = max(schema.get("minimum", -math.inf), _beyond(schema.get("exclusiveMinimum"), 1))
    high = min(schema.get("maximum", math.inf), _beyond(schema.get("exclusiveMaximum"), -1))
    if low == -math.inf:
        low = 0 if high == math.inf or high > 0 else high - _RANGE
    return low, high if high < math.inf else low + _RANGE


def _beyond(bound: float | None, sign: int) -> float:
    """Return the nearest number beyond an exclusive bound that is worth drawing."""
    if bound is None:
        return -sign * math.inf
    return bound + sign * max(1e-6, abs(bound) * 1e-9)


def _without(schema: Schema, *names: str) -> Schema:
    return {name: value for name, value in schema.items() if name not in names}


def _merge(schema: Schema, other: object) -> Schema:
    """Return both schemas as one: what must hold in either, as far as this can be said simply."""
    if not isinstance(other, dict):
        return schema
    merged = {**schema, **other}
    for name in ("properties", "$defs"):
        if name in schema and name in other:
            merged[name] = {**schema[name], **other[name]}
    if "required" in schema and "required" in other:
        merged["required"] = list(dict.fromkeys([*schema["required"], *other["required"]]))
    return merged
