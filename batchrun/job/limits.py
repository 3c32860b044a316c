"""`[limits]`: upper bounds, and whether a cap on the cost can be held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.job.configs import LimitsConfig

if TYPE_CHECKING:
    from batchrun.job.configs import RequestConfig
    from batchrun.sections import Section

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
            f"cannot be held with [request] extra_body {key}, which changes the cost",
        )
    if "max_tokens" not in {*request.parameters, *request.from_columns}:
        section.problem(
            "max_cost_usd", "needs [request] max_tokens: without it an answer has no highest cost"
        )
    for tool in request.tools:
        kind = str((tool.vendor or {}).get("type", ""))
        if kind.startswith(SERVER_TOOLS):
            section.problem(
                "max_cost_usd",
                f"cannot be held with the tool {kind}, which the provider runs and charges",
            )
