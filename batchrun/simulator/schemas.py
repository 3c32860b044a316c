"""Values that satisfy a JSON Schema and speak of the prompt: structured answers, tool arguments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from batchrun.simulator.labels import rank_labels
from batchrun.simulator.patterns import sample_pattern
from batchrun.simulator.prose import MARK, find_topics, talk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.simulator.dice import Dice

    Schema = Mapping[str, Any]

_SHALLOW = 4  # below this depth only what is required is written
_DEEPEST = 60
_MOST_VALUES = 5_000
_MORE_ITEMS = 2
_SPREAD = 100  # of a number with one bound, or none
_REDRAWS = 20
_FALLBACK_WORDS = ("first", "second", "third")
_LONG_TEXTS = ("summary", "description", "reason", "explanation", "comment", "text", "answer")
_FORMATS = {
    "date": "2026-0{0}-1{0}",
    "time": "1{0}:0{0}:00Z",
    "date-time": "2026-0{0}-1{0}T1{0}:00:00Z",
    "duration": "PT{0}M",
    "email": "person{0}@example.com",
    "idn-email": "person{0}@example.com",
    "hostname": "host{0}.example.com",
    "ipv4": "192.0.2.{0}",
    "ipv6": "2001:db8::{0}",
    "uri": "https://example.com/{0}",
    "uri-reference": "/{0}",
    "iri": "https://example.com/{0}",
    "uuid": "0000000{0}-0000-4000-8000-000000000000",
}
_HINTS = (  # of the type that a schema leaves unsaid
    ("object", ("properties", "required", "additionalProperties", "minProperties")),
    ("array", ("items", "prefixItems", "minItems", "maxItems")),
    ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
)


class SchemaWriter:
    """Writes one value for a schema.

    Known: types, enum, const, objects, arrays, bounds of all kinds, pattern, format, `$ref` into the
    schema, anyOf, oneOf, allOf. Not known: not, if, contains, dependent schemas.

    Args:
        root: the whole schema, which `$ref` points into.
        prompt: what the value speaks of.
        dice: draws what the schema leaves open.
        marked: free texts say that they are simulated.
    """

    def __init__(self, root: Schema, prompt: str, dice: Dice, *, marked: bool = False) -> None:
        self._root = root
        self._prompt = prompt
        topics = find_topics(prompt)
        self._topics = topics if len(topics) > 2 else [*topics, *_FALLBACK_WORDS]
        self._dice = dice
        self._mark = f"{MARK} " if marked else ""
        self._left = _MOST_VALUES

    def write(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the value."""
        return self._value(self._root, "", 0)

    def _value(self, schema: object, name: str, depth: int) -> Any:  # noqa: ANN401
        """Return a value; `name` is that of its property."""
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:  # a schema without end: no value satisfies it
            return None
        flat = self._flatten(schema if isinstance(schema, dict) else {}, depth)
        if "const" in flat:
            return flat["const"]
        if options := flat.get("enum"):
            return self._option(options)
        return self._typed(flat, name, depth)

    def _typed(self, schema: Schema, name: str, depth: int) -> Any:  # noqa: ANN401
        """Return a value for a schema that says no more than a type and its bounds."""
        value: Any = None
        match self._type_of(schema):
            case "object":
                value = self._object(schema, depth)
            case "array":
                value = self._array(schema, name, depth)
            case "integer":
                value = self._integer(schema)
            case "number":
                value = self._number(schema)
            case "boolean":
                value = self._dice.below(2) == 1
            case "string":
                value = self._text(schema, name)
        return value

    def _flatten(self, schema: Schema, depth: int) -> Schema:
        """Return the schema without references, alternatives and conjunctions."""
        for _ in range(_DEEPEST):
            if "$ref" in schema:
                found = self._resolve(schema["$ref"])
                schema = _merge(_without(schema, "$ref"), found)
            elif parts := schema.get("allOf"):
                schema = _without(schema, "allOf")
                for part in parts:
                    schema = _merge(schema, part)
            elif branches := schema.get("anyOf") or schema.get("oneOf"):
                branch = self._branch(branches, depth)
                schema = _merge(_without(schema, "anyOf", "oneOf"), branch)
            else:
                break
        return schema

    def _resolve(self, reference: object) -> Schema:
        """Return what a `$ref` such as "#/$defs/item" points to; {} when it leads nowhere."""
        target: Any = self._root
        for step in str(reference).removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            target = target.get(key) if isinstance(target, dict) else None
        return target if isinstance(target, dict) else {}

    def _branch(self, branches: list[Any], depth: int) -> Any:  # noqa: ANN401
        """Return one alternative; deep down a simple one, so that recursion ends."""
        if depth < _SHALLOW:
            return self._dice.pick(branches)
        return min(branches, key=lambda branch: "$ref" in branch or "properties" in branch)

    def _option(self, options: list[Any]) -> Any:  # noqa: ANN401
        """Return one of an enum: of labels the one that the prompt speaks of."""
        labels = tuple(option for option in options if isinstance(option, str) and option)
        if len(labels) < 2:
            return self._dice.pick(options)
        return rank_labels(labels, self._prompt, self._dice)[0]

    def _type_of(self, schema: Schema) -> str:
        kinds = schema.get("type")
        if isinstance(kinds, list) and kinds:
            said = [kind for kind in kinds if kind != "null"]
            # Now and then null where it may be, or readers never learn to expect it.
            return str(self._dice.pick(said * 4 + ["null"] * (len(said) < len(kinds))))
        if isinstance(kinds, str):
            return kinds
        hinted = (kind for kind, hints in _HINTS if any(hint in schema for hint in hints))
        return next(hinted, "string")

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties: dict[str, Any] = schema.get("properties") or {}
        needed = list(schema.get("required") or ())
        names = [name for name in properties if name in needed or self._wants(depth)]
        names += [name for name in needed if name not in properties]
        rest = schema.get("additionalProperties")
        least = int(schema.get("minProperties") or isinstance(rest, dict) and not properties)
        spare = [name for name in (*properties, *self._topics) if name not in names]
        spare += [f"key_{number}" for number in range(least)]
        names += spare[: max(0, least - len(names))]
        return {name: self._value(properties.get(name, rest), name, depth + 1) for name in names}

    def _wants(self, depth: int) -> bool:
        """Tell whether to write what may be left out."""
        return depth < _SHALLOW and self._dice.below(4) > 0

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        first = schema.get("prefixItems") or []
        values: list[Any] = []
        for place in range(self._length(schema, len(first), depth)):
            item = first[place] if place < len(first) else schema.get("items", {})
            value = self._value(item, name, depth + 1)
            if schema.get("uniqueItems") and value in values:
                value = self._another(item, name, depth + 1, values)
                if value in values:  # there are no more
                    break
            values.append(value)
        return values

    def _length(self, schema: Schema, prefixed: int, depth: int) -> int:
        """Return how many items to write; `prefixed` is how many have schemas of their own."""
        least, most = int(schema.get("minItems", 0)), int(schema.get("maxItems", _MOST_VALUES))
        if prefixed:
            return min(most, max(least, prefixed))
        low = max(least, min(most, 1 if depth < _SHALLOW else 0))
        more = min(most - low, _MORE_ITEMS if depth < _SHALLOW else 0)
        return low + self._dice.below(max(0, more) + 1)

    def _another(self, schema: Any, name: str, depth: int, but: list[Any]) -> Any:  # noqa: ANN401
        """Return a value that is none of `but`, if one is found."""
        options = schema.get("enum") if isinstance(schema, dict) else None
        if options:
            return next((option for option in options if option not in but), but[0])
        value = but[0]
        for _ in range(_REDRAWS):
            if value not in but:
                break
            value = self._value(schema, name, depth)
        return value

    def _integer(self, schema: Schema) -> int:
        step = float(schema.get("multipleOf", 1))
        whole = int(step) if step.is_integer() else 1
        low, high = _bounds(schema)
        return (self._multiple(low, high, whole) or 0) * whole

    def _number(self, schema: Schema) -> float:
        low, high = _bounds(schema)
        step = schema.get("multipleOf") or 0.01
        multiple = self._multiple(low, high, step)
        return (low + high) / 2 if multiple is None else round(multiple * step, 6)

    def _multiple(self, low: float, high: float, step: float) -> int | None:
        """Draw which multiple of `step` to take between the bounds; None when there is none."""
        first, last = math.ceil(low / step), math.floor(high / step)
        return None if last < first else first + self._dice.below(last - first + 1)

    def _text(self, schema: Schema, name: str) -> str:
        shape = _FORMATS.get(str(schema.get("format")))
        if shape:
            return shape.format(1 + self._dice.below(9))
        if pattern := schema.get("pattern"):
            drawn = sample_pattern(str(pattern), self._dice)
            if drawn is not None:
                return drawn
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        if any(hint in name.lower() for hint in _LONG_TEXTS):
            text = talk(self._topics, [], "", self._dice).removeprefix(f"{MARK} ")
        else:
            text = " ".join(self._dice.sample(self._topics, 1 + self._dice.below(2)))
        if most is None or len(self._mark) + len(text) <= most:
            text = self._mark + text
        if len(text) < least:
            text = f"{text} " * math.ceil(least / (len(text) + 1))
        return text[:most] if most is not None else text


def _bounds(schema: Schema) -> tuple[float, float]:
    """Return the least and the greatest number that a schema allows, both inclusive."""
    # A margin below our step, above the error of a float, keeps exclusive bounds out.
    low = max(
        schema.get("minimum", -math.inf),
        _margin(schema.get("exclusiveMinimum"), 1),
    )
    high = min(
        schema.get("maximum", math.inf),
        _margin(schema.get("exclusiveMaximum"), -1),
    )
    if low == -math.inf:
        low = 0 if high == math.inf or high > 0 else high - _SPREAD
    return low, high if high < math.inf else low + _SPREAD


def _margin(bound: object, sign: int) -> float:
    if isinstance(bound, bool) or not isinstance(bound, int | float):
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
