"""The sections `[input]`, `[limits]` and `[score]` of a job file."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from batchrun.job.configs import InputConfig, LimitsConfig, Match, ScoreConfig
from batchrun.job.overrides import with_dates
from batchrun.job.paths import absolute, check_remote, is_remote
from batchrun.job.reader import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

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


MATCHES: tuple[str, ...] = get_args(Match)
KEYS = ("expected", "match", "answer", "choices", "function")


def read_score(section: Section, base: Path) -> ScoreConfig | None:
    """Read the section, None when there is none; what is wrong goes to its problems."""
    function = section.get("function", str)
    config = ScoreConfig(
        expected=section.get("expected", str),
        match=_read_match(section),
        answer=section.get("answer", str),
        choices=_read_choices(section),
        function=section.check("function", partial(_function, base, function), None),
    )
    if not any(key in section for key in KEYS):
        return None
    if not (config.expected or "").strip() and function is None:
        section.problem(
            "expected",
            'is missing; write the correct answer, such as expected = "{{ label }}", or '
            'function = "my_scores.py:score"',
        )
    if function is not None and "match" in section:
        section.problem("function", "match has no effect with a function; remove one of them")
    return config


def _read_match(section: Section) -> Match:
    name = section.text("match", "exact")
    if name not in MATCHES:
        known = ", ".join(f'"{match}"' for match in MATCHES)
        hint = did_you_mean(name, MATCHES)
        section.problem("match", f"must be one of {known}, not {name!r:.80}{hint}")
        name = "exact"
    return cast("Match", name)


def _read_choices(section: Section) -> tuple[str, ...]:
    choices = section.strings("choices") or ()
    if "choices" not in section:
        return ()
    if section.raw("match") != "choice":
        section.problem("choices", 'needs match = "choice"; set it, or remove choices')
    section.check("choices", partial(_check_choices, choices), None)
    return tuple(choice.strip() for choice in choices)


def _check_choices(choices: Sequence[str]) -> None:
    folded = [choice.strip().casefold() for choice in choices]
    if len(folded) < 2 or not all(folded):
        raise ValueError("needs at least two labels, none of them empty")
    if len(set(folded)) != len(folded):
        raise ValueError("contains a label twice; case is ignored")


def _function(base: Path, given: str | None) -> tuple[Path, str] | None:
    """Return the file and the name of `file.py:name`."""
    if given is None:
        return None
    file, _, name = given.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier() or "\0" in file:
        raise ValueError(
            f'must be a Python file and a function in it, as "my_scores.py:score", '
            f"not {given!r:.80}"
        )
    path = base / Path(file)
    if not path.is_file():
        raise ValueError(f"{file!r:.80} is not a Python file; expected at {path}")
    return path, name
