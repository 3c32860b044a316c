"""`batchrun estimate`: what it says beforehand against what the runs then take."""

from __future__ import annotations

import json
import math
import random
import shlex
import shutil
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import Job, RunOptions, SimulatorConfig, estimate, estimate_text, run_job
from batchrun.errors import RunStopped
from batchrun.estimation import even_rows
from batchrun.estimation.duration import ModelLoad, run_duration
from batchrun.estimation.ranges import AnswerSums, Range
from batchrun.job import LimitsConfig
from tests.conftest import CONSOLE, KEY, ROOT, command
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchrun.checkpoint import RequestCounts

FAST = RunOptions(simulate=SimulatorConfig(latency_ms=0), quiet=True)
PRICE = "[price]\ninput = 1.0\noutput = 10.0\n"
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.toml"))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def facts(job: Path, *options: str) -> dict[str, Any]:
    code, stdout, stderr = command("estimate", job, "--json", *options)
    assert code == 0, stderr
    found: dict[str, Any] = json.loads(stdout)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample jobs, and the results that the last of them asks about."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("jobs", "sample_data"):
        shutil.copytree(ROOT / name, folder / name)
    run_job(Job.load(folder / "jobs" / "word_problems.toml"), FAST)
    (folder / "runs" / "word_problems.simulated").rename(folder / "runs" / "word_problems")
    return folder


