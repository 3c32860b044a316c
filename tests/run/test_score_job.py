"""`[score]` in the job file: what is read, and how a refusal names the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchrun import preview
from batchrun.errors import JobError
from batchrun.job import Job, ScoreConfig, apply_overrides
from batchrun.run.scoring import Evaluation

if TYPE_CHECKING:
    from pathlib import Path


def document(**score: Any) -> dict[str, Any]:
    request = {"model": "m", "prompt": "{{ text }}", "max_tokens": 10}
    return {"input": {"path": "rows.csv"}, "request": request, "score": score}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    (tmp_path / "mine.py").write_text("def score(row, answer): return 1\n")
    return lambda **score: Job.from_document(document(**score), tmp_path).scores


def test_a_job_without_the_section_scores_nothing(read: Any) -> None:
    assert read() == ()


def test_every_key(read: Any, tmp_path: Path) -> None:
    (found,) = read(expected="{{ label }}", match="choice", choices=["a ", "b"], answer="x(.)")
    assert found == ScoreConfig("{{ label }}", "choice", "x(.)", ("a", "b"))
    assert read(expected="{{ label }}")[0].match == "exact"
    assert read(function="mine.py:score")[0].function == (tmp_path / "mine.py", "score")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"match": "exact"}, r"\[score\] expected: is missing; .*function = "),
        ({"expected": " "}, r"\[score\] expected: is missing"),
        ({"expected": 5}, r"\[score\] expected: must be a string, not 5"),
        ({"expected": "x", "match": "numbr"}, r'match: must be one of .*did you mean "number"'),
        ({"expected": "x", "choices": ["a", "b"]}, r'choices: needs match = "choice"'),
        ({"expected": "x", "match": "choice", "choices": ["a"]}, "at least two labels"),
        ({"expected": "x", "match": "choice", "choices": ["a", "A"]}, "a label twice"),
        ({"expected": "x", "match": "choice", "choices": [1, 2]}, "array of strings"),
        ({"function": "mine.py"}, r'as "my_scores.py:score"'),
        ({"function": "mine.py:no-name"}, r'as "my_scores.py:score"'),
        ({"function": "other.py:score"}, "is not a Python file; expected at /"),
        ({"function": "mine.py:score", "match": "exact"}, "match has no effect"),
        ({"expected": "x", "stop_at": "2"}, r'stop_at: must be from "±0.1 %" to "±25 %"'),
        ({"expected": "x", "stop_at": 2}, r'stop_at: must be .*, such as "±2 %", not 2'),
        (
            {"expected": "x", "stop_at": "2 %", "cluster": "c"},
            "stop_at: does not work with cluster",
        ),
        ({"expected": "x", "stop_at": "2 %", "match": "math"}, 'not work with match = "math"'),
        ({"function": "mine.py:score", "stop_at": "2 %"}, "stop_at: does not work with function"),
        ({"expected": "x", "name": "a b"}, r"name: must be letters, digits and underscores"),
        ({"expected": "x", "weight": 0}, r"weight: must be a finite number above 0"),
        ({"expected": "x", "pass_at": float("inf")}, r"pass_at: must be a finite number"),
        (
            {"expected": "x", "match": "number", "pass_at": 2},
            r'pass_at: must be from 0 to 1, as the scores of match = "number" are, not 2; no answer',
        ),
        ({"expected": "x", "pass_at": -1}, r"from 0 to 1, .*, not -1; every answer would pass"),
        (
            {"judge": {"prompt": "{{ response }}", "scale": [1, 5]}, "pass_at": 6},
            r"pass_at: must be from 1 to 5, as the scores of the judge are, not 6",
        ),
        (
            {"judge": {"prompt": "{{ response }}", "choices": {"a": 3, "b": 0}}, "pass_at": 4},
            r"pass_at: must be from 0 to 3, as the scores of the judge are, not 4",
        ),
        (
            {"expected": "x", "answr": "y"},
            r'\[score\] answr: unknown key \(did you mean "answer"\?\)',
        ),
    ],
)
def test_what_is_refused(read: Any, score: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        read(**score)


def test_what_passes_is_within_the_scores_that_are_possible(read: Any) -> None:
    judge = {"prompt": "{{ response }}", "max_tokens": 9, "scale": [1, 5]}
    for score in (
        {"expected": "x", "pass_at": 1},
        {"expected": "x", "match": "f1", "pass_at": 0.5},
        {"function": "mine.py:score", "pass_at": 80},
        {"judge": judge, "pass_at": 4},
    ):
        assert read(**score)[0].pass_at == score["pass_at"]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"expected": "{{ labl }}"}, r"\[score\] expected: the input has no column 'labl'"),
        ({"expected": "{{ label }}", "by": ["labl"]}, r"\[score\] by: .* no column 'labl'"),
        ({"expected": "{{ label }}", "cluster": "labl"}, r"\[score\] cluster: .* column 'labl'"),
        (
            {"judge": {"prompt": "{{ response }} {{ labl }}", "scale": [1, 5], "max_tokens": 9}},
            r"\[score.judge\] prompt: .* no column 'labl'",
        ),
    ],
)
def test_preview_checks_the_columns_of_scores(
    tmp_path: Path, score: dict[str, Any], message: str
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    job = Job.from_document(document(**score), tmp_path)
    with pytest.raises(JobError, match=message):
        list(preview(job, 1))


def test_preview_runs_no_function_of_scores(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    (tmp_path / "mine.py").write_text("raise ValueError('was run')\n")
    job = Job.from_document(document(function="mine.py:score", by=["label"]), tmp_path)
    assert len(list(preview(job, 1))) == 1


def test_ways_to_write_half_a_width(read: Any) -> None:
    for given in ("±2 %", "2%", "+-2 %", "+/-2.0 %", 0.02):
        assert read(expected="x", stop_at=given)[0].stop_at == pytest.approx(0.02)


def several(*scorers: dict[str, Any]) -> dict[str, Any]:
    return {**document(), "score": [*scorers]}


def test_several_scorers_have_names(tmp_path: Path) -> None:
    one, other = {"name": "a", "expected": "x"}, {"name": "b", "expected": "y", "weight": 3}
    found = Job.from_document(several(one, other), tmp_path).scores
    assert [(config.name, config.expected, config.weight) for config in found] == [
        ("a", "x", 1.0),
        ("b", "y", 3.0),
    ]
    for scorers, message in (
        ([one, {"expected": "y"}], r"\[score.2\] name: is missing"),
        ([one, {**one, "name": "A"}], r"\[score.A\] name: 'A' is the name of another"),
        ([one, {**other, "mach": "x"}], r"\[score.b\] mach: unknown key"),
        ([one, 5], "score: must be a table, or an array of tables"),
        ([{**one, "name": f"n{n}"} for n in range(21)], "at most 20 are allowed"),
    ):
        with pytest.raises(JobError, match=message):
            Job.from_document(several(*scorers), tmp_path)


def test_a_key_of_one_of_several_scorers_can_be_set_for_one_run() -> None:
    scorers = several({"name": "a", "expected": "x"}, {"name": "b", "expected": "y"})
    changed = apply_overrides(scorers, {"score.b.match": "number"})
    assert changed["score"][1] == {"name": "b", "expected": "y", "match": "number"}
    assert "match" not in changed["score"][0]
    with pytest.raises(JobError, match=r"several \[\[score\]\]; write --set score.NAME.match=…"):
        apply_overrides(scorers, {"match": "number"})
    with pytest.raises(JobError, match="no \\[\\[score\\]\\] with name = 'c'"):
        apply_overrides(scorers, {"score.c.match": "number"})


def test_a_key_of_the_section_can_be_set_for_one_run() -> None:
    changed = apply_overrides(document(expected="x"), {"match": "number", "score.answer": "y"})
    assert changed["score"] == {"expected": "x", "match": "number", "answer": "y"}


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            "{{ labl }}",
            r"\[score\] expected: the input has no column 'labl' \(did you mean \"label\"",
        ),
        ('{{ row["labl"] }}', r"\[score\] expected: the input has no column 'labl'"),
        ("{{ label", r"\[score\] expected: not a valid template"),
    ],
)
def test_the_template_is_checked_against_the_columns(expected: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        Evaluation([ScoreConfig(expected=expected)], ("text", "label"))
