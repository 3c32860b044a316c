"""`estimate` of a job with a judge: what judging costs, before and after there are answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchrun.estimation import estimate, estimate_json, estimate_text
from batchrun.job import Job
from batchrun.run import RunOptions, run_job
from batchrun.simulator import SimulatorConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECTION = """
[score.judge]
model = "claude-sonnet-4-5-20250929"
max_tokens = 100
prompt = "<task>{{ rendered_prompt }}</task> <answer>{{ response }}</answer>"
choices = { good = 1, bad = 0 }
"""
OPTIONS = RunOptions(simulate=SimulatorConfig(latency_ms=1), quiet=True)


def facts(path: Path, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(estimate_json(estimate(Job.load(path, changes), OPTIONS)))
    return found


def test_the_cost_of_judging_is_within_its_estimate(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    job = write_job("https://api.anthropic.com", rows=30, extra=SECTION)
    (before,) = facts(job)["judges"]
    assert (before["requests"], before["already_answered"]) == (30, 0)
    assert run_job(Job.load(job), OPTIONS).exit_code == 0
    summary = json.loads((tmp_path / "out.simulated" / "summary.json").read_bytes())
    judge = summary["score"]["judge"]
    assert before["cost_usd"]["low"] <= judge["cost_usd"] <= before["cost_usd"]["high"]
    assert before["input_tokens"]["low"] <= judge["tokens"]["input"]
    assert judge["tokens"]["input"] <= before["input_tokens"]["high"]
    (after,) = facts(job)["judges"]
    assert (after["requests"], after["already_answered"]) == (0, 30)
    assert after["cost_usd"]["expected"] == 0


def test_answers_that_are_there_are_judged_as_they_are(write_job: Callable[..., Path]) -> None:
    job = write_job("https://api.anthropic.com", rows=10)
    assert run_job(Job.load(job), OPTIONS).exit_code == 0
    with job.open("a") as file:
        file.write(SECTION)
    found = facts(job)
    assert found["requests"] == 0
    (judge,) = found["judges"]
    assert judge["requests"] == 10
    # Nothing is uncertain about the answers any more.
    assert judge["input_tokens"]["high"] < 1.5 * judge["input_tokens"]["low"]
    text = estimate_text(estimate(Job.load(job), OPTIONS))
    assert "judge       10 requests to claude-sonnet-4-5-20250929" in text


def test_every_sample_and_every_verdict_counts(write_job: Callable[..., Path]) -> None:
    job = write_job("https://api.anthropic.com", rows=4, extra=SECTION)
    (judge,) = facts(job, **{"request.samples": 3, "score.judge.samples": 2})["judges"]
    assert judge["requests"] == 4 * 3 * 2
    assert facts(write_job("https://api.anthropic.com", rows=4))["judges"] == []
