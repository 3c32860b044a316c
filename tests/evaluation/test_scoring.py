"""Comparing answers with what is expected, and the statistics of that: pure, by known values."""

from __future__ import annotations

import json
from decimal import Decimal
from math import comb
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import JobError
from batchrun.evaluation import Scorer, ScoreTotals, score_facts, score_line, score_lines
from batchrun.evaluation.choices import Choices
from batchrun.evaluation.intervals import wilson
from batchrun.evaluation.json_values import find_json, is_same_json
from batchrun.evaluation.matching import compare
from batchrun.evaluation.metrics import pass_at
from batchrun.evaluation.numbers import as_number, find_number
from batchrun.evaluation.patterns import LONGEST_TEXT, Pattern
from batchrun.evaluation.scores import CannotScore
from batchrun.job import ScoreConfig

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.evaluation import RowScore

LABELS = ("billing", "bug", "how_to")


def judged(right: object, *texts: str, row: dict[str, Any] | None = None, **keys: Any) -> RowScore:
    config = ScoreConfig(**{"expected": "{{ label }}", **keys})
    return Scorer(config).score_row(0, row or {}, right, texts)


def function_file(folder: Path, body: str) -> tuple[Path, str]:
    path = folder / "judge_of_tests.py"
    path.write_text(body, encoding="utf-8")
    return path, "score"


# numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", "72"),
        ("The answer is 72.", "72"),
        ("1,234", "1234"),
        ("1,234,567.89", "1234567.89"),
        ("1.234.567,89", "1234567.89"),
        ("12,34,567", "1234567"),
        ("1'234'567", "1234567"),
        ("1\u202f234\u202f567", "1234567"),
        ("1_000", "1000"),
        ("3,5", "3.5"),
        ("0,125", "0.125"),
        ("0.50", "0.5"),
        (".5", "0.5"),
        ("5.", "5"),
        ("$1,234.50", "1234.5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("€ 12", "12"),
        ("\u22125", "-5"),
        ("+5", "5"),
        ("10-5", None),
        ("x-5", "5"),
        ("from 3 to -4", "-4"),
        ("1e3", "1000"),
        ("1.5E-3", "0.0015"),
        ("-2e+2", "-200"),
        ("12%", "12"),
        ("12 %", "12"),
        ("3/4", "0.75"),
        ("3 / 4 of it", "0.75"),
        ("5/0", None),
        ("1,2,3", "3"),
        ("v1.2.3", None),
        ("#### 18\n", "18"),
        ("**42**", "42"),
        ("\\boxed{42}", "42"),
        ("007", "7"),
        ("-0", "0"),
        ("1e9999", "1E+9999"),
        ("9" * 500, None),
        ("no number", None),
        ("", None),
    ],
)
def test_numbers_as_people_write_them(text: str, value: str | None) -> None:
    found = find_number(text)
    assert (None if found is None else str(found)) == value


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.1", 0.1, True),
        ("0.30000000000000004", 0.3, True),
        ("1/3", 0.3333333333333333, True),
        ("0.333", "1/3", False),
        ("100000000000000000000", "100000000000000000001", False),
        ("12%", 12, True),
        ("12%", 0.12, True),
        ("12%", "0.12%", False),
        ("0.12", 12, False),
        ("1e9999", "1", False),
        ("3", Decimal("3.00"), True),
    ],
)
def test_when_two_numbers_are_the_same(one: object, other: object, *, same: bool) -> None:
    first, second = as_number(one), as_number(other)
    assert first is not None
    assert second is not None
    assert first.equals(second) is same
    assert second.equals(first) is same


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), "none", None])
def test_what_is_no_number(value: object) -> None:
    assert as_number(value) is None


@given(st.integers(-(10**15), 10**15))
def test_a_whole_number_is_read_with_and_without_separators(number: int) -> None:
    for text in (f"{number}", f"{number:,}", f"so: {number:,}.", f"{number:_}"):
        found = find_number(text)
        assert found is not None
        assert found.value == number


@given(st.text(alphabet="0123456789.,-+eE/%$ ' x", max_size=60))
def test_no_text_breaks_the_reading_of_numbers(text: str) -> None:
    found = find_number(text)
    assert found is None or found.equals(found)
    assert str(found)


