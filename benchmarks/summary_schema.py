"""Write docs/summary.schema.json from the table of keys in docs/summary.md, its one declaration.

python -m benchmarks.summary_schema
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PAGE, SCHEMA = DOCS / "summary.md", DOCS / "summary.schema.json"
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| (.+) \|$", re.MULTILINE)
_TYPES: dict[str, dict[str, Any]] = {
    "int": {"type": "integer", "minimum": 0},
    "float": {"type": "number"},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "bool": {"type": "boolean"},
    "str": {"type": "string"},
    "time": {"type": "string", "format": "date-time"},
    "object": {"type": "object"},
}


def documented(page: str) -> list[tuple[str, str, str]]:
    """Return key, type and meaning of each row of the table."""
    return _ROW.findall(page)


def schema_of(page: str) -> dict[str, Any]:
    """Return the JSON schema that the table declares."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "summary.json of batchrun",
        "type": "object",
        "description": "Totals of a batchrun run, over all its executions.",
    }
    for path, kind, meaning in documented(page):
        *parents, key = path.replace("[]", ".[]").split(".")
        parent = root
        for name in parents:
            parent = _inner(parent, name)
        _declare(parent, key, kind, meaning)
    return root


def _inner(schema: dict[str, Any], name: str) -> dict[str, Any]:
    if name in {"*", "[]"}:
        found: dict[str, Any] = schema[{"*": "additionalProperties", "[]": "items"}[name]]
        return found
    inner: dict[str, Any] = schema["properties"][name]
    return inner


def _declare(parent: dict[str, Any], key: str, kind: str, meaning: str) -> None:
    schema = _type(kind.removesuffix(" or absent")) | {"description": meaning}
    if key == "*":
        parent["additionalProperties"] = schema
        return
    parent.setdefault("properties", {})[key] = schema
    if not kind.endswith(" or absent"):
        parent.setdefault("required", []).append(key)


def _type(kind: str) -> dict[str, Any]:
    """Return the schema of a type, such as `int or null`, `list of float` or `as score`."""
    if kind.endswith(" or null"):
        schema = _type(kind.removesuffix(" or null"))
        return schema | {"type": [schema["type"], "null"]}
    if kind.startswith("list of "):
        return {"type": "array", "items": _type(kind.removeprefix("list of "))}
    if kind.startswith("as "):
        return {"$ref": f"#/properties/{kind.removeprefix('as ')}"}
    return dict(_TYPES[kind])


def as_text(schema: dict[str, Any]) -> str:
    """Return the schema as it is in its file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(as_text(schema_of(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")
