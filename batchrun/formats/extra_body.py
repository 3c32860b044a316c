"""Merges the additions of a job (`extra_body`) into the bodies of its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def merged(body: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with additions; nested tables are merged, too."""
    found = dict(body)
    for key, value in added.items():
        known = found.get(key)
        is_table = isinstance(known, dict) and isinstance(value, dict)
        found[key] = merged(known or {}, value) if is_table else value
    return found


def overlap(body: Mapping[str, Any], added: Mapping[str, Any]) -> str | None:
    """Return the first key (with dots) that both have, unless it is a table in both; None if there is none."""
    for key, value in added.items():
        if key not in body:
            continue
        known = body[key]
        if not (isinstance(known, dict) and isinstance(value, dict)):
            return key
        if (inner := overlap(known, value)) is not None:
            return f"{key}.{inner}"
    return None
