"""`compare --judge`: both orders of every pair, ties, what is sent again, and the process that is killed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchrun.errors import JobError
from batchrun.job import Job
from batchrun.run import RunOptions, run_job
from batchrun.run.comparisons import judge_pairs
from tests.conftest import command, finish, start_batchrun, wait_until
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchrun.run.comparisons import JudgedPairs

JUDGE = "claude-sonnet-4-5-20250929"
SECTION = f"""
[score.judge]
model = "{JUDGE}"
rubric = "preference"
"""
ROWS = 9


def is_judged(call: Call) -> bool:
    return str(call.json["model"]) == JUDGE


def shown(call: Call) -> tuple[str, str]:
    parts = call.prompt.split("<answer_")
    first, second = (part.split(">\n", 1)[1].split("\n</")[0] for part in parts[1:3])
    return first, second


def prefers(call: Call) -> str:
    """Prefer `long`; of row 0 always the first place, of row 1 the second, of row 2 none."""
    if "Say text 0" in call.prompt:
        return "A"
    if "Say text 1" in call.prompt:
        return "B"
    if "Say text 2" in call.prompt:
        return "tie"
    first, _ = shown(call)
    return "A" if first.startswith("long") else "B"


def decide(call: Call) -> Reply:
    if is_judged(call):
        return answer(call, f"Reasons.\nVerdict: {prefers(call)}")
    if "text 3" in call.prompt:
        return answer(call, "the same")
    style = "long" if call.json.get("temperature") == 1 else "short"
    return answer(call, f"{style} {call.prompt.removeprefix('Say ')} {call.json['model']}")


@pytest.fixture
def compared(
    write_job: Callable[..., Path], tmp_path: Path
) -> Callable[..., tuple[Path, list[Path]]]:
    """Run a job twice or more; return it and the directories."""

    def runs(url: str, temperatures: tuple[float, ...] = (1.0, 0.0)) -> tuple[Path, list[Path]]:
        job = write_job(url, rows=ROWS)
        found = []
        for number, temperature in enumerate(temperatures):
            changes = {
                "request.temperature": temperature,
                "output.dir": str(tmp_path / f"r{number}"),
            }
            if number > 1:
                changes["request.model"] = "claude-opus-4-5"
            assert run_job(Job.load(job, changes), RunOptions(quiet=True)).exit_code == 0
            found.append(tmp_path / f"r{number}")
        with job.open("a") as file:
            file.write(SECTION)
        return job, found

    return runs


def judge(directories: list[Path], job: Path, **options: Any) -> JudgedPairs:
    changes = options.pop("overrides", None)
    return judge_pairs(directories, Job.load(job, changes), RunOptions(quiet=True, **options))


def test_each_pair_is_judged_in_both_orders(
    compared: Callable[..., tuple[Path, list[Path]]], tmp_path: Path
) -> None:
    with serving(decide) as provider:
        job, runs = compared(provider.url)
        sent = len(provider.calls)
        found = judge(runs, job)
        asked = provider.calls[sent:]
        assert all(map(is_judged, asked))
        assert len(asked) == 2 * (ROWS - 1)  # the same text is a tie without a request
        orders = {shown(call) for call in asked}
        assert all((second, first) in orders for first, second in orders)
        assert found.exit_code == 0
        counts = found.counts
        assert (counts.same_text, counts.both, counts.agreed) == (1, 8, 6)
        # Rows 0 and 1 follow the place: a tie each. Row 2 is one, and row 3 has the same text.
        assert counts.outcomes == {(((0, 1), 1.0),): 5, (((0, 1), 0.5),): 4}
        assert (counts.positions.first, counts.positions.second, counts.positions.ties) == (7, 7, 2)
        assert found.directory == tmp_path / "r0_vs_r1"
        assert found.totals.attempts == 16
        again = judge(runs, job)
        assert len(provider.calls) == sent + 16
        assert again.counts == counts
        # The other way round is another comparison of the same pairs.
        turned = judge(runs[::-1], job)
        assert turned.counts.outcomes == {(((0, 1), 0.0),): 5, (((0, 1), 0.5),): 4}


def test_three_runs_and_a_row_that_one_lacks(
    compared: Callable[..., tuple[Path, list[Path]]],
) -> None:
    with serving(decide) as provider:
        job, runs = compared(provider.url, (1.0, 0.0, 1.0))
        found = judge(runs, job)
    pairs = {pair for outcome in found.counts.outcomes for pair, _ in outcome}
    assert pairs == {(0, 1), (0, 2), (1, 2)}
    assert found.totals.attempts == 2 * 3 * (ROWS - 1)


def test_a_judge_of_single_answers_lends_its_model(
    compared: Callable[..., tuple[Path, list[Path]]],
) -> None:
    with serving(decide) as provider:
        job, runs = compared(provider.url)
        own = {"score.judge": {"model": JUDGE, "prompt": "{{ response }}?", "scale": [1, 5]}}
        found = judge(runs, job, overrides=own)
    assert found.note is not None
    assert "rubric preference" in found.note
    assert found.counts.both == 8


def test_a_prompt_of_two_answers_with_other_verdicts(
    compared: Callable[..., tuple[Path, list[Path]]],
) -> None:
    def word(call: Call) -> Reply:
        if not is_judged(call):
            return decide(call)
        return answer(call, "Verdict: left" if call.prompt.startswith("long") else "Verdict: right")

    with serving(word) as provider:
        job, runs = compared(provider.url)
        own = {
            "model": JUDGE,
            "prompt": "{{ response_a }} or {{ response_b }}?",
            "choices": {"left": 1, "right": 0},
        }
        found = judge(runs, job, overrides={"score.judge": own})
        assert found.note is None
        assert found.counts.outcomes == {(((0, 1), 1.0),): 8, (((0, 1), 0.5),): 1}
        wrong = {**own, "choices": {"left": 2, "right": 0}}
        with pytest.raises(JobError, match="a score from 0"):
            judge(runs, job, overrides={"score.judge": wrong})
    with pytest.raises(JobError, match="two different run directories"):
        judge([runs[0], runs[0]], job)


def test_verdicts_without_a_result_are_left_out_and_counted(
    compared: Callable[..., tuple[Path, list[Path]]],
) -> None:
    def partly(call: Call) -> Reply:
        if is_judged(call) and "Say text 4" in call.prompt:
            return answer(call, "I cannot say.")
        if is_judged(call) and "Say text 5" in call.prompt:
            return refusal(400, "invalid_request_error", "no")
        return decide(call)

    with serving(partly) as provider:
        job, runs = compared(provider.url)
        found = judge(runs, job)
    assert found.exit_code == 3
    assert (found.counts.unjudged.unreadable, found.counts.unjudged.failed, found.counts.both) == (
        2,
        2,
        6,
    )
    assert sum(found.counts.outcomes.values()) == ROWS - 2


def test_on_the_command_line(
    compared: Callable[..., tuple[Path, list[Path]]],
) -> None:
    with serving(decide) as provider:
        job, runs = compared(provider.url)
        code, stdout, stderr = command("compare", *runs, "--judge", job, "--quiet")
        assert code == 0, stderr
        assert "r0 / r1" in stdout
        assert "both orders agree in 75.0 % of pairs" in stdout
        code, stdout, _ = command("compare", *runs, "--judge", job, "--quiet", "--json")
        (pair,) = json.loads(stdout)["preferences"]["pairs"]
        assert (pair["wins"], pair["losses"], pair["ties"]) == (5, 0, 4)
        assert pair["win_rate"] == pytest.approx(7 / 9)
        code, _, stderr = command("compare", *runs, "--simulate")
        assert (code, "need --judge" in stderr) == (2, True)
        code, stdout, stderr = command("compare", *runs)
        assert (code, "judge" in stdout) == (0, False)


def test_simulated_verdicts_never_pass_for_real_ones(
    compared: Callable[..., tuple[Path, list[Path]]], tmp_path: Path
) -> None:
    with serving(decide) as provider:
        job, runs = compared(provider.url)
        options = ("--judge", job, "--quiet", "--json", "--output-dir", tmp_path / "pairs")
        code, stdout, stderr = command("compare", *runs, *options, "--simulate")
        assert code == 0, stderr
        simulated = json.loads(stdout)["preferences"]
        assert simulated["directory"] == str(tmp_path / "pairs.simulated")
        sent = len(provider.calls)
        code, stdout, stderr = command("compare", *runs, *options)
        assert code == 0, stderr
        real = json.loads(stdout)["preferences"]
    assert real["directory"] == str(tmp_path / "pairs")
    assert len(provider.calls) - sent == 16  # eight rows with different answers, in both orders
    assert (tmp_path / "pairs.simulated" / "checkpoint.db").exists()


def test_killed_in_the_middle_it_resumes_and_pays_for_nothing_twice(
    compared: Callable[..., tuple[Path, list[Path]]],
) -> None:
    def slowly(call: Call) -> Reply:
        reply = decide(call)
        return Reply(reply.status, reply.body, reply.headers, delay_s=0.03)

    with serving(slowly) as provider:
        job, runs = compared(provider.url)
        with job.open("a") as file:
            file.write("[limits]\nconcurrency = 2\n")
        sent = len(provider.calls)
        for kill in range(3):
            process = start_batchrun("compare", *runs, "--judge", job, "--quiet")
            wait_until(lambda: len(provider.calls) >= sent + 4 * (kill + 1))  # noqa: B023
            process.kill()
            finish(process)
        found = judge(runs, job)
        asked = provider.calls[sent:]
    assert found.exit_code == 0
    assert len({call.body for call in asked}) == 16
    assert len(asked) <= 16 + found.totals.maybe_billed
    assert found.totals.maybe_billed <= 3 * 2
