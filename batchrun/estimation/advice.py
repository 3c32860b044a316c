"""What an estimate warns of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.records import PICO_PER_USD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.estimation.answers import Answers
    from batchrun.estimation.duration import Load
    from batchrun.estimation.records import Estimate
    from batchrun.job import Job

# `max_tokens` is far above need when it is so many times the longest of so many answers.
FAR_ABOVE = 4
FEWEST_ANSWERS = 10
ROOM = 1.5  # what is left above the longest answer in the value that is proposed
ROUND = 10


def warnings(
    job: Job, estimate: Estimate, loads: Sequence[Load], answers: Answers
) -> tuple[str, ...]:
    """Return what should be changed, or known, before the run."""
    return (
        *_about_rows(estimate),
        *_about_max_tokens(loads, answers),
        *_about_limits(job, loads),
        *_about_money(job, estimate),
    )


def _about_rows(estimate: Estimate) -> Iterator[str]:
    if estimate.unrenderable:
        yield (
            f"{estimate.unrenderable:,} rows cannot become a request and will be errored, such as "
            f"{estimate.example}"
        )


def _about_max_tokens(loads: Sequence[Load], answers: Answers) -> Iterator[str]:
    if answers.count < FEWEST_ANSWERS:
        return
    for load in loads:
        if not load.requests or load.most_output is None:
            continue
        allowed = load.most_output // load.requests
        enough = -(-round(ROOM * answers.longest) // ROUND) * ROUND
        if allowed >= FAR_ABOVE * max(answers.longest, ROUND):
            yield (
                f"max_tokens lets an answer of {load.model} have {allowed:,} tokens, and the longest "
                f"of {answers.count:,} had {answers.longest:,}: providers hold what is allowed "
                f"against your rate until the answer has come; {enough:,} would do"
            )


def _about_limits(job: Job, loads: Sequence[Load]) -> Iterator[str]:
    limits = job.limits
    for load in loads:
        if not load.requests:
            continue
        taken_in = load.input.expected // load.requests
        given_out = (load.most_output or 0) // load.requests
        for name, needed, limit in (
            ("tokens_per_minute", taken_in + given_out, limits.tokens_per_minute),
            ("input_tokens_per_minute", taken_in, limits.input_tokens_per_minute),
            ("output_tokens_per_minute", given_out, limits.output_tokens_per_minute),
        ):
            if limit is not None and needed > limit:
                yield (
                    f"a request to {load.model} needs about {needed:,} tokens with its max_tokens, "
                    f"more than [limits] {name} = {limit:g}: it would be errored, not sent"
                )


def _about_money(job: Job, estimate: Estimate) -> Iterator[str]:
    if estimate.unpriced:
        yield (
            f"the price of {', '.join(estimate.unpriced)} is not known; give it in [price] or "
            '[price."MODEL"], in USD per million tokens, or name who answers in [request] provider'
        )
    cap = job.limits.max_cost_usd
    cost = estimate.cost
    if cap is None or cost is None:
        return
    high = cost.high
    if high is None or high > cap * PICO_PER_USD:
        yield f"[limits] max_cost_usd = {cap:g} may stop the run before its end"
