"""Options of the command line put into a job's document, by dotted key."""

from __future__ import annotations

import copy
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from batchrun.errors import JobError
from batchrun.job.configs import (
    InputConfig,
    LimitsConfig,
    OutputConfig,
    RetryConfig,
    ScoreConfig,
    ToolsConfig,
)
from batchrun.job.request import TEXT_SOURCES
from batchrun.sections import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTIONS = ("input", "request", "tools", "limits", "retry", "output", "price", "score")
TOP_KEYS = ("name", "date")
MATRIX = "matrix"

# Of these, an override takes the place of the others.
_ALTERNATIVES = ((*TEXT_SOURCES, "prompt_file"), ("system", "system_file"))

_PARTS = re.compile(r'"([^"]+)"|([^.]+)')


def apply_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the document with dotted keys replaced.

    A key without a section (`temperature`) is looked up in `[request]` unless it is a section's
    own. A prompt takes the place of whatever gave the prompt before, and a value that of the list
    that `[matrix]` has for its key: then the cells with that value are left.

    Raises:
        JobError: when a dotted key names no section.
    """
    changed = copy.deepcopy(dict(document))
    for dotted, value in overrides.items():
        *tables, key = _place(dotted)
        target = changed
        for name in tables:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise JobError(f"--set {dotted}: {name} is not a table in the job file")
        if tables == ["request"]:
            given = {_place(name)[-1] for name in overrides}
            for other in _alternatives(key) - given:
                target.pop(other, None)
            _narrow(changed, key, value)
        target[key] = value
    return changed


def _narrow(document: dict[str, Any], key: str, value: object) -> None:
    matrix = document.get(MATRIX)
    if not isinstance(matrix, dict):
        return
    if key in matrix:
        matrix[key] = [value]
    for other in _alternatives(key) - {key}:
        matrix.pop(other, None)
    if not matrix:
        del document[MATRIX]


def _alternatives(key: str) -> set[str]:
    return {other for group in _ALTERNATIVES if key in group for other in group}


def _place(dotted: str) -> list[str]:
    """Return the tables and the key that an override names."""
    # A part in quotes may hold dots, such as the model in price."gpt-4.1".input.
    parts = [quoted or bare for quoted, bare in _PARTS.findall(dotted)]
    if len(parts) == 1 and dotted not in TOP_KEYS:
        parts = [_section_of(dotted), dotted]
    section = parts[0]
    if len(parts) > 1 and section not in {*SECTIONS, MATRIX}:
        hint = did_you_mean(section, (*SECTIONS, MATRIX))
        raise JobError(f"--set {dotted}: there is no section [{section}]{hint}")
    return parts


def _section_of(key: str) -> str:
    homes: dict[str, type[Any]] = {
        "input": InputConfig,
        "limits": LimitsConfig,
        "retry": RetryConfig,
        "output": OutputConfig,
        "tools": ToolsConfig,
        "score": ScoreConfig,
    }
    for section, config in homes.items():
        if key in {field.name for field in fields(config)}:
            return section
    return "request"
