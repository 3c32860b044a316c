"""Warnings of an estimate: what to change or know before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.records import PICO_PER_USD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.estimation.duration import ModelLoad
    from batchrun.estimation.ranges import AnswerSums, Estimate
    from batchrun.job import Job, LimitsConfig


# `max_tokens` is too high when it is this many times the longest of this many answers.
FAR_ABOVE = 4
LEAST_ANSWERS = 10
HEADROOM = 1.5  # the proposed `max_tokens` in relation to the longest answer
ROUND_TO = 10


def advice(
    job: Job, estimate: Estimate, loads: Sequence[ModelLoad], answers: AnswerSums
) -> tuple[str, ...]:
    """Return the warnings."""
    loads = [load for load in loads if load.requests]
    return (
        *_about_rows(estimate),
        *_about_max_tokens(loads, answers),
        *(warning for load in loads for warning in _about_limits(job.limits, load)),
        *_about_cost(job, estimate),
    )


def _about_rows(estimate: Estimate) -> Iterator[str]:
    if estimate.unrenderable:
        yield (
            f"{estimate.unrenderable:,} rows cannot be rendered and would be errored, for example "
            f"{estimate.example}"
        )


def _about_max_tokens(loads: Sequence[ModelLoad], answers: AnswerSums) -> Iterator[str]:
    if answers.count < LEAST_ANSWERS:
        return
    enough = -(-round(HEADROOM * answers.output.longest) // ROUND_TO) * ROUND_TO
    for load in loads:
        if load.most_output is None:
            continue
        allowed = load.most_output // load.requests
        if allowed >= FAR_ABOVE * max(answers.output.longest, ROUND_TO):
            yield (
                f"max_tokens allows {allowed:,} tokens per answer of {load.model}, but the longest "
                f"of {answers.count:,} answers had {answers.output.longest:,}; providers reserve "
                f"max_tokens of your rate limit until the answer arrives; {enough:,} is enough"
            )


def _about_limits(limits: LimitsConfig, load: ModelLoad) -> Iterator[str]:
    input_tokens = load.input.expected // load.requests
    output_tokens = (load.most_output or 0) // load.requests
    for name, needed, limit in (
        ("tokens_per_minute", input_tokens + output_tokens, limits.tokens_per_minute),
        ("input_tokens_per_minute", input_tokens, limits.input_tokens_per_minute),
        ("output_tokens_per_minute", output_tokens, limits.output_tokens_per_minute),
    ):
        if limit is not None and needed > limit:
            yield (
                f"a request to {load.model} needs about {needed:,} tokens including max_tokens, "
                f"more than [limits] {name} = {limit:g}; it would be errored without being sent"
            )


def _about_cost(job: Job, estimate: Estimate) -> Iterator[str]:
    if estimate.unpriced:
        yield (
            f"unknown price of {', '.join(estimate.unpriced)}; set it in [price] or "
            '[price."MODEL"], in USD per million tokens, or set [request] provider'
        )
    limit, cost = job.limits.max_cost_usd, estimate.cost
    if limit is None or cost is None:
        return
    if cost.high is None or cost.high > limit * PICO_PER_USD:
        yield f"[limits] max_cost_usd = {limit:g} may stop the run before it finishes"
