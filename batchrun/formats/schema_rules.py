"""Which JSON schemas a provider enforces: the subsets of OpenAI's strict mode and of Claude's structured outputs.

It reports only what is certain to be refused. Facts are from the vendors' documentation and the errors of their
APIs (November 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrun.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENAI_UNSUPPORTED = frozenset(
    {"allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas"}
)
_CLAUDE_UNSUPPORTED = frozenset(
    {
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "maxItems", "uniqueItems", "oneOf"),
    }
)
_MOST_OPENAI_PROPERTIES, _MOST_OPENAI_ENUM_VALUES = 5_000, 1_000
# Keywords with one schema, a list of schemas, and schemas by name.
_ONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_SEVERAL = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
_NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")


@dataclass(frozen=True, slots=True)
class SchemaRules:
    """The subset of JSON Schema that a vendor enforces.

    Attributes:
        vendor: name of the vendor, for messages.
        unsupported: keywords that are refused.
        needs_required: whether every property must be required.
        is_rooted: whether the whole schema must be an object, with `anyOf` only inside it.
        is_recursive: whether a schema may refer to itself.
        most_properties: maximum in the whole schema; None for no limit.
        most_enum_values: maximum in the whole schema; None for no limit.
        is_optional: whether `strict = false` turns the rules off.
        otherwise: how to send a schema without these rules, for messages.
    """

    vendor: str
    unsupported: frozenset[str]
    needs_required: bool = False
    is_rooted: bool = False
    is_recursive: bool = True
    most_properties: int | None = None
    most_enum_values: int | None = None
    is_optional: bool = False
    otherwise: str = ""

    def problems(self, schema: Mapping[str, Any]) -> Iterator[str]:
        """Yield the problems for which the vendor refuses a schema: path, problem and fix."""
        yield from self._problems_of_whole(schema)
        for path, part in parts(schema):
            where = f"{path}: " if path else ""
            yield from (f"{where}{problem}" for problem in self._problems_of_part(part))

    def _problems_of_whole(self, schema: Mapping[str, Any]) -> Iterator[str]:
        if self.is_rooted and (schema.get("type") != "object" or "anyOf" in schema):
            yield 'the whole schema must have type = "object" and no anyOf; put it in a property'
        if not self.is_recursive and (name := _recursion(schema)) is not None:
            yield f"{name} refers to itself, which {self.vendor} does not support; limit the depth"
        found = [part for _, part in parts(schema)]
        properties = sum(len(_table(part.get("properties"))) for part in found)
        values = sum(len(part["enum"]) for part in found if isinstance(part.get("enum"), list))
        if self.most_properties is not None and properties > self.most_properties:
            yield f"has {properties:,} properties; {self.vendor} takes {self.most_properties:,}"
        if self.most_enum_values is not None and values > self.most_enum_values:
            yield f"has {values:,} enum values; {self.vendor} takes {self.most_enum_values:,}"

    def _problems_of_part(self, part: Mapping[str, Any]) -> Iterator[str]:
        for keyword in sorted(self.unsupported & part.keys()):
            yield f"{self.vendor} does not support {keyword}; {_instead(keyword)}"
        if not self.is_recursive:
            yield from _problems_of_claude(part)
        if not _is_object(part):
            return
        if part.get("additionalProperties") is not False:
            yield "an object needs additionalProperties = false"
        if self.needs_required:
            yield from _problems_of_required(part)


OPENAI_SCHEMAS = SchemaRules(
    "OpenAI",
    _OPENAI_UNSUPPORTED,
    needs_required=True,
    is_rooted=True,
    most_properties=_MOST_OPENAI_PROPERTIES,
    most_enum_values=_MOST_OPENAI_ENUM_VALUES,
    is_optional=True,
    otherwise="strict = false",
)
CLAUDE_SCHEMAS = SchemaRules(
    "Claude", _CLAUDE_UNSUPPORTED, is_recursive=False, otherwise='json_schema_as = "tool"'
)


def parts(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a schema and all schemas in it, each with its path, such as `properties.price`."""
    yield path, schema
    for name, part in _children(schema):
        yield from parts(part, f"{path}.{name}" if path else name)


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for keyword in _ONE:
        if isinstance(part := schema.get(keyword), Mapping):
            yield keyword, part
    for keyword in _SEVERAL:
        if isinstance(several := schema.get(keyword), list):
            for number, part in enumerate(several):
                if isinstance(part, Mapping):
                    yield f"{keyword}[{number}]", part
    for keyword in _NAMED:
        for name, part in _table(schema.get(keyword)).items():
            if isinstance(part, Mapping):
                yield f"{keyword}.{name}", part


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_object(part: Mapping[str, Any]) -> bool:
    kind = part.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _instead(keyword: str) -> str:
    if keyword == "oneOf":
        return "write anyOf"
    return "remove it, and say in description what is meant"


