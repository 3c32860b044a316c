"""The sections `[input]` and `[limits]` of a job file."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from batchrun.job.configs import InputConfig, LimitsConfig
from batchrun.job.overrides import with_dates
from batchrun.job.paths import absolute, check_remote, is_remote

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from batchrun.job.configs import RequestConfig
    from batchrun.job.reader import Section


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
        id=section.get("id", str),
        limit=section.number("limit", int, 0) or None,
        where=_read_where(section, day),
        storage_options=_read_storage_options(section, given),
    )


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


def check_cap(section: Section, limits: LimitsConfig, request: RequestConfig) -> None:
    """A cap on the cost needs a bound on the cost of every request."""
    if limits.max_cost_usd is None:
        return
    for key in sorted(COST_KEYS & request.extra_body.keys()):
        section.problem(
            "max_cost_usd",
            f"cannot be enforced with [request] extra_body {key}, which changes the cost",
        )
    if "max_tokens" not in {*request.parameters, *request.from_columns}:
        section.problem(
            "max_cost_usd",
            "needs [request] max_tokens: without it, the cost of an answer has no limit",
        )
    for tool in request.tools:
        kind = str((tool.vendor or {}).get("type", ""))
        if kind.startswith(SERVER_TOOLS):
            section.problem(
                "max_cost_usd",
                f"cannot be enforced with the tool {kind}, which the provider runs and bills",
            )
