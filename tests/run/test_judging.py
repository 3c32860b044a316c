"""`[score.judge]` in real runs: what is sent, kept, counted and paid, also by a process that is killed."""

from __future__ import annotations

import json
import random
import secrets
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import BATCH, BatchMode, SimulatorConfig, checkpoint
from batchrun.errors import JobError
from batchrun.inspection.rescoring import score
from batchrun.inspection.run_status import status
from batchrun.inspection.verification import verify
from batchrun.job import Job
from batchrun.run import RunOptions, run_job
from tests.conftest import command, finish, start_batchrun, wait_until
from tests.support.provider import Call, Reply, answer, refusal, serving
from tests.support.vendor import vendor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from batchrun.run import RunReport

JUDGE = "claude-sonnet-4-5-20250929"
SECTION = f"""
[score]
expected = "{{{{ text }}}}"
[score.judge]
model = "{JUDGE}"
prompt = "Task: {{{{ rendered_prompt }}}} Right answer: {{{{ expected }}}} Answer: {{{{ response }}}}"
choices = {{ good = 1.0, fair = 0.5, bad = 0.0 }}
"""


def is_judged(call: Call) -> bool:
    return str(call.json["model"]) == JUDGE


def said(call: Call) -> str:
    """What the judge is shown as the answer of a row."""
    return call.prompt.partition("Answer: ")[2].partition("\n")[0].partition("Answer: ")[2]


def grade(call: Call) -> str:
    """By the number in the answer: good, fair, bad in turn."""
    number = int(call.prompt.rpartition("echo text ")[2].split()[0])
    return ("good", "fair", "bad")[number % 3]


def decide(call: Call) -> Reply:
    if is_judged(call):
        return answer(call, f"Because of that.\nVerdict: {grade(call)}")
    return answer(call, f"echo {call.prompt.removeprefix('Say ')}")


def run(job: Path, **options: Any) -> RunReport:
    return run_job(Job.load(job, options.pop("overrides", None)), RunOptions(quiet=True, **options))


def judged(calls: list[Call]) -> list[Call]:
    return [call for call in calls if is_judged(call)]