def test_every_command_on_the_page_about_it_runs(tmp_path: Path) -> None:
    for name in ("jobs", "sample_data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    page = (ROOT / "docs" / "estimating.md").read_text(encoding="utf-8")
    (console,) = CONSOLE.findall(page)
    for line in console.splitlines():
        code, stdout, stderr = command(*shlex.split(line.removeprefix("$ "))[1:], cwd=tmp_path)
        assert code == 0, stderr
    assert json.loads(stdout)["already_answered"] == 20


@pytest.mark.parametrize("name", JOBS)
def test_sample_jobs_take_the_input_that_was_estimated(project: Path, name: str) -> None:
    slow = "limits.requests_per_minute"
    job = Job.load(project / "jobs" / name, {slow: 10**6})
    (before,) = estimate(job, FAST)
    (sampled,) = estimate(job, FAST, sample=20)
    report = run_job(job, FAST)
    real = report.totals.usage
    # The simulator takes four bytes for a token, whatever the model; a sample corrects that.
    assert before.input.expected == pytest.approx(real.input_tokens, rel=0.3)
    assert (before.requests, before.answers) == (before.rows, 0)
    assert (sampled.held, sampled.answers) == (20, 20)
    assert sampled.requests == before.rows - 20
    if sampled.requests:
        share = sampled.requests / before.rows
        assert sampled.input.expected == pytest.approx(real.input_tokens * share, rel=0.15)  # type: ignore[operator]
        assert sampled.output.expected == pytest.approx(real.output_tokens * share, rel=0.3)  # type: ignore[operator]
        assert sampled.output.low <= sampled.output.expected <= (sampled.output.high or 0)


def test_the_cost_is_that_of_the_tokens_to_the_last_digit(write_job: Callable[..., Path]) -> None:
    job = write_job("http://127.0.0.1:9", rows=7, extra="[price]\ninput = 0.3\noutput = 1.7\n")
    (found,) = estimate(Job.load(job))
    assert found.cost is not None
    for bound in ("low", "expected", "high"):
        tokens = getattr(found.input, bound), getattr(found.output, bound)
        usd = (tokens[0] * Decimal("0.3") + tokens[1] * Decimal("1.7")) / 10**6
        assert Decimal(getattr(found.cost, bound)) / 10**12 == usd
    assert found.cost_usd is not None
    assert found.cost_usd[1] == usd
    output = (found.output.low, found.output.expected, found.output.high)
    assert output == (7, 175, 350), "from one token to max_tokens"


def test_nothing_is_sent_and_no_key_is_needed(
    write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TEST_KEY")
    with serving() as provider:
        job = write_job(provider.url, rows=30)
        found = facts(job)
        assert provider.calls == []
    assert (found["rows"], found["requests"], found["already_answered"]) == (30, 30, 0)
    assert found["models"] == ["claude-haiku-4-5-20251001"]
    assert found["cost_usd"]["low"] > 0
    assert not (tmp_path / "out").exists()


def test_a_price_that_is_not_known_is_unknown_and_not_0(write_job: Callable[..., Path]) -> None:
    job = write_job("http://127.0.0.1:9", rows=3)
    found = facts(job, "--model", "no-such-model")
    assert found["cost_usd"] == {"low": None, "expected": None, "high": None}
    assert found["dedupe"]["saves_usd"] is None
    assert found["unknown_prices"] == ["no-such-model"]
    _, stdout, _ = command("estimate", job, "--model", "no-such-model")
    assert "cost        unknown" in stdout
    assert "unknown price of no-such-model" in stdout


def test_rows_with_the_same_request_are_counted_with_what_dedupe_saves(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    job = write_job("http://127.0.0.1:9", extra=PRICE)
    texts = ["a", "b", "a", "c", "a", "b"]
    pl.DataFrame({"id": list(range(6)), "text": texts}).write_csv(tmp_path / "rows.csv")
    alone, shared = facts(job), facts(job, "--set", "dedupe=true")
    assert (alone["duplicates"], alone["requests"]) == (3, 6)
    assert (shared["duplicates"], shared["requests"]) == (3, 3)
    for found, on in ((alone, False), (shared, True)):
        assert (found["dedupe"]["on"], found["dedupe"]["saves_requests"]) == (on, 3)
    spared = alone["cost_usd"]["expected"] - shared["cost_usd"]["expected"]
    assert alone["dedupe"]["saves_usd"] == pytest.approx(spared, rel=0.05)
    shown = command("estimate", job)[1]
    assert "3 rows have the same request as another row" in shown
    assert "(dedupe = true would save 3 requests" in shown


def test_only_what_is_still_to_be_sent_is_counted(write_job: Callable[..., Path]) -> None:
    def decide(call: Call) -> Reply:
        return refusal(400, "invalid_request_error") if "text 3" in call.prompt else answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=10, extra=PRICE)
        assert command("run", job, "--limit", "6")[0] == 3
    found = facts(job)
    assert (found["rows"], found["requests"], found["already_answered"]) == (10, 4, 6)
    # Five answers of 11 tokens in and 7 out say what the other four will take.
    assert found["calibrated_by_answers"] == 5
    assert found["input_tokens"]["expected"] == 44
    assert found["output_tokens"] == {"low": 28, "expected": 28, "high": 28}
    assert found["cost_usd"]["expected"] == pytest.approx(4 * (11 + 70) / 1e6)
    assert facts(job, "--model", "another")["requests"] == 10
    several = facts(job, "--set", "samples=3")
    assert (several["requests"], several["already_answered"]) == (30 - 6, 6)
    assert "are already answered in" in command("estimate", job)[1]


def test_a_sample_is_sent_once_and_is_part_of_the_run(
    write_job: Callable[..., Path], tmp_path: Path, results: Callable[[], pl.DataFrame]
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=50)
        for _ in range(2):
            found = facts(job, "--sample", "5", "-q")
            asked = sorted(int(call.prompt.removeprefix("Say text ")) for call in provider.calls)
            assert asked == [5, 15, 25, 35, 45]
            assert (found["requests"], found["calibrated_by_answers"]) == (45, 5)
        assert not (tmp_path / "out" / "results.parquet").exists(), "an estimate writes no outputs"
        assert command("verify", tmp_path / "out")[0] == 0
        code, _, stderr = command("run", job)
        assert (code, len(provider.calls)) == (0, 50)
        assert "5 rows already done, 45 requests to send" in stderr
    assert set(results()["status"]) == {"succeeded"}


def test_a_server_that_counts_no_input(write_job: Callable[..., Path]) -> None:
    def decide(call: Call) -> Reply:
        told = answer(call)
        return Reply(body=told.body.replace(b'"input_tokens": 11', b'"input_tokens": 0'))

    with serving(decide) as provider:
        job = write_job(provider.url, rows=10, extra=PRICE)
        found = facts(job, "--sample", "5", "-q")
    assert found["input_tokens"] == {"low": 0, "expected": 0, "high": 0}
    assert found["cost_usd"]["expected"] == pytest.approx(5 * 70e-6)


def test_a_sample_of_rows_that_are_asked_several_times(write_job: Callable[..., Path]) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=10, request="samples = 4")
        found = facts(job, "--sample", "8", "-q")
        assert len(provider.calls) == 8
    assert (found["requests"], found["already_answered"]) == (32, 8)


def test_a_sample_that_cannot_be_sent_ends_as_a_run_would(write_job: Callable[..., Path]) -> None:
    with serving(lambda _: refusal(401, "authentication_error")) as provider:
        job = write_job(provider.url, rows=5)
        code, stdout, stderr = command("estimate", job, "--sample", "2")
        assert (code, stdout) == (4, "")
        assert "TEST_KEY" in stderr
        with pytest.raises(RunStopped):
            estimate(Job.load(job), RunOptions(quiet=True), sample=2)


def test_a_sample_of_a_simulated_run_is_kept_apart(write_job: Callable[..., Path]) -> None:
    job = write_job("http://127.0.0.1:9", rows=10)
    assert facts(job, "--sample", "4", "--simulate", "-q")["already_answered"] == 4
    assert facts(job, "--simulate")["already_answered"] == 4
    assert facts(job)["already_answered"] == 0


def test_a_matrix_is_estimated_cell_by_cell(write_job: Callable[..., Path]) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=10, extra=PRICE)
        found = facts(job, "--model", "a", "--model", "b", "--sample", "3", "-q")
        assert len(provider.calls) == 6
    assert [cell["cell"] for cell in found["cells"]] == ["model=a", "model=b"]
    assert [cell["requests"] for cell in found["cells"]] == [7, 7]
    assert found["requests"] == 14
    both = sum(cell["cost_usd"]["expected"] for cell in found["cells"])
    assert found["cost_usd"]["expected"] == pytest.approx(both)


