"""The sections `[input]` and `[limits]` of a job file."""

from __future__ import annotations

import codecs
import re
from functools import partial
from typing import TYPE_CHECKING, Any, cast, get_args

from batchrun.errors import JobError
from batchrun.job.configs import BatchConfig, InputConfig, LimitsConfig, Then
from batchrun.job.overrides import with_dates
from batchrun.job.paths import absolute, check_remote, is_remote
from batchrun.job.reader import Section, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path

    from batchrun.job.configs import RequestConfig
    from batchrun.records import AnswerSchema


_SECRET = re.compile(
    r"secret|token|password|credential|access_key|account_key|sas|service_account", re.IGNORECASE
)


def read_input(section: Section, base: Path, day: date | None) -> InputConfig:
    """Read the section; what is wrong goes to its problems. Paths start at `base`."""
    given = section.check("path", partial(with_dates, section.text("path"), day), "")
    if not given.strip() and not str(section.raw("path") or "").strip():
        section.problem("path", 'is missing; name the table, such as path = "../data.csv"')
    return InputConfig(
        path=section.check("path", partial(_place, base, given), str(base)),
        pattern=None if (raw := section.raw("path")) == given else str(raw),
        id=section.get("id", str),
        limit=section.number("limit", int, 0, most=MOST_ROWS) or None,
        where=_read_where(section, day),
        storage_options=_read_storage_options(section, given),
        separator=_read_character(section, "separator"),
        quote=_read_character(section, "quote", may_be_empty=True),
        escape=_read_character(section, "escape"),
        encoding=section.check("encoding", partial(_encoding, section.get("encoding", str)), None),
        sheet=section.get("sheet", str),
    )


def table_input(path: Path, overrides: Mapping[str, Any]) -> InputConfig:
    """Return the input of a table without a job file.

    Args:
        path: the table.
        overrides: dotted keys and their values; those of `[input]` say how to read it.

    Raises:
        JobError: when one of them is wrong.
    """
    given = {
        name: value
        for key, value in overrides.items()
        if (name := key.removeprefix("input.")) != key
    }
    problems: list[str] = []
    section = Section("input", {"path": str(path.resolve()), **given}, problems)
    config = read_input(section, path.resolve().parent, None)
    if problems:
        raise JobError("\n".join(f"{path}: {problem}" for problem in problems))
    return config


def _read_character(section: Section, key: str, *, may_be_empty: bool = False) -> str | None:
    """Read a key of one ASCII character."""
    given = section.get(key, str)
    if given is None or (given == "" and may_be_empty):
        return given
    if len(given) != 1 or not given.isascii() or given in "\r\n\0":
        section.problem(key, f"must be a single ASCII character, not {given!r:.80}")
        return None
    return given


def _encoding(given: str | None) -> str | None:
    """Return the name of an encoding of text.

    Raises:
        ValueError: when Python does not know it.
    """
    if given is None:
        return None
    try:
        return codecs.lookup(given).name if "".encode(given) is not None else None
    except (LookupError, ValueError):
        raise ValueError(
            f'{given!r:.80} is not a known encoding; use a name such as "cp1252" or "utf-16"'
        ) from None


MOST_ROWS = 10**12


def _place(base: Path, given: str) -> str:
    return check_remote(given) if is_remote(given) else str(absolute(base, given))


def _read_storage_options(section: Section, path: str) -> dict[str, str | int | float]:
    given = section.table("storage_options")
    if given and not is_remote(path):
        section.problem("storage_options", "needs a cloud path, such as s3://…; remove it")
    for key, value in given.items():
        if _SECRET.search(key):
            section.problem(
                "storage_options",
                f"{key:.80} would be stored with the run; set it in the environment instead",
            )
        if not isinstance(value, str | int | float):
            section.problem("storage_options", f"{key:.80} must be text, not {value!r:.80}")
    # true and false are words there.
    return {k: str(v).lower() if isinstance(v, bool) else v for k, v in given.items()}


def _read_where(section: Section, day: date | None) -> str | None:
    given = section.get("where", str)
    if given is None:
        return None
    if not given.strip():
        section.problem("where", "is empty; remove it to use every row")
    return section.check("where", partial(with_dates, given, day), None)


