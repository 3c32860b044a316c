"""`samples`: every row is asked several times, each time by a request of its own."""

from __future__ import annotations

import json
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import Job, RunOptions, compare, comparison_json, export, run_job, score
from batchrun.errors import JobError
from batchrun.evaluation.metrics import pass_at
from batchrun.run.job_scores import check_reduce
from tests.conftest import KEY, batchrun, command, finish, start_batchrun, wait_until
from tests.support.provider import Call, Gate, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchrun import RunReport

    WriteJob = Callable[..., Path]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def run(job: Path, **options: Any) -> RunReport:
    return run_job(Job.load(job, options), RunOptions(quiet=True, yes=True))


def counted(call: Call) -> Reply:
    """The first answer to a prompt is its number, the second `2`, and so on."""
    return answer(call, str(call.seen + 1))


def summary(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.parent / "out" / "summary.json").read_text())
    return found


def test_every_row_is_asked_so_often_and_stands_once_in_the_results(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    with serving(counted) as provider:
        job = write_job(provider.url, rows=300, request="samples = 3")
        report = run(job)
    assert report.exit_code == 0
    assert set(Counter(call.prompt for call in provider.calls).values()) == {3}
    table = results()
    assert table["id"].to_list() == [f"r{n:05d}" for n in range(300)]
    assert table["custom_id"].to_list() == table["id"].to_list()
    assert {tuple(sorted(texts)) for texts in table["responses"]} == {("1", "2", "3")}
    assert [texts[0] for texts in table["responses"]] == table["response"].to_list()
    amounts = table.select("input_tokens", "output_tokens", "attempts").unique().rows()
    assert amounts == [(33, 21, 3)]
    assert table["cost_usd"].unique().to_list() == [pytest.approx(3 * 46e-6)]
    assert summary(job)["counts"] == {"total": 300, "succeeded": 300, "errored": 0, "pending": 0}
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    assert usage.height == 900
    assert set(usage["custom_id"]) == set(table["id"])


def test_more_samples_send_only_what_is_missing_and_fewer_send_nothing(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    with serving(counted) as provider:
        job = write_job(provider.url, rows=20)
        for samples, calls in ((2, 40), (5, 100), (3, 100), (1, 100), (5, 100)):
            assert run(job, samples=samples).exit_code == 0
            assert len(provider.calls) == calls
            texts = results()["responses" if samples > 1 else "response"].to_list()
            assert {len(each) for each in texts} == {max(1, samples)}
    assert {tuple(sorted(each)) for each in texts} == {("1", "2", "3", "4", "5")}


def test_identical_rows_have_samples_of_their_own(
    write_job: WriteJob, results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    with serving(counted) as provider:
        job = write_job(provider.url, request="samples = 2")
        (tmp_path / "rows.csv").write_text("id,text\n" + "".join(f"{n},same\n" for n in range(50)))
        run(job)
    assert len(provider.calls) == 100
    every = [text for texts in results()["responses"] for text in texts]
    assert sorted(map(int, every)) == list(range(1, 101))


def test_a_row_is_as_good_as_its_samples(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        if call.prompt == "Say text 1" and call.seen == 1:
            return refusal(400, "invalid_request_error", "not twice")
        if call.prompt == "Say text 2":
            return refusal(400, "invalid_request_error", "never")
        return counted(call)

    score_section = '[score]\nexpected = "1"\n'
    with serving(decide) as provider:
        job = write_job(provider.url, rows=4, request="samples = 2", extra=score_section)
        assert run(job).exit_code == 3
    table = results()
    assert table["status"].to_list() == ["succeeded", "errored", "errored", "succeeded"]
    assert sorted(filter(None, table["responses"][1])) == ["1"]
    assert len(table["responses"][1]) == 2
    assert table["responses"][2] is None
    assert table["error_message"].to_list() == [None, "not twice", "never", None]
    assert table["http_status"].to_list() == [200, 400, 400, 200]
    assert table["score"].to_list() == [0.5, None, None, 0.5]
    assert summary(job)["counts"] == {"total": 4, "succeeded": 2, "errored": 2, "pending": 0}


def test_a_killed_run_goes_on_with_the_samples_that_are_missing(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    gate = Gate(50)
    with serving(gate.decide) as provider:
        job = write_job(
            provider.url, rows=30, request="samples = 4", extra="[limits]\nconcurrency = 4"
        )
        process = start_batchrun("run", job)
        wait_until(lambda: len(provider.calls) > 50, process)
        process.send_signal(signal.SIGKILL)
        finish(process)
        gate.opened.set()
        assert batchrun("run", job)[0] == 0
    # Twice at most: what was in flight, and one group of commits.
    assert 120 <= len(provider.calls) <= 120 + 8
    assert results()["responses"].list.len().unique().to_list() == [4]
    assert set(results()["status"]) == {"succeeded"}


def test_samples_are_scored_together(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        """Row n has n right answers of four."""
        row = int(call.prompt.rpartition(" ")[2])
        return answer(call, "right" if call.seen < row else f"wrong {call.seen // 3}")

    section = '[score]\nexpected = "right"\n'
    with serving(decide) as provider:
        job = write_job(provider.url, rows=5, request="samples = 4", extra=section)
        run(job)
    assert results()["score"].to_list() == [0, 0.25, 0.5, 0.75, 1]
    found = summary(job)["score"]
    assert (found["mean"], found["correct"], found["accuracy"]) == (0.5, 1, None)
    by_correct = {(4, right): 1 for right in range(5)}
    assert found["samples"]["pass_at"] == {str(k): pass_at(k, by_correct) for k in (1, 2, 4)}
    # Of two right answers and two wrong ones that differ, the right one has the majority.
    assert results()["predicted"].to_list()[2:] == ["right"] * 3
    assert found["samples"]["majority_accuracy"] == 3 / 5
    assert score(job.parent / "out").scored == 5
    assert export(job.parent / "out", None).paths
    assert results()["score"].to_list() == [0, 0.25, 0.5, 0.75, 1]


def test_a_run_with_samples_is_compared_with_one_without(
    write_job: WriteJob, tmp_path: Path
) -> None:
    section = '[score]\nexpected = "1"\n[price]\ninput = 1\noutput = 2\n'
    with serving(counted) as provider:
        job = write_job(provider.url, rows=6, extra=section)
        run(job, **{"output.dir": str(tmp_path / "one")})
    with serving(counted) as provider:
        job = write_job(provider.url, rows=6, extra=section, request="samples = 2")
        run(job, **{"output.dir": str(tmp_path / "two")})
    runs = json.loads(comparison_json(compare([tmp_path / "one", tmp_path / "two"])))["runs"]
    assert [one["mean"] for one in runs] == [1, 0.5]
    assert [one["cost_per_correct_usd"] for one in runs] == pytest.approx([25e-6, 50e-6])
    pairs = runs[1]["against_first"]
    assert (pairs["common"], pairs["scored"], pairs["difference"]) == (6, 6, -0.5)


@pytest.mark.parametrize("request_keys", ["samples = 2\nn = 2", "samples = 0", "samples = 101"])
def test_samples_that_are_refused(write_job: WriteJob, request_keys: str) -> None:
    with pytest.raises(JobError, match=r"\[request\] samples"):
        Job.load(write_job("http://127.0.0.1:1", wire_format="chat", request=request_keys))


REDUCED = """
[score]
expected = "1"
reduce = "pass@{}"
"""


def test_a_run_begins_only_with_as_many_answers_as_the_score_needs(write_job: WriteJob) -> None:
    with serving(counted) as provider:
        job = write_job(provider.url, rows=2, request="samples = 2", extra=REDUCED.format(5))
        code, _, stderr = command("run", job, "--quiet")
        assert (code, len(provider.calls)) == (2, 0)
        assert (
            '[score] reduce: "pass@5" needs 5 answers to each row, and [request] samples = 2 asks '
            "for 2; set samples = 5" in stderr
        )
        text = job.read_text().replace("pass@5", "pass@2")
        job.write_text(text)
        assert command("run", job, "--quiet")[0] == 0
        # A finished run has the answers that it has, whatever the job asks for now.
        job.write_text(text.replace("samples = 2", "samples = 1"))
        code, stdout, stderr = command("score", job.parent / "out", "--job", job, "--json")
    assert code == 0, stderr
    assert json.loads(stdout)["scored"] == 2


def test_the_choices_of_a_request_count_as_answers(write_job: WriteJob) -> None:
    job = write_job(
        "http://127.0.0.1:9", wire_format="chat", request="n = 3", extra=REDUCED.format(4)
    )
    with pytest.raises(JobError, match=r'"pass@4" needs 4 .* n = 3 asks for 3; set n = 4'):
        check_reduce(Job.load(job))
    check_reduce(Job.load(job, {"n": 4}))
    of_row = {"request.n": None, "request.extra_body": {"n": 4}}
    check_reduce(Job.load(job, of_row))