def summary(tmp_path: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    return found


def test_verdicts_become_scores(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    with serving(decide) as provider:
        report = run(write_job(provider.url, rows=9, extra=SECTION))
    assert report.exit_code == 0, report.error
    assert results()["score"].to_list() == [1.0, 0.5, 0.0] * 3
    assert results()["predicted"].to_list() == ["good", "fair", "bad"] * 3
    assert set(results()["reason"]) == {"Because of that."}
    assert results()["model"].unique().to_list() == ["claude-haiku-4-5-20251001"]
    asked = judged(provider.calls)
    assert len(asked) == 9
    assert "Task: Say text 4 Right answer: text 4 Answer: echo text 4" in asked[4].prompt or any(
        "Task: Say text 4 Right answer: text 4 Answer: echo text 4" in call.prompt for call in asked
    )
    facts = summary(tmp_path)
    # The rows are counted and paid as without a judge; the judge stands beside them.
    assert facts["counts"]["total"] == 9
    assert facts["attempts"] == 9
    assert facts["tokens"]["input"] == 9 * 11
    assert facts["cost_usd"]["total"] == pytest.approx(9 * (11 * 1 + 7 * 5) / 1e6)
    judge = facts["score"]["judge"]
    assert judge["attempts"] == 9
    assert judge["tokens"] == {"input": 9 * 11, "output": 9 * 7}
    assert judge["cost_usd"] == pytest.approx(9 * (11 * 3 + 7 * 15) / 1e6)
    assert (judge["missing"], judge["failed"], judge["unreadable"]) == (0, 0, 0)
    usage = pl.read_parquet(tmp_path / "out" / "usage.parquet")
    assert usage.height == 9
    shown = status(tmp_path / "out", as_json=False)
    assert "judge           9 of 9 verdicts, $0.001242 in addition" in shown
    # A new start moves the verdicts aside with the run.
    with serving(decide) as provider:
        job = write_job(provider.url, rows=9, extra=SECTION)
        assert run(job, new=True).exit_code == 0
    assert len(provider.calls) == 18
    assert (tmp_path / "out.1" / "judge" / "checkpoint.db").exists()


def test_running_again_is_free_and_a_change_is_judged_again(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame]
) -> None:
    with serving(decide) as provider:
        job = write_job(provider.url, rows=6, extra=SECTION)
        assert run(job).exit_code == 0
        sent = len(provider.calls)
        assert run(job).exit_code == 0
        assert len(provider.calls) == sent
        # Other scores of the same verdicts.
        values = {"good": 3.0, "fair": 2.0, "bad": 1.0}
        run(job, overrides={"score.judge.choices": values})
        assert len(provider.calls) == sent
        assert results()["score"].to_list() == [3.0, 2.0, 1.0] * 2
        # Another prompt of the judge: rows are not asked again.
        prompt = "Is it right? Answer: {{ response }}"
        with pytest.raises(JobError, match="6 of 6 paid answers would no longer be used"):
            run(job, overrides={"score.judge.prompt": prompt})
        assert len(provider.calls) == sent
        run(job, yes=True, overrides={"score.judge.prompt": prompt})
        assert len(provider.calls) == sent + 6
        assert all(map(is_judged, provider.calls[sent:]))
        # Back to the first one: its verdicts are still there.
        run(job, yes=True)
        assert len(provider.calls) == sent + 6


def test_an_answer_that_cannot_be_read_is_never_a_score(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    def sometimes(call: Call) -> Reply:
        if not is_judged(call):
            return decide(call)
        number = int(call.prompt.rpartition("echo text ")[2].split()[0])
        texts = {0: "It is good.", 1: "Verdict: good\nVerdict: bad", 2: "Verdict: super"}
        if number == 3 and not call.seen:
            return answer(call, "Hm.")  # the second time it says
        if number == 4:
            return refusal(400, "invalid_request_error", "no such thing")
        return answer(call, texts.get(number, "Verdict: good"))

    with serving(sometimes) as provider:
        job = write_job(provider.url, rows=6, extra=SECTION)
        report = run(job)
        assert report.exit_code == 3
        assert results()["score"].to_list() == [None, None, None, 1.0, None, 1.0]
        assert results()["status"].unique().to_list() == ["succeeded"]
        judge = summary(tmp_path)["score"]["judge"]
        assert (judge["missing"], judge["failed"], judge["unreadable"]) == (0, 1, 3)
        assert summary(tmp_path)["score"]["mean"] == 1.0
        seen = Counter(call.body for call in judged(provider.calls))
        assert sorted(seen.values()) == [1, 1, 2, 2, 2, 2]
        sent = len(provider.calls)
        assert run(job).exit_code == 3  # failed for good: not asked again
        assert len(provider.calls) == sent


def test_a_judge_that_never_gives_a_verdict_is_named(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving(lambda call: answer(call, "lorem " * 5_000)) as provider:
        code, _, stderr = command("run", write_job(provider.url, rows=2, extra=SECTION), "--quiet")
    assert (code, "no request to the judge succeeded" in stderr) == (4, True), stderr
    score = summary(tmp_path)["score"]
    assert (score["mean"], score["judge"]["unreadable"]) == (None, 2)


def test_the_same_answer_to_the_same_row_is_judged_once(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame]
) -> None:
    with serving(decide) as provider:
        job = write_job(provider.url, rows=4, request="samples = 3", extra=SECTION)
        assert run(job).exit_code == 0
    assert len(provider.calls) == 4 * 3 + 4
    assert results()["score"].to_list() == [1.0, 0.5, 0.0, 1.0]


def test_several_verdicts_on_each_answer(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    def wavering(call: Call) -> Reply:
        if not is_judged(call):
            return decide(call)
        return answer(call, f"Verdict: {('good', 'good', 'bad')[call.seen]}")

    with serving(wavering) as provider:
        job = write_job(provider.url, rows=5, extra=f"{SECTION}samples = 3\n")
        assert run(job).exit_code == 0
    assert len(judged(provider.calls)) == 15
    assert results()["score"].to_list() == pytest.approx([2 / 3] * 5)
    assert results()["predicted"].to_list() == ["good"] * 5
    assert summary(tmp_path)["score"]["judge"]["consistency"] == pytest.approx(1 / 3)


def test_agreement_with_people(write_job: Callable[..., Path], tmp_path: Path) -> None:
    from sklearn.metrics import cohen_kappa_score

    human = "{{ ['good', 'good', 'bad'][text[5:] | int % 3] if text != 'text 7' else '' }}"
    with serving(decide) as provider:
        job = write_job(provider.url, rows=12, extra=f'{SECTION}human = "{human}"\n')
        assert run(job).exit_code == 0
    found = summary(tmp_path)["score"]["judge"]["agreement"]
    person = [("good", "good", "bad")[n % 3] for n in range(12) if n != 7]
    judge = [("good", "fair", "bad")[n % 3] for n in range(12) if n != 7]
    assert (found["rows"], found["agreed"]) == (11, 8)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(person, judge))
    assert found["ci95"][0] < 8 / 11 < found["ci95"][1]


def test_verdicts_of_people_that_the_judge_does_not_know_are_reported(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving(decide) as provider:
        job = write_job(provider.url, rows=1, extra=f'{SECTION}human = "superb"\n')
        assert run(job).exit_code == 0
    assert summary(tmp_path)["score"]["judge"]["agreement"] is None
    code, stdout, _ = command("score", tmp_path / "out")
    assert code == 0
    assert "1 request, " in stdout
    assert "no judged row has a verdict of the judge in human" in stdout


def test_several_scorers_one_of_them_a_judge(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    scorers = """
[[score]]
name = "rule"
expected = "echo {{ text }}"
[[score]]
name = "grade"
weight = 3
[score.judge]
"""
    rest = SECTION.partition("[score.judge]\n")[2].replace("Right answer: {{ expected }} ", "")
    with serving(decide) as provider:
        assert run(write_job(provider.url, rows=3, extra=scorers + rest)).exit_code == 0
    assert results()["score_rule"].to_list() == [1.0, 1.0, 1.0]
    assert results()["score_grade"].to_list() == [1.0, 0.5, 0.0]
    assert results()["score"].to_list() == [1.0, 0.625, 0.25]
    assert set(results()["reason_grade"]) == {"Because of that."}
    assert "reason_rule" not in results().columns
    assert (tmp_path / "out" / "judge-grade" / "checkpoint.db").exists()
    assert summary(tmp_path)["score"]["scorers"]["grade"]["judge"]["attempts"] == 3


def test_the_cap_covers_rows_and_judge_together(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving(decide) as provider:
        # The rows cost 0.00092 USD, each verdict 0.000138 and at most 0.0034.
        limits = "[limits]\nmax_cost_usd = 0.0055\nconcurrency = 1\n"
        job = write_job(provider.url, rows=20, extra=f"{limits}{SECTION}max_tokens = 20\n")
        report = run(job)
        assert report.exit_code == 4
        assert "max_cost_usd" in str(report.error)
        first = len(judged(provider.calls))
        assert 5 < first < 15, report.error
        facts = summary(tmp_path)
        assert facts["score"]["judge"]["missing"] == 20 - first
        # The next execution knows what both have spent.
        assert run(job).exit_code == 4
        assert len(provider.calls) == 20 + first
        assert run(job, overrides={"limits.max_cost_usd": 1.0}).exit_code == 0
        assert len(judged(provider.calls)) == 20


def test_score_sends_nothing_and_counts_what_is_missing(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving(decide) as provider:
        job = write_job(provider.url, rows=5)
        assert run(job).exit_code == 0
        with job.open("a") as file:
            file.write(SECTION)
        totals = score(tmp_path / "out", job)
        assert len(provider.calls) == 5
        assert totals.judge is not None
        assert (totals.scored, totals.judge.missing) == (0, 5)
        assert run(job).exit_code == 0
        assert len(provider.calls) == 10
        totals = score(tmp_path / "out", job)
        assert totals.judge is not None
        assert (totals.scored, totals.judge.missing) == (5, 0)
        assert len(provider.calls) == 10


def test_a_judge_elsewhere_gets_its_own_key_only(
    write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-judge-0123456789")
    with serving(decide) as provider, serving(decide) as other:
        own = f'base_url = "{other.url}"\nformat = "chat"\napi_key_env = "JUDGE_KEY"\n'
        own += 'provider = "anthropic"\n'
        assert run(write_job(provider.url, rows=3, extra=SECTION + own)).exit_code == 0
    assert len(provider.calls) == len(other.calls) == 3
    assert all(call.path == "/v1/chat/completions" for call in other.calls)
    assert all("sk-test" not in str(call.headers) for call in other.calls)
    assert {call.headers["authorization"] for call in other.calls} == {"Bearer sk-judge-0123456789"}


def test_everything_about_a_judge_is_checked_first(write_job: Callable[..., Path]) -> None:
    with serving(decide) as provider:
        for change, words in (
            (
                {"score.judge.prompt": "{{ response }} {{ nothing }}"},
                "[score.judge] prompt: the input has no",
            ),
            ({"score.judge.prompt": "Is {{ text }} a response?"}, "does not show the answer"),
            ({"score.judge.human": "{{ nobody }}"}, "[score.judge] human: the input has no"),
            ({"score.judge.api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
            (
                {"score.judge.model": "unheard-of", "limits.max_cost_usd": 1},
                "the price of unheard-of is not known",
            ),
        ):
            job = write_job(provider.url, rows=3, extra=SECTION)
            with pytest.raises(Exception, match=r"\S") as caught:
                run(job, overrides=change)
            assert words in str(caught.value)
            assert getattr(caught.value, "exit_code", 1) == 2
    assert provider.calls == []


def test_a_judge_that_is_refused_stops_the_run_and_the_outputs_are_written(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame]
) -> None:
    def closed(call: Call) -> Reply:
        if is_judged(call):
            return refusal(401, "authentication_error", "no such key")
        return decide(call)

    with serving(closed) as provider:
        report = run(write_job(provider.url, rows=4, extra=SECTION))
    assert report.exit_code == 4
    assert results()["response"].to_list() == [f"echo text {n}" for n in range(4)]
    assert results()["score"].to_list() == [None] * 4


def test_a_row_that_is_answered_later_is_judged_then(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame]
) -> None:
    broken = True

    def flaky(call: Call) -> Reply:
        if broken and not is_judged(call) and "text 2" in call.prompt:
            return refusal(400, "invalid_request_error", "not now")
        return decide(call)

    with serving(flaky) as provider:
        job = write_job(provider.url, rows=4, extra=SECTION)
        assert run(job).exit_code == 3
        assert len(judged(provider.calls)) == 3
        broken = False
        assert run(job, retry_errored=True).exit_code == 0
        assert len(judged(provider.calls)) == 4
    assert results()["score"].to_list() == [1.0, 0.5, 0.0, 1.0]


def test_a_damaged_verdict_is_no_score(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    with serving(decide) as provider:
        job = write_job(provider.url, rows=4, extra=SECTION)
        assert run(job).exit_code == 0
        assert verify(tmp_path / "out").checked.count("judge/checkpoint.db") == 1
        with sqlite3.connect(tmp_path / "out" / "judge" / "checkpoint.db") as db:
            db.execute("UPDATE results SET response = 'Verdict: good' WHERE request_id = 3")
        report = run(job)
        assert report.exit_code == 5
        damaged = {finding.file: finding for finding in verify(tmp_path / "out").findings}
        assert "the stored answer is damaged" in damaged["judge/checkpoint.db"].problem
        sent = len(provider.calls)
        assert run(job, retry_errored=True).exit_code == 0
        assert len(provider.calls) == sent + 1
    assert results()["score"].to_list() == [1.0, 0.5, 0.0, 1.0]
    assert verify(tmp_path / "out").findings == ()


def test_batches_can_judge(write_job: Callable[..., Path], tmp_path: Path) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=6, extra=SECTION)
        for out in (7, 7, 0):  # the rows, then the verdicts
            code, _, stderr = command("run", job, "--batch", "--no-wait", "--quiet")
            assert code == out, stderr
            server.pass_time(1_000)
    found = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert found["predicted"].is_in(["good", "fair", "bad"]).all()


def test_batches_of_a_judge_are_cancelled_with_those_of_the_run(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    job = write_job("https://api.anthropic.com", rows=4)
    assert command("run", job, "--simulate", "--quiet")[0] == 0
    write_job("https://api.anthropic.com", rows=4, extra=SECTION)
    batches = {"dispatcher": BATCH, "batches": BatchMode.ONE_PASS}
    assert run(job, simulate=SimulatorConfig(batch_s=40), **batches).exit_code == 7
    place = tmp_path / "out.simulated"
    folder = place / "judge"
    assert _open_batches(folder) == 1
    code, _, stderr = command("cancel", place, "--quiet")
    assert code == 0, stderr
    assert _open_batches(folder) == 0


def _open_batches(folder: Path) -> int:
    if not (folder / "checkpoint.db").exists():
        return 0
    with closing(checkpoint.Checkpoint(folder, writable=False)) as store:
        return len(list(checkpoint.batches(store, open_only=True)))


def with_empty_expected(job: Path, rows: int) -> None:
    """Every third row has no expected answer."""
    lines = [f"r{n:05d},text {n},{'' if n % 3 == 1 else n}" for n in range(rows)]
    (job.parent / "rows.csv").write_text("\n".join(["id,text,truth", *lines]) + "\n")


def test_a_row_without_an_expected_answer_is_not_judged_against_one(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    with serving(decide) as provider:
        extra = SECTION.replace("{{ text }}", "{{ truth }}")
        job = write_job(provider.url, rows=6, extra=extra)
        with_empty_expected(job, 6)
        code, stdout, stderr = command("run", job)
        assert code == 0, stderr
        assert len(judged(provider.calls)) == 4
        assert results()["score"].to_list() == [1.0, None, 0.0, 1.0, None, 0.0]
        assert summary(tmp_path)["score"]["unscored"] == 2
        assert summary(tmp_path)["score"]["judge"]["missing"] == 0
        said = "2 rows not scored: expected is empty for this row, so it was not judged"
        assert said in " ".join((stdout + stderr).split())
        assert command("run", job, "--quiet")[0] == 0
        assert len(judged(provider.calls)) == 4
        # A prompt that does not show the expected answer needs none.
        text = job.read_text().replace("Right answer: {{ expected }} ", "")
        job.write_text(text)
        assert command("run", job, "--quiet", "--yes")[0] == 0
    assert len(judged(provider.calls)) == 10
    assert results()["score"].to_list() == [1.0, 0.5, 0.0] * 2


def judge_costs(tmp_path: Path) -> list[float | None]:
    found = summary(tmp_path)
    return [found["cost_usd"]["total"], found["score"]["judge"]["cost_usd"]]


def test_recost_counts_the_judge_again_too(write_job: Callable[..., Path], tmp_path: Path) -> None:
    with serving(decide) as provider:
        job = write_job(provider.url, rows=4, extra=SECTION)
        assert command("run", job, "--quiet")[0] == 0
        before = judge_costs(tmp_path)
        own = job.with_name("priced.toml")
        own.write_text(f"{job.read_text()}[price.'{JUDGE}']\ninput = 100\noutput = 0\n")
        code, stdout, stderr = command("recost", tmp_path / "out", "--job", own)
        assert code == 0, stderr
        assert judge_costs(tmp_path) == pytest.approx([before[0], 4 * 11 * 100 / 1e6])
        judge = tmp_path / "out" / "judge"
        assert f"{judge}: $0.004400 (before: $0.000552)" in stdout
        assert command("verify", tmp_path / "out")[0] == 0
        # What was given holds for later runs and verdicts.
        table = tmp_path / "rows.csv"
        table.write_text(table.read_text() + "new,text 9\n")
        assert command("run", job, "--quiet")[0] == 0
        assert judge_costs(tmp_path)[1] == pytest.approx(5 * 11 * 100 / 1e6)
        assert command("recost", tmp_path / "out", "--json")[0] == 0
        assert judge_costs(tmp_path)[1] == pytest.approx(5 * 11 * 100 / 1e6)
    assert len(provider.calls) == 10


def test_recost_counts_nothing_if_a_verdict_is_damaged(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    with serving(decide) as provider:
        job = write_job(provider.url, rows=4, extra=SECTION)
        assert run(job).exit_code == 0
    before = judge_costs(tmp_path)
    with closing(sqlite3.connect(tmp_path / "out" / "judge" / "checkpoint.db")) as db, db:
        db.execute("UPDATE results SET response = 'Verdict: good' WHERE request_id = 3")
    own = job.with_name("priced.toml")
    own.write_text(f"{job.read_text()}[price]\ninput = 100\noutput = 0\n")
    code, _, stderr = command("recost", tmp_path / "out", "--job", own)
    assert (code, "judge/checkpoint.db" in stderr) == (5, True), stderr
    assert judge_costs(tmp_path) == before


KILLS = 20
ROWS = 120


def test_a_judged_run_killed_20_times_loses_and_pays_no_verdict_twice(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    draws = random.Random(seed)

    last, killed = 0, threading.Event()

    def slowly(call: Call) -> Reply:
        """Answer slowly, and hold what comes too late to be answered before the process is killed."""
        return replace(decide(call), delay_s=0.01, until=killed if call.number > last else None)

    with serving(slowly) as provider:
        extra = f"[limits]\nconcurrency = 4\n{SECTION}"
        job = write_job(provider.url, rows=ROWS, extra=extra)
        for kill in range(KILLS):
            # Once near the end of the rows, then while the judge is at work; some verdicts are left.
            step = draws.randrange(1, 5) if kill else ROWS - 10
            release = len(provider.calls) + step
            last, killed = release + 2, threading.Event()
            process = start_batchrun("run", str(job), "--quiet")
            wait_until(lambda: len(provider.calls) >= release, process)  # noqa: B023
            time.sleep(draws.random() * 0.02)
            process.kill()
            finish(process)
            killed.set()
            provider.settle()
        provider.decide = decide
        code, _, stderr = command("run", str(job), "--quiet")
        assert code == 0, stderr
    assert results()["score"].to_list() == [(1.0, 0.5, 0.0)[n % 3] for n in range(ROWS)]
    _same_books(tmp_path / "out" / "judge", [c for c in provider.calls if is_judged(c)])


def _same_books(folder: Path, calls: list[Call]) -> None:
    """Compare the judge's checkpoint with what the server received."""
    with sqlite3.connect(folder / "checkpoint.db") as db:
        ((verdicts,),) = db.execute("SELECT count(*) FROM results WHERE status = 'succeeded'")
        ((attempts,),) = db.execute("SELECT count(*) FROM attempts")
        ((unsure,),) = db.execute("SELECT count(*) FROM attempts WHERE maybe_billed")
    assert verdicts == len({call.body for call in calls}) == ROWS
    # Beyond one request for each verdict, only what was in flight when a process died was sent again.
    assert verdicts <= len(calls) <= attempts
    assert attempts == verdicts + unsure
    # A process had at most 4 requests in flight when it died.
    assert unsure <= KILLS * 4
    # A verdict is paid again only where an attempt without an answer says so.
    assert len(calls) - verdicts <= unsure