@pytest.mark.parametrize("part", ["1", "1,", "1-", "1/", "$", " ", "1e", "."])
def test_no_long_text_keeps_the_reading_of_numbers_busy(part: str) -> None:
    find_number(part * 100_000)  # in the square of its length this would take minutes


# choices


@pytest.mark.parametrize(
    ("text", "picked"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("**B**", "B"),
        ("B) Paris", "B"),
        ("(B) Paris, because A is wrong", "B"),
        ("Answer: B", "B"),
        ("answer: (B)", "B"),
        ("The correct answer is B.", "B"),
        ("The answer is **B**.", "B"),
        ("\\boxed{B}", "B"),
        ("$\\boxed{\\text{B}}$", "B"),
        ("Answer: A. No, wait. Answer: C", "C"),
        ("\\boxed{C}, that is. Answer: A is a trap", "C"),
        ("Answer: A? No: \\boxed{C}", "C"),
        ("A dog is an animal, so B", "B"),
        ("I think it is C", "C"),
        ("It is A or B", None),
        ("None of these", None),
        ("", None),
        ("Because", None),
    ],
)
def test_letters(text: str, picked: str | None) -> None:
    assert Choices().find(text) == picked


@pytest.mark.parametrize(
    ("text", "picked"),
    [
        ("billing", "billing"),
        ("Billing.", "billing"),
        ("How to", "how_to"),
        ("Label: how-to", "how_to"),
        ("The category is bug", "bug"),
        ("This is a bug report", "bug"),
        ("a debugging session", None),
        ("bug or billing", None),
        ("bug, or rather billing. Answer: billing", "billing"),
    ],
)
def test_labels(text: str, picked: str | None) -> None:
    assert Choices(LABELS).find(text) == picked


@pytest.mark.parametrize(
    ("expected", "picked"), [("B", "B"), ("b", "B"), (1, "B"), ("Answer: B", "B"), (99, None)]
)
def test_an_expected_choice_may_be_a_number_from_0(expected: object, picked: str | None) -> None:
    assert Choices().of(expected) == picked


def test_a_number_that_is_a_choice_is_no_place_in_the_list() -> None:
    assert Choices(("1", "2", "3")).of(1) == "1"


# ways of comparing


@pytest.mark.parametrize(
    ("match", "text", "expected", "score", "predicted"),
    [
        ("exact", " Paris\n", "Paris", 1, "Paris"),
        ("exact", "paris", "Paris", 0, "paris"),
        ("exact", "3", 3, 1, "3"),
        ("exact", "true", True, 1, "true"),
        ("exact", "rome", ["Roma", "rome"], 1, "rome"),
        ("casefold", "STRASSE", "Straße", 1, "Straße"),
        ("casefold", "new  york", "New York", 1, "New York"),
        ("casefold", "York", "New York", 0, "York"),
        ("contains", "It is Paris.", "Paris", 1, "It is Paris."),
        ("contains", "It is paris.", "Paris", 0, "It is paris."),
        ("contains", "Roma, of course", ["Rome", "Roma"], 1, "Roma, of course"),
        ("regex", "call 555-1234 now", r"\d{3}-\d{4}", 1, "call 555-1234 now"),
        ("regex", "call now", r"\d", 0, "call now"),
        ("number", "so $1,000.00 in all", 1000, 1, "1000"),
        ("number", "no idea", 1000, 0, None),
        ("number", "7", "6 + 1 = 7", 1, "7"),
        (
            "json",
            '{"b": [1, 2.0], "a": null}',
            {"a": None, "b": [1, 2]},
            1,
            '{"a":null,"b":[1,2.0]}',
        ),
        ("json", '```json\n{"a": 1}\n```', '{"a": 1}', 1, '{"a":1}'),
        ("json", 'Here: {"a": 1}. Done', '{"a": 2}', 0, '{"a":1}'),
        ("json", "[1, 2]", [2, 1], 0, "[1,2]"),
        ("json", "not valid JSON", {}, 0, None),
        ("json", "[" * 100_000, {}, 0, None),
        ("choice", "(C)", "C", 1, "C"),
        ("choice", "who knows", 2, 0, None),
    ],
)
def test_compare(match: str, text: str, expected: object, score: float, predicted: str) -> None:
    verdict = compare(match, text, expected)
    assert (verdict.score, verdict.predicted) == (score, predicted)


