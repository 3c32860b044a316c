"""The numbers that the documentation gives are those of the code."""

from __future__ import annotations

import pytest

from batchrun import client, formats
from batchrun.checkpoint import stored_scores
from batchrun.dispatch import retries
from batchrun.estimation import advice, estimator, tokens
from batchrun.evaluation import intervals
from batchrun.formats import parameters, parsing, streaming
from batchrun.job import RetryConfig, cells, request
from batchrun.job.configs import FLEX_RETRY
from batchrun.limits import budgets, circuit_breaker, concurrency, load, rate_estimator, trials
from batchrun.render import LONGEST_WHOLE_ANSWER, bounds
from batchrun.report import row_data
from batchrun.run import changed_jobs, dataframes, execution, run_options
from tests.conftest import ROOT

WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 10: "ten", 1_000_000: "a million"}
BILLED = sorted(parsing.BILLED_STATUSES)
PARTS = {0.1: "tenth", 0.2: "fifth"}


def mib(size: int) -> str:
    return f"{size // 2**30} GiB" if size >= 2**30 else f"{size // 2**20} MiB"


def part(share: float) -> str:
    return PARTS[round(share, 6)]


def limits(name: str) -> formats.BatchLimits:
    found = formats.of(name)
    assert found.batches is not None
    return found.batches.service("https://host" + found.path).limits


def batch(name: str, lines: str) -> str:
    most = limits(name)
    return f"| {most.rows:,} {lines}, {most.size // 10**6} MB |"


DOCUMENTED = [
    ("docs/formats.md", batch("messages", "requests")),
    ("docs/formats.md", batch("chat", "lines")),
    ("docs/job.md", f"`max_wait_s = {FLEX_RETRY.max_wait_s:g}`"),
    ("docs/job.md", f"`timeout_s = {FLEX_RETRY.timeout_s:g}`"),
    ("README.md", f"When more than a {part(changed_jobs.MOST_LEFT_SHARE)} of the paid answers"),
    (
        "docs/reliability.md",
        f"a change that leaves at most a {part(changed_jobs.MOST_LEFT_SHARE)} of",
    ),
    (
        "docs/nightly.md",
        f"leave more than a {part(changed_jobs.MOST_LEFT_SHARE)} of the paid answers",
    ),
    ("docs/nightly.md", f"requests in flight finish for up to {run_options.GRACE_S:g} s"),
    ("docs/python.md", f"waits up to {run_options.GRACE_S:g} s for the requests in flight"),
    (
        "docs/reliability.md",
        f"requests in flight may finish within {run_options.GRACE_S:g} s; output files",
    ),
    (
        "docs/reliability.md",
        f"the commit is retried for {execution.FULL_DISK_RETRY_S:g} s, and the run",
    ),
    (
        "docs/reliability.md",
        f"`max_wait_s` ({RetryConfig().max_wait_s / 60:g} minutes) without success",
    ),
    (
        "docs/reliability.md",
        f"| a body of 1 GB that is not a stream | stopped at {mib(client.MAX_BODY_BYTES)}; the row is errored",
    ),
    (
        "docs/reliability.md",
        f"at {mib(streaming.MAX_EVENT_BYTES)} for one event, at {mib(streaming.MAX_HELD_BYTES)} for all",
    ),
    (
        "docs/reliability.md",
        f"for all stored data, at {mib(client.MAX_STREAM_BYTES)} for all received bytes",
    ),
    (
        "docs/reliability.md",
        f"the statuses {', '.join(map(str, BILLED[:-1]))} and {BILLED[-1]}, which",
    ),
    ("docs/job.md", f"(`max_tokens` above {LONGEST_WHOLE_ANSWER:,})"),
    ("docs/job.md", f"`stop`: up to {WORDS[parameters.MAX_STOP_SEQUENCES]} strings"),
    ("docs/job.md", f"text produced while rendering | about {bounds.BUDGET / 1e6:g} MB |"),
    ("docs/job.md", f"length of the result | {bounds.MAX_TEXT // 2**20} Mi characters |"),
    (
        "docs/job.md",
        f"calls as {WORDS[bounds.CALL // bounds.STEP]}) | {WORDS[bounds.BUDGET // bounds.STEP]} |",
    ),
    ("docs/job.md", f"width | {bounds.MAX_WIDTH:,} |"),
    ("docs/job.md", f"digits of a number | {bounds.MAX_BITS * 3 // 10:,} |"),
    ("docs/job.md", f"A matrix can have up to {cells.MOST_CELLS} cells"),
    ("docs/job.md", f"judged after {budgets.JUDGED_AFTER_ITEMS} finished rows"),
    ("docs/limits.md", f"starts with {concurrency.START} requests in flight and doubles"),
    ("docs/limits.md", f"while at least {concurrency.USED_SHARE * 100:g} % of them are used"),
    ("docs/limits.md", f"when more than {trials.TOLERATED * 100:g} % are refused"),
    ("docs/limits.md", f"and sends {100 - load.TRIAL_FACTOR * 100:g} % less for a short while"),
    ("docs/limits.md", f"The run keeps {rate_estimator.DIP * 100:g} % below it, then returns"),
    (
        "docs/limits.md",
        f"least a {part(circuit_breaker.PAUSE_SHARE)} of the time that the failures have",
    ),
    (
        "docs/limits.md",
        f"**`[retry] max_wait_s`** ({RetryConfig().max_wait_s:g}) is the maximum time",
    ),
    (
        "docs/limits.md",
        f"failed {WORDS[retries.FAILURES_BEFORE_LAST_RANK]} times in a row is sent after the others",
    ),
    ("docs/limits.md", f"The maximum is {concurrency.MOST:,}"),
    ("docs/estimating.md", f"an image without a known size counts as {tokens.IMAGE_TOKENS[1]:,}"),
    ("docs/estimating.md", f"but not more than {estimator.USUAL_OUTPUT} tokens"),
    ("docs/estimating.md", f"to have one to {WORDS[estimator.TURNS[-1]]} turns"),
    ("docs/estimating.md", f"at least {WORDS[advice.FAR_ABOVE]} times the longest"),
    ("docs/estimating.md", f"longest of {WORDS[advice.LEAST_ANSWERS]} answers or more"),
    ("docs/evaluating.md", f"The {stored_scores.MOST_CLASSES} most frequent labels are listed"),
    ("docs/evaluating.md", f"the signs of up to {intervals.MOST_FLIPPED} differences"),
    ("docs/evaluating.md", f"A page holds up to {row_data.MOST_ROWS:,} rows"),
]


@pytest.mark.parametrize(("page", "said"), DOCUMENTED, ids=lambda text: text[:60])
def test_a_number_of_the_documentation_is_that_of_the_code(page: str, said: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert said in text


def test_numbers_that_docstrings_give() -> None:
    said = " ".join((dataframes.complete.__doc__ or "").split())
    assert f"`max_tokens` ({dataframes.MAX_TOKENS} by default)" in said
    assert request.MOST_SAMPLES == 100