MOST_COST_USD = 1_000_000.0
# What of a body passed through untouched could make a request dearer than its bound.
COST_KEYS = {
    *("max_tokens", "max_completion_tokens", "n", "best_of", "service_tier", "tools"),
    *("speed", "inference_geo", "web_search_options", "search_parameters", "plugins"),
    *("models", "modalities"),
}
SERVER_TOOLS = ("web_search", "web_fetch", "code_execution")
RATE_KEYS = (
    "requests_per_minute",
    "tokens_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
)


def read_limits(section: Section) -> LimitsConfig:
    """Read the section; what is wrong goes to its problems."""
    default = LimitsConfig()
    rates = {key: section.number(key, float, 0.0) or None for key in RATE_KEYS}
    return LimitsConfig(
        concurrency=_read_concurrency(section),
        max_errors=section.number("max_errors", float, default.max_errors),
        max_cost_usd=section.number("max_cost_usd", float, 0.0, most=MOST_COST_USD) or None,
        **rates,
    )


def _read_concurrency(section: Section) -> int | None:
    given = section.raw("concurrency")
    if given == "auto" or given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int):
        section.problem("concurrency", f'must be a whole number or "auto", not {given!r:.80}')
        return None
    return section.number("concurrency", int, 1, most=100_000)


THENS: tuple[str, ...] = get_args(Then)


def read_batch(section: Section) -> BatchConfig:
    """Read the section; what is wrong goes to its problems."""
    default = BatchConfig()
    then = section.text("then", default.then)
    if then not in THENS:
        known = ", ".join(f'"{each}"' for each in THENS)
        hint = did_you_mean(then, THENS)
        section.problem("then", f"must be one of {known}, not {then!r:.80}{hint}")
        then = default.then
    return BatchConfig(
        max_rows=section.number("max_rows", int, default.max_rows),
        max_mb=section.number("max_mb", float, default.max_mb),
        enqueued_tokens=section.number("enqueued_tokens", int, 0) or None,
        then=cast("Then", then),
        poll_s=section.number("poll_s", float, default.poll_s, most=3_600),
        doubt_s=section.number("doubt_s", float, default.doubt_s, most=3_600),
    )


def check_cap(
    section: Section, limits: LimitsConfig, request: RequestConfig, source: str = "request"
) -> None:
    """A cap on the cost needs a bound on the cost of every request. `source` is the request's section."""
    if limits.max_cost_usd is None:
        return
    for key in sorted(COST_KEYS & request.extra_body.keys()):
        section.problem(
            "max_cost_usd",
            f"cannot be enforced with [{source}] extra_body {key}, which changes the cost",
        )
    if "max_tokens" not in {*request.parameters, *request.from_columns}:
        section.problem(
            "max_cost_usd",
            f"needs [{source}] max_tokens: without it, the cost of an answer has no limit",
        )
    for tool in request.tools:
        kind = str((tool.vendor or {}).get("type", ""))
        if kind.startswith(SERVER_TOOLS):
            section.problem(
                "max_cost_usd",
                f"cannot be enforced with the tool {kind}, which the provider runs and bills",
            )


def read_unnest(section: Section, answer: AnswerSchema | None) -> Mapping[str, Any]:
    """Return the properties of the answer's schema that become columns, by name."""
    if not section.get("unnest", bool):
        return {}
    schema = (answer.schema if answer else None) or {}
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        section.problem("unnest", "needs a [request] json_schema with properties")
        return {}
    definitions = {
        f"#/{key}/{name}": one
        for key in ("$defs", "definitions")
        for name, one in (schema.get(key) or {}).items()
    }
    return {name: _defined(one, definitions) for name, one in properties.items()}


def _defined(schema: Any, definitions: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the schema that a property refers to, directly or as one of several."""
    if not isinstance(schema, dict):
        return schema
    if "anyOf" in schema and isinstance(schema["anyOf"], list):
        return {**schema, "anyOf": [_defined(one, definitions) for one in schema["anyOf"]]}
    if "items" in schema:
        return {**schema, "items": _defined(schema["items"], definitions)}
    return definitions.get(str(schema.get("$ref")), schema)