@pytest.mark.parametrize(
    ("match", "expected", "reason"),
    [
        ("number", "many", "no number"),
        ("json", "{", "not valid JSON"),
        ("regex", "(", "RE2"),
        ("regex", "(?=a)", "lookahead"),
        ("choice", "?", "none of the choices"),
        ("exact", [], "empty list"),
    ],
)
def test_what_nothing_can_be_compared_with(match: str, expected: object, reason: str) -> None:
    with pytest.raises(CannotScore, match=reason):
        compare(match, "1", expected)


def test_truth_is_no_number_in_json() -> None:
    assert not is_same_json({"a": True}, {"a": 1})
    assert is_same_json([{"a": [1.0]}], [{"a": [1]}])
    assert not is_same_json({"a": 1}, {"a": 1, "b": None})


def test_the_last_fenced_block_is_the_answer() -> None:
    assert find_json('```json\n{"a": 1}\n```\nbetter:\n```\n{"a": 2}\n```') == {"a": 2}


# patterns


def test_the_last_match_and_its_first_group_count() -> None:
    assert Pattern(r"(?s)####\s*(.+)").find("3 + 4\n#### 7\n") == "7\n"
    assert Pattern(r"#### (\d+)").find("#### 6, no: #### 7") == "7"
    assert Pattern(r"\d+").find("6, no: 7") == "7"
    assert Pattern(r"is (?:(\d+)|(\w+))").find("it is seven") == "seven"
    assert Pattern(r"x").find("y") is None


@pytest.mark.parametrize("source", ["(a+)+$", "(a|a)*$", "(.*,){20}x", "(a?){50}a{50}"])
def test_no_pattern_runs_for_ever(source: str) -> None:
    Pattern(source).find("a" * 20_000 + "!")  # Python's own would, with 40 characters


@pytest.mark.parametrize(
    "source", ["(", "(?=x)", r"(a)\1", "((a{1000}){1000}){1000}", "a" * 10_001]
)
def test_patterns_that_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match="RE2|longer"):
        Pattern(source)


def test_only_the_end_of_a_giant_text_is_looked_through() -> None:
    assert Pattern("first").find("first" + "x" * LONGEST_TEXT) is None
    assert Pattern("last").find("x" * LONGEST_TEXT + "last") == "last"
    assert Pattern("b").find("a\ud800b") == "b"


# a row


def test_an_answer_that_is_not_there_is_wrong() -> None:
    mark = judged("7", "I do not know", match="number", answer=r"####\s*(.+)")
    assert (mark.score, mark.predicted, mark.expected, mark.problem) == (0, None, "7", None)


@pytest.mark.parametrize("expected", [None, "", "  "])
def test_a_row_without_an_expected_answer_has_no_score(expected: object) -> None:
    mark = judged(expected, "7")
    assert (mark.score, mark.predicted) == (None, None)
    assert mark.problem == "expected is empty for this row"


def test_several_answers_come_to_a_mean_and_a_vote() -> None:
    mark = judged("b", "a", "B", "b", "b", "c", match="casefold")
    assert mark.score == pytest.approx(3 / 5)
    assert (mark.predicted, mark.majority) == ("b", 1)
    assert (mark.answers, mark.correct) == (5, 3)


def test_of_equally_many_votes_the_first_counts_and_silence_is_no_vote() -> None:
    mark = judged("2", "none", "none", "1", "2", match="number")
    assert (mark.predicted, mark.majority, mark.correct) == ("1", 0, 1)
    assert judged("2", "none", "no", match="number").majority == 0


def test_the_label_of_a_list_is_the_one_that_was_given() -> None:
    assert judged(["Rome", "Roma"], "roma", match="casefold").expected == "Roma"
    assert judged(["Rome", "Roma"], "Paris", match="casefold").expected == "Rome"


# functions