def test_max_tokens_far_above_need_is_warned_of(write_job: Callable[..., Path]) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=20, request="")
        found = facts(job, "--sample", "10", "-q", "--set", "max_tokens=4000")
        assert any("but the longest of 10 answers had 7" in w for w in found["warnings"])
        close = facts(job, "--sample", "10", "-q", "--set", "max_tokens=12", "--yes")
        assert close["warnings"] == []


def test_limits_that_a_request_cannot_pass_and_a_cap_are_warned_of(
    write_job: Callable[..., Path],
) -> None:
    extra = f"[limits]\noutput_tokens_per_minute = 40\nmax_cost_usd = 0.0001\n{PRICE}"
    found = facts(write_job("http://127.0.0.1:9", rows=9, extra=extra))
    assert "more than [limits] output_tokens_per_minute = 40" in found["warnings"][0]
    assert "max_cost_usd = 0.0001 may stop the run" in found["warnings"][1]


def test_rows_that_cannot_be_sent_and_answers_without_a_bound(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a", None, "b"]}).write_parquet(tmp_path / "rows.parquet")
    job = tmp_path / "job.toml"
    job.write_text(
        '[input]\npath = "rows.parquet"\n[request]\nformat = "chat"\nmodel = "gpt-4o-mini"\n'
        'prompt = "{{ text }}"\n'
    )
    found = facts(job)
    assert (found["rows"], found["requests"], found["unrenderable"]) == (3, 2, 1)
    assert "1 rows cannot be rendered" in found["warnings"][0]
    assert found["output_tokens"]["high"] is None
    assert found["cost_usd"]["high"] is None
    assert found["minutes"]["high"] is None
    assert "set max_tokens" in estimate_text(estimate(Job.load(job)))


def test_a_cached_system_prompt_is_read_at_best_and_written_at_worst(
    write_job: Callable[..., Path],
) -> None:
    price = "[price]\ninput = 1.0\noutput = 0.0\ncache_read = 0.1\ncache_write = 1.25\n"
    request = f'system = "{"word " * 2_000}"\ncache_system = true'
    job = write_job("http://127.0.0.1:9", rows=4, request=request, extra=price)
    (found,) = estimate(Job.load(job))
    assert found.cost is not None
    assert found.cost.low < 0.12 * found.input.low * 10**6
    assert found.cost.high > 1.2 * (found.input.high or 0) * 10**6  # type: ignore[operator]


LOAD = ModelLoad("m", 600, Range(60_000, 60_000, 60_000), Range(6_000, 6_000, 6_000), 60_000)


@pytest.mark.parametrize(
    ("limits", "minutes", "binds"),
    [
        ({"requests_per_minute": 60}, 10, "requests"),
        ({"tokens_per_minute": 6_600}, 10, "tokens"),
        ({"input_tokens_per_minute": 3_000, "requests_per_minute": 60}, 20, "input tokens"),
        ({"output_tokens_per_minute": 300, "concurrency": 100}, 20, "output tokens"),
        ({"concurrency": 2, "requests_per_minute": 6_000}, 10, "concurrency"),
        ({"output_tokens_per_minute": 1_000}, 6, "output tokens"),
    ],
)
def test_the_time_under_limits_and_what_binds(
    limits: dict[str, Any], minutes: float, binds: str
) -> None:
    found = run_duration(LimitsConfig(**limits), [LOAD], latency_s=2.0)
    assert found.expected == pytest.approx(minutes)
    assert found.limit == binds


def test_the_time_has_a_low_and_a_high_end() -> None:
    """Latencies seen so far may fall by a quarter or rise by a half; the last answer and files add to it."""
    extra = (1.5 * 2.0 + 3) / 60
    paced = run_duration(LimitsConfig(requests_per_minute=60), [LOAD], latency_s=2.0)
    assert (paced.low, paced.expected) == (10, 10)
    assert paced.high == pytest.approx(10 + extra)
    shared = run_duration(LimitsConfig(concurrency=2), [LOAD], latency_s=2.0)
    assert (shared.low, shared.expected) == pytest.approx((7.5, 10))
    assert shared.high == pytest.approx(15 + extra)
    unseen = run_duration(LimitsConfig(concurrency=2), [LOAD], latency_s=None)
    assert unseen.high is not None
    assert unseen.low < 0.5 * unseen.expected < 0.25 * unseen.high


def test_what_is_set_aside_for_long_answers_bounds_what_is_in_flight() -> None:
    """Of 1,000 tokens a minute, ten requests that may have 100 are under way, though they take 10."""
    limits = LimitsConfig(output_tokens_per_minute=1_000)
    assert run_duration(limits, [LOAD], latency_s=20.0).expected == pytest.approx(
        600 * 20 / 10 / 60
    )


def test_models_have_rates_of_their_own_and_share_the_concurrency() -> None:
    both = [LOAD, LOAD]
    rate = run_duration(LimitsConfig(requests_per_minute=60), both, latency_s=2.0)
    assert rate.expected == pytest.approx(10)
    assert run_duration(LimitsConfig(2), both, latency_s=2.0).expected == pytest.approx(20)
    free = run_duration(LimitsConfig(), both, latency_s=2.0)
    assert (free.limit, free.low < free.expected) == (None, True)
    assert run_duration(LimitsConfig(), [], None).expected == 0


def test_the_interval_holds_what_comes_as_often_as_it_says() -> None:
    """Of rows whose answers vary, 20 are a sample: does the interval hold the others' sum?"""
    dice = random.Random(3)
    held = {"input": 0, "output": 0}
    runs = 300
    for _ in range(runs):
        sizes = [dice.uniform(20, 200) for _ in range(400)]
        inputs = [round(size * dice.gauss(1.3, 0.15)) for size in sizes]
        outputs = [round(dice.gauss(100, 30)) for _ in sizes]
        answers = AnswerSums()
        for place in range(0, 400, 20):
            answers.add(counted(sizes[place], inputs[place], outputs[place]))
        rest = [n for n in range(400) if n % 20]
        size = math.fsum(sizes[n] for n in rest)
        for name, real, found in (
            ("input", inputs, answers.project_input(size, len(rest))),
            ("output", outputs, answers.project_output(len(rest), None)),
        ):
            held[name] += found.low <= sum(real[n] for n in rest) <= (found.high or 0)
    assert 0.90 < held["input"] / runs < 0.99
    assert 0.90 < held["output"] / runs < 0.99


def counted(size: float, taken_in: int, given_out: int) -> RequestCounts:
    from batchrun.checkpoint import RequestCounts

    return RequestCounts(
        number=1, model="m", low=size, expected=size, high=size, system=0.0, most_output=None,
        held=1, answers=1, input=taken_in, output=given_out, cache_read=0, cache_write=0,
        latency_s=1.0, longest=given_out,
    )  # fmt: skip


def test_sampled_rows_are_spread_evenly() -> None:
    assert even_rows(100, 4) == {12, 37, 62, 87}
    assert even_rows(3, 20) == {0, 1, 2}
    assert even_rows(0, 20) == frozenset()
