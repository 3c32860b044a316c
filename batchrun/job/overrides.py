"""Applies options of the command line to a job's document, by dotted key."""

from __future__ import annotations

import copy
import re
from dataclasses import fields
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from batchrun.errors import JobError, quoted, short
from batchrun.job.configs import (
    BatchConfig,
    InputConfig,
    LimitsConfig,
    OutputConfig,
    RetryConfig,
    ScoreConfig,
    ToolsConfig,
)
from batchrun.job.reader import did_you_mean, listed
from batchrun.job.texts import TEXT_SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchrun.job.reader import Section


SECTIONS = ("input", "request", "tools", "limits", "retry", "batch", "output", "price", "score")
TOP_KEYS = ("name", "date")
MATRIX = "matrix"
SCORE = "score"  # a table, or several with a name each

# Of these, an override takes the place of the others.
_ALTERNATIVES = ((*TEXT_SOURCES, "prompt_file"), ("system", "system_file"))

_PARTS = re.compile(r'"([^"]+)"|([^.]+)')


def apply_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the document with dotted keys replaced.

    A key without a section (`temperature`) belongs to `[request]`, unless another section has such a key. A
    prompt replaces every key that gave the prompt before. A value replaces the list that `[matrix]` has for
    its key, which leaves only the cells with that value.

    Raises:
        JobError: when a dotted key names no section.
    """
    changed = copy.deepcopy(dict(document))
    for dotted, value in overrides.items():
        *tables, key = _place(dotted)
        target = _table(changed, tables, dotted)
        if tables == ["request"]:
            # Keys that are given together do not replace each other.
            given = {_place(name)[-1] for name in overrides}
            for other in _alternatives(key) - given:
                target.pop(other, None)
            _narrow(changed, key, value)
        target[key] = value
    return changed


def _table(document: dict[str, Any], tables: Sequence[str], dotted: str) -> dict[str, Any]:
    """Return the table of a dotted key; if there are several scorers, the one that the key names."""
    target: Any = document
    for name in tables:
        if isinstance(target, list):
            target = _named_scorer(target, name, dotted)
        else:
            target = target.setdefault(name, {})
        if not isinstance(target, dict | list):
            raise JobError(f"--set {short(dotted)}: {short(name)} is not a table in the job file")
    if isinstance(target, list):
        names = listed(str(one.get("name", "")) for one in target if isinstance(one, dict))
        raise JobError(
            f"--set {short(dotted)}: there are several [[{tables[-1]}]]; write --set "
            f"{tables[-1]}.NAME.{dotted.rpartition('.')[2]}=… with one of the names {names}"
        )
    found: dict[str, Any] = target
    return found


def _named_scorer(scorers: Sequence[Any], name: str, dotted: str) -> dict[str, Any]:
    for one in scorers:
        if isinstance(one, dict) and one.get("name") == name:
            return one
    raise JobError(f"--set {short(dotted)}: there is no [[score]] with name = {quoted(name)}")


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
        raise JobError(f"--set {short(dotted)}: there is no section [{short(section)}]{hint}")
    return parts


def short_keys(dotted: Iterable[str]) -> list[str]:
    """Return those of the dotted keys that `--set` accepts without their section."""
    pairs = (name.split(".") for name in dotted)
    return sorted({key for section, key in pairs if _section_of(key) == section} | {*TOP_KEYS})


def _section_of(key: str) -> str:
    homes: dict[str, type[Any]] = {
        "input": InputConfig,
        "limits": LimitsConfig,
        "retry": RetryConfig,
        "batch": BatchConfig,
        "output": OutputConfig,
        "tools": ToolsConfig,
        "score": ScoreConfig,
    }
    for section, config in homes.items():
        if key in {field.name for field in fields(config)}:
            return section
    return "request"


KEYS = (("output", "dir"), ("input", "path"), ("input", "where"))
NAMES = ("today", "yesterday", "week", "month", "year")

_TEMPLATE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def settled(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's document with its date, if it depends on one."""
    today = {"date": local_today().isoformat()} if has_dates(document) else {}
    return {**today, **document}


def read_date(section: Section) -> date | None:
    """Return the date of the job; None if nothing depends on it."""
    given = section.raw("date")
    if given is None or type(given) is date:
        return given
    try:
        return date.fromisoformat(given)
    except (TypeError, ValueError):
        section.problem("date", f"must be a date, such as 2026-11-20, not {quoted(given)}")
        return None


def has_dates(document: Mapping[str, Any]) -> bool:
    """Return whether a job depends on the date."""
    return any(
        isinstance(section := document.get(name), dict)
        and isinstance(text := section.get(key), str)
        and _TEMPLATE.search(text)
        for name, key in KEYS
    )


def local_today() -> date:
    """Return the date in the time zone of this machine, which `TZ` can set."""
    return datetime.now().astimezone().date()


def with_dates(text: str, day: date | None) -> str:
    """Return the text with its dates filled in; without a date, that of today.

    Raises:
        ValueError: if an expression is not a date.
    """
    day = day or local_today()
    year, week, _ = day.isocalendar()
    values = {
        "today": day.isoformat(),
        "yesterday": (day - timedelta(days=1)).isoformat(),
        "week": f"{year}-W{week:02d}",
        "month": f"{day:%Y-%m}",
        "year": f"{day:%Y}",
    }

    def fill(match: re.Match[str]) -> str:
        name = match.group(1).strip()
        if name not in values:
            known = ", ".join(f"{{{{ {each} }}}}" for each in NAMES)
            raise ValueError(
                f"unknown date {{{{ {short(name, 40)} }}}}{did_you_mean(name, NAMES)}; use one of {known}"
            )
        return values[name]

    return _TEMPLATE.sub(fill, text)