@pytest.mark.parametrize(
    ("returned", "score", "predicted"),
    [
        ("True", 1, "true"),
        ("0.25", 0.25, None),
        ("{'score': False}", 0, None),
        ("{'score': 1, 'predicted': 7}", 1, "7"),
    ],
)
def test_what_a_function_may_return(
    tmp_path: Path, returned: str, score: float, predicted: str | None
) -> None:
    function = function_file(tmp_path, f"def score(row, answer):\n    return {returned}\n")
    mark = judged(None, "x", function=function, expected=None)
    assert (mark.score, mark.predicted) == (score, predicted)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("None", "gave no score"),
        ("'1'", "not a finite number"),
        ("float('nan')", "not a finite number"),
        ("[1]", "not a finite number"),
        ("{'scores': 1}", 'has a "score"'),
        ("{'score': 1, 'other': 2}", "nothing else"),
        ("1 / 0", "raised ZeroDivisionError"),
        ("exit(3)", "raised SystemExit"),
    ],
)
def test_a_function_that_gives_no_score_is_told_as_data(
    tmp_path: Path, returned: str, reason: str
) -> None:
    function = function_file(tmp_path, f"def score(row, answer):\n    return {returned}\n")
    mark = judged(None, "x", function=function, expected=None)
    assert mark.score is None
    assert reason in (mark.problem or "")


def test_a_function_sees_the_row_and_the_answer_that_was_found(tmp_path: Path) -> None:
    body = "def score(row, answer):\n    return row['a'] == 1 and answer == '7'\n"
    function = function_file(tmp_path, body)
    mark = judged("8", "#### 7", row={"a": 1}, function=function, answer="#### (.+)")
    assert (mark.score, mark.predicted, mark.expected) == (1, "7", "8")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import nothing_of_that_name", "line 1 cannot be imported: ModuleNotFoundError"),
        ("def other(): ...", "has no function score"),
        ("async def score(row, answer): ...", "plain def"),
        ("def score(answer): ...", r"def score\(row, answer\)"),
    ],
)
def test_functions_that_are_refused(tmp_path: Path, body: str, reason: str) -> None:
    judge = Scorer(ScoreConfig(function=function_file(tmp_path, body)))
    with pytest.raises(JobError, match=rf"\[score\] function: .*{reason}"):
        judge.load()


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(JobError, match=r"\[score\] answer: '\(' is not a pattern in RE2 syntax"):
        Scorer(ScoreConfig(expected="x", answer="("))


# statistics


@pytest.mark.parametrize(("correct", "count"), [(0, 1), (1, 1), (1, 2), (3, 10), (700, 1000)])
def test_wilson_is_what_statsmodels_computes(correct: int, count: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    known = proportion_confint(correct, count, alpha=0.05, method="wilson")
    assert wilson(correct, count) == pytest.approx(known, abs=1e-12)


@given(st.integers(1, 12), st.data())
def test_pass_at_k_counts_the_draws_that_hold_a_right_answer(answers: int, data: Any) -> None:
    correct = data.draw(st.integers(0, answers))
    k = data.draw(st.integers(1, answers))
    draws = comb(answers, k)
    without = comb(answers - correct, k)
    assert pass_at(k, {(answers, correct): 3}) == pytest.approx((draws - without) / draws)


def test_pass_at_k_leaves_out_rows_with_fewer_answers() -> None:
    assert pass_at(2, {(1, 1): 5, (4, 1): 1, (4, 4): 1}) == pytest.approx((0.5 + 1) / 2)
    assert pass_at(2, {(1, 1): 5}) is None


EMPTY = ScoreTotals(
    scored=0,
    total=0.0,
    squares=0.0,
    is_binary=True,
    correct=0,
    majority=0.0,
    unanswered=0,
    unscored=3,
    problem="expected is empty for this row",
)


def test_when_nothing_was_scored() -> None:
    facts = score_facts(EMPTY)
    assert (facts["scored"], facts["mean"], facts["ci95"]) == (0, None, None)
    assert score_line(EMPTY) == "nothing was scored"
    assert "3 rows not scored: expected is empty" in score_lines(EMPTY)[1]


def test_scores_other_than_0_and_1_have_a_mean_and_no_accuracy() -> None:
    totals = ScoreTotals(
        scored=4,
        total=2.5,
        squares=2.125,
        is_binary=False,
        correct=2,
        majority=2.5,
        unanswered=0,
    )
    facts = score_facts(totals)
    assert (facts["mean"], facts["accuracy"], facts["ci_method"]) == (
        0.625,
        None,
        "effective_wilson",
    )
    assert score_line(totals).startswith("mean 0.625 (95 % CI 0.")


def test_json_texts_are_equal_in_any_unicode_form() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    said = json.dumps({"place": [composed]}, ensure_ascii=False)
    for match in ("json", "fields"):
        assert compare(match, said, {"place": [decomposed]}).score == 1
        assert compare(match, said, {"place": ["cafe"]}).score == 0
