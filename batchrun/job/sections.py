"""The short sections of a job file: `[input]`, `[limits]`, `[batch]`, `[retry]`, `[tools]` and `[price]`."""

from __future__ import annotations

import codecs
import re
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, cast, get_args

from batchrun.errors import JobError, quoted, short
from batchrun.job.configs import (
    FLEX_RETRY,
    BatchConfig,
    InputConfig,
    LimitsConfig,
    PriceConfig,
    RetryConfig,
    Then,
    ToolsConfig,
)
from batchrun.job.overrides import with_dates
from batchrun.job.paths import absolute, check_remote, is_remote
from batchrun.job.reader import Section, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path

    from batchrun.job.configs import RequestConfig


_SECRET = re.compile(
    r"secret|token|password|credential|access_key|account_key|sas|service_account", re.IGNORECASE
)


def read_input(section: Section, base: Path, day: date | None) -> InputConfig:
    """Read the section and add its problems. Relative paths start from `base`."""
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
        section.problem(key, f"must be a single ASCII character, not {quoted(given)}")
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
            f'{quoted(given)} is not a known encoding; use a name such as "cp1252" or "utf-16"'
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
                f"{short(key)} would be stored with the run; set it in the environment instead",
            )
        if not isinstance(value, str | int | float):
            section.problem("storage_options", f"{short(key)} must be text, not {quoted(value)}")
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
    """Read the section and add its problems."""
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
        section.problem("concurrency", f'must be a whole number or "auto", not {quoted(given)}')
        return None
    return section.number("concurrency", int, 1, most=100_000)


THENS: tuple[str, ...] = get_args(Then)


def read_batch(section: Section) -> BatchConfig:
    """Read the section and add its problems."""
    default = BatchConfig()
    then = section.text("then", default.then)
    if then not in THENS:
        known = ", ".join(f'"{each}"' for each in THENS)
        hint = did_you_mean(then, THENS)
        section.problem("then", f"must be one of {known}, not {quoted(then)}{hint}")
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
    """Check that every request has a bound on its cost, as a cost cap needs. `source` is its section."""
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
                f"cannot be enforced with the tool {short(kind)}, which the provider runs and bills",
            )


MAX_PRICE = 1_000  # costs are kept in pico-dollars, in 64 bits


def read_retry(section: Section, request: RequestConfig) -> RetryConfig:
    """Read the section and add its problems."""
    is_flex = request.parameters.get("service_tier") == "flex"
    default = FLEX_RETRY if is_flex else RetryConfig()
    return RetryConfig(
        max_attempts=section.number("max_attempts", int, default.max_attempts),
        max_wait_s=section.number("max_wait_s", float, default.max_wait_s),
        timeout_s=section.number("timeout_s", float, default.timeout_s, most=86_400),
    )


def read_tools(section: Section, base: Path, request: RequestConfig) -> ToolsConfig:
    """Read the section and add its problems. Relative paths start from `base`."""
    default = ToolsConfig()
    given = section.get("module", str)
    module = section.check("module", partial(_tools_module, base, given, request), None)
    if given is None and "timeout_s" in section:
        section.problem("module", 'is missing; name a Python file, such as module = "my_tools.py"')
    return ToolsConfig(
        module=module,
        max_turns=section.number("max_turns", int, default.max_turns, most=1_000),
        timeout_s=section.number("timeout_s", float, default.timeout_s, most=86_400),
    )


def read_price(section: Section) -> PriceConfig | None:
    """Read the prices for every model, and add the problems of the section."""
    names = [each.name for each in fields(PriceConfig)]
    rates = {name: _rate(section, name) for name in names}
    if not any(name in section for name in names):
        return None
    for name in ("input", "output"):
        if name not in section:
            section.problem(name, "is missing; write it in USD per million tokens")
    share = rates["batch"]
    if share is not None and not 0 < share <= 1:
        section.problem(
            "batch",
            "must be above 0 and at most 1: the share of these prices that batches cost, such as 0.5",
        )
    return PriceConfig(
        **{**rates, "input": rates["input"] or 0.0, "output": rates["output"] or 0.0}  # type: ignore[arg-type]
    )


def read_model_prices(section: Section, problems: list[str]) -> dict[str, PriceConfig]:
    """Read the tables within `[price]`, one for each model with separate prices."""
    found = {}
    for model, table in section.tables().items():
        own = Section(f'price."{model}"', table, problems)
        price = read_price(own)
        own.finish({})
        if price is not None:
            found[model] = price
        elif not table:
            own.problem("input", "is missing; write it in USD per million tokens")
    return found


def _rate(section: Section, name: str) -> float | None:
    value = section.get(name, float)
    if value is not None and not 0 <= value <= MAX_PRICE:
        section.problem(name, f"must be from 0 to {MAX_PRICE:,} USD")
    return value


def _tools_module(base: Path, given: str | None, request: RequestConfig) -> Path | None:
    if given is None:
        return None
    path = absolute(base, given)
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"{quoted(given)} is not a Python file; expected at {path}")
    if not request.tools:
        raise ValueError("there are no tools to run; describe them in [request] tools")
    if request.parameters.get("n", 1) != 1:
        raise ValueError("[request] n must be 1: a conversation continues from a single answer")
    return path
