"""Which figures a score has follows from what it can be, not from what it happens to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchrun import Job, RunOptions, estimate, run_job
from batchrun.errors import JobError
from batchrun.evaluation.metrics import pass_interval, score_facts, score_lines
from batchrun.evaluation.scorer import kind_of, weighted_mean
from batchrun.evaluation.scores import RowScore, ScoreKind, ScoreSums, ScoreTotals
from batchrun.job import JudgeConfig, ScoreConfig
from tests.support.provider import Call, Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("judge", "kind"),
    [
        (JudgeConfig(scale=(0, 5)), ScoreKind.ANY),
        (JudgeConfig(scale=(0, 1)), ScoreKind.SHARE),
        (JudgeConfig(choices={"right": 1, "partly": 0.5, "wrong": 0}), ScoreKind.SHARE),
        (JudgeConfig(choices={"right": 1, "wrong": 0}), ScoreKind.BINARY),
        (JudgeConfig(choices={"great": 2, "bad": 0}), ScoreKind.ANY),
    ],
)
def test_a_judge_says_which_scores_are_possible(judge: JudgeConfig, kind: ScoreKind) -> None:
    assert kind_of(ScoreConfig(judge=judge)) is kind


def test_a_mean_is_as_free_as_the_freest_of_its_scores() -> None:
    right = RowScore(0, score=1.0, kind=ScoreKind.BINARY)
    rated = RowScore(0, score=1.0, kind=ScoreKind.ANY)
    overall = weighted_mean([right, rated], [1, 1])
    assert (overall.kind, overall.correct) == (ScoreKind.ANY, None)
    assert weighted_mean([right, right], [1, 1]).correct == 1


def rate(call: Call) -> Reply:
    return answer(call, "Verdict: 1" if "grade" in call.prompt else "fine")


JUDGED = """
[score.judge]
model = "m"
prompt = "grade {{{{ response }}}}"
scale = {scale}
max_tokens = 20
"""


@pytest.mark.parametrize(("scale", "correct"), [("[0, 5]", None), ("[0, 1]", 3)])
def test_verdicts_that_happen_to_be_1_have_a_mean_and_no_accuracy(
    write_job: Callable[..., Path], scale: str, correct: int | None
) -> None:
    with serving(rate) as provider:
        job = write_job(provider.url, rows=3, extra=JUDGED.format(scale=scale))
        report = run_job(Job.load(job), RunOptions(quiet=True))
    assert report.score is not None
    facts = score_facts(report.score)
    assert (facts["mean"], facts["accuracy"], facts["correct"]) == (1.0, None, correct)


def test_pass_at_k_on_a_scale_needs_a_mark(write_job: Callable[..., Path]) -> None:
    extra = JUDGED.format(scale="[0, 5]").replace(
        "[score.judge]", "[score]\nreduce = 'pass@2'\n[score.judge]"
    )
    with pytest.raises(JobError, match="reduce: needs pass_at"):
        Job.load(write_job("http://127.0.0.1:9", extra=extra))


def test_estimate_says_how_many_rows_a_score_needs(write_job: Callable[..., Path]) -> None:
    with serving(rate) as provider:
        job = write_job(provider.url, rows=40, extra="[score]\nexpected = 'fine'\n")
        (before,) = estimate(Job.load(job))
        run_job(Job.load(job), RunOptions(quiet=True))
        (after,) = estimate(Job.load(job))
    assert before.precision is not None
    assert after.precision is not None
    assert before.precision.rows == {"0.01": 9_604, "0.02": 2_401, "0.05": 385}
    assert (before.precision.scored, after.precision.scored) == (0, 40)
    assert after.precision.rows["0.02"] < 500  # all answers are right


def sums(rows: int, **more: Any) -> ScoreSums:
    return ScoreSums(scored=rows, total=rows / 2, squares=rows / 2, correct=rows // 2, **more)


def test_the_first_slices_and_fields_are_listed_and_the_others_counted() -> None:
    totals = ScoreTotals(
        scored=130,
        total=65,
        squares=65,
        correct=65,
        is_binary=True,
        majority=None,
        unanswered=0,
        slices={
            "language": {f"l{n:02}": sums(10, is_binary=True) for n in range(13)},
            "place": {f"p{n:02}": sums(10, is_binary=True) for n in range(12)},
        },
        fields={f"f{n:02}": (130, 65.0) for n in range(20)},
    )
    lines = score_lines(totals)
    assert "language = l11: accuracy 50.0 % (95 % CI 23.7 to 76.3), 5 of 10 rows" in lines
    assert not any("l12" in line or "f12" in line for line in lines)
    assert "language: 1 more, see score.by.language in summary.json" in lines
    assert "fields: 8 more, see score.fields in summary.json" in lines
    assert not any(line.startswith("place: ") for line in lines)


def test_what_passes_in_clusters_has_an_interval_only_where_the_clusters_count() -> None:
    """Rows that are alike say less than independent ones: an interval as of those is too narrow."""
    clusters: dict[str, Any] = {"clusters": 4, "cluster_sums": (120.0, 250.0, 700.0)}
    binary = pass_interval(sums(50, is_binary=True, **clusters))
    independent = pass_interval(sums(50, is_binary=True))
    assert binary is not None
    assert independent is not None
    assert binary[0] < independent[0]
    assert pass_interval(sums(50, is_binary=False)) == independent
    assert pass_interval(sums(50, is_binary=False, **clusters)) is None