def _problems_of_required(part: Mapping[str, Any]) -> Iterator[str]:
    properties, required = _table(part.get("properties")), part.get("required")
    given = required if isinstance(required, list) else []
    missing = [name for name in properties if name not in given]
    if missing:
        yield (
            f"required must list every property, also {', '.join(missing)}; for one that may be "
            'missing, write type = ["string", "null"] or the like'
        )
    if extra := [str(name) for name in given if name not in properties]:
        yield f"required lists {', '.join(extra)}, which is not one of the properties"


def _problems_of_claude(part: Mapping[str, Any]) -> Iterator[str]:
    least = part.get("minItems")
    if least is not None and least not in (0, 1):
        yield f"Claude supports minItems of 0 and 1, not {quoted(least, 20)}; {_instead('minItems')}"
    values = part.get("enum")
    if isinstance(values, list) and any(isinstance(value, list | dict) for value in values):
        yield "an enum can have texts, numbers, true, false and null only"
    reference = part.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        yield f"$ref must start with #, not {quoted(reference)}; put the definition in $defs"


def _recursion(schema: Mapping[str, Any]) -> str | None:
    """Return a definition that refers to itself, directly or through others; None if there is none."""
    definitions = {
        f"#/{keyword}/{name}": part
        for keyword in ("$defs", "definitions")
        for name, part in _table(schema.get(keyword)).items()
        if isinstance(part, Mapping)
    }
    named = {"#": schema, **definitions}
    uses = {name: _references(part) & named.keys() for name, part in named.items()}
    for start in named:
        seen: set[str] = set()
        ahead = list(uses[start])
        while ahead:
            if (name := ahead.pop()) not in seen:
                seen.add(name)
                ahead += uses[name]
        if start in seen:
            return "the whole schema" if start == "#" else start.removeprefix("#/")
    return None


def _references(schema: Mapping[str, Any]) -> set[str]:
    return {ref for _, part in parts(schema) if isinstance(ref := part.get("$ref"), str)}


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema in which objects have all their properties and no others.

    A property that was not required may be null instead. So both vendors enforce the schema. Objects that
    define `additionalProperties` stay open.
    """
    found = {name: _closed_keyword(name, value) for name, value in schema.items()}
    properties = _table(found.get("properties"))
    if not _is_object(found) or "additionalProperties" in schema:
        return found
    given = schema.get("required")
    required = given if isinstance(given, list) else []
    found["properties"] = {
        name: part if name in required else _nullable(part) for name, part in properties.items()
    }
    return {**found, "required": list(properties), "additionalProperties": False}


def _closed_keyword(keyword: str, value: object) -> object:
    if keyword in _NAMED:
        parts_of = _table(value)
        return {name: _closed_part(part) for name, part in parts_of.items()}
    if keyword in _SEVERAL and isinstance(value, list):
        return [_closed_part(part) for part in value]
    return _closed_part(value) if keyword in _ONE else value


def _closed_part(part: object) -> object:
    return closed(part) if isinstance(part, Mapping) else part


def _nullable(part: object) -> object:
    """Return a schema that accepts null, too."""
    if not isinstance(part, Mapping):
        return part
    plain = {name: value for name, value in part.items() if name != "default"}
    kind = plain.get("type")
    if "enum" not in plain and "const" not in plain:
        if isinstance(kind, str):
            return plain if kind == "null" else {**plain, "type": [kind, "null"]}
        if isinstance(kind, list):
            return plain if "null" in kind else {**plain, "type": [*kind, "null"]}
    if any(_table(each).get("type") == "null" for each in plain.get("anyOf") or ()):
        return plain
    return {"anyOf": [plain, {"type": "null"}]}
