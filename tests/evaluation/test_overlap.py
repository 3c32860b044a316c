"""Overlap of texts and sets of labels, against the libraries that define them, on random data."""

from __future__ import annotations

import json
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.evaluation import Scorer
from batchrun.evaluation.json_values import leaves
from batchrun.evaluation.label_sets import read_labels
from batchrun.evaluation.matching import MatchOptions, compare
from batchrun.evaluation.numbers import Tolerance
from batchrun.evaluation.overlap import rouge, squad_f1
from batchrun.evaluation.reducers import majority_of, pass_all, pass_any, passes, reduced
from batchrun.evaluation.scores import AnswerScore, CannotScore
from batchrun.job import ScoreConfig

if TYPE_CHECKING:
    import random

WORDS = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "a", "mat,", "THE", "Dog.", "42", "over"]),
    max_size=25,
)
LABELS = ("bug", "billing", "how_to", "spam")


@settings(deadline=None, max_examples=60)  # the libraries are imported by the first one
@given(WORDS, WORDS)
def test_rouge_is_what_rouge_score_computes(one: list[str], other: list[str]) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    variants = ["rouge1", "rouge2", "rougeL"]
    said, right = " ".join(one), " ".join(other)
    known = RougeScorer(variants).score(right, said)
    for variant in variants:
        assert rouge(said, right, variant) == pytest.approx(known[variant].fmeasure)


def test_rouge_knows_words_of_other_scripts() -> None:
    assert rouge("Привет мир", "привет, мир!", "rouge1") == 1


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        ("The Cat!", "cat", 1),
        ("a cat sat", "cat", 2 / 3),
        ("dog", "cat", 0),
        ("", "cat", 0),
        ("the", "a", 1),
        ("cat cat", "cat", 2 / 3),
    ],
)
def test_f1_is_that_of_squad(said: str, right: str, score: float) -> None:
    assert squad_f1(said, right) == pytest.approx(score)


@settings(deadline=None, max_examples=60)  # the libraries are imported by the first one
@given(st.lists(st.sets(st.sampled_from(LABELS)), min_size=1, max_size=12), st.randoms())
def test_sets_are_scored_as_scikit_learn_does(truth: list[set[str]], chance: random.Random) -> None:
    from sklearn.metrics import f1_score
    from sklearn.preprocessing import MultiLabelBinarizer

    said = [{label for label in LABELS if chance.random() < 0.5} for _ in truth]
    encode = MultiLabelBinarizer(classes=LABELS).fit([LABELS]).transform
    for one, other in zip(truth, said, strict=True):
        known = f1_score(encode([one]), encode([other]), average="samples", zero_division=1.0)
        found = compare("set", ", ".join(sorted(other)), sorted(one), MatchOptions(choices=LABELS))
        assert found.score == pytest.approx(known)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("bug, billing", {"bug", "billing"}),
        ('["Bug", "billing"]', {"bug", "billing"}),
        ("Labels: bug and **billing**", {"bug", "billing"}),
        ("- bug\n- how to", {"bug", "how_to"}),
        ('```json\n{"labels": ["spam"]}\n```', {"spam"}),
        ("none", set()),
        ("", set()),
        ("[]", set()),
        ("bug; something else", {"bug", "something else"}),
    ],
)
def test_sets_as_models_write_them(text: str, labels: set[str]) -> None:
    assert read_labels(text, LABELS) == labels


@pytest.mark.parametrize("variant", ["", "levenshtein", "token_set_ratio", "jaro_winkler"])
def test_similarity(variant: str) -> None:
    options = MatchOptions(variant=variant)
    assert compare("similarity", "**New  York**.", "new york", options).score == 1
    assert 0.5 < compare("similarity", "New Yorck", "New York", options).score < 1
    assert compare("similarity", "zzz", "New York", options).score < 0.5


def test_fields_are_compared_one_by_one() -> None:
    right = {"name": "Ann", "age": 30, "address": {"city": "Rome", "tags": [1, 2]}}
    said = {"name": "Ann", "age": 30.2, "address": {"city": "Oslo", "tags": [1, 2]}, "more": 1}
    found = compare("fields", f"Here: {json.dumps(said)}", right)
    assert found.fields == {
        "name": True,
        "age": False,
        "address.city": False,
        "address.tags": True,
    }
    assert found.score == 0.5
    close = MatchOptions(tolerance=Tolerance(0.01, is_share=True))
    assert compare("fields", json.dumps(said), right, close).score == 0.75
    assert compare("fields", "no", right).fields == dict.fromkeys(dict(leaves(right)), False)
    with pytest.raises(CannotScore, match="not a JSON object with fields"):
        compare("fields", "{}", [1])


@pytest.mark.parametrize(
    ("text", "expected", "same"),
    [
        (r"The answer is $\frac{1}{2}$", "0.5", True),
        (r"\boxed{2x + x}", "3x", True),
        (r"\boxed{(x+1)^2}", "x^2 + 2x + 1", True),
        (r"\boxed{\sqrt{8}}", r"2\sqrt{2}", True),
        (r"\boxed{\sqrt{8}}", "2", False),
        (r"<think>\boxed{3}</think>\boxed{4}", "4", True),
        ("I do not know", "4", False),
    ],
)
def test_math_is_symbolic(text: str, expected: str, *, same: bool) -> None:
    assert compare("math", text, expected).score == float(same)


def test_an_expression_that_never_ends_has_no_score_and_the_next_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from batchrun.evaluation import symbolic

    monkeypatch.setattr(symbolic, "TIMEOUT_S", 2.0)
    with pytest.raises(CannotScore, match="longer than"):
        compare("math", r"\boxed{9^{9^{9^{9}}} - 9^{9^{9^{9}}}}", "9^{9^{9^{9}}}+1")
    assert compare("math", r"\boxed{4}", "2+2").score == 1


@pytest.mark.parametrize(
    ("tolerance", "same"),
    [(None, False), (0.5, True), (0.1, False), ("1 %", True), ("0.1 %", False)],
)
def test_tolerance_of_numbers(tolerance: float | str | None, *, same: bool) -> None:
    scorer = Scorer(ScoreConfig(expected="x", match="number", tolerance=tolerance))
    assert scorer.score_row(0, {}, 100, ["about 99.6"]).score == float(same)


@pytest.mark.parametrize("part", ["\\boxed{", "[", '{"a":"', "1,", "```\n", "A and ", "not ", "**"])
@pytest.mark.parametrize("match", ["choice", "number", "json", "set", "casefold", "f1"])
def test_no_long_text_keeps_a_comparison_busy(match: str, part: str) -> None:
    """In the square of its length, this would take minutes."""
    expected = {"choice": "B", "number": 10, "json": {}}.get(match, "x")
    start = perf_counter()
    assert compare(match, part * (100_000 // len(part)), expected).score < 1
    assert perf_counter() - start < 10


# reducers


def scores(*values: float) -> list[AnswerScore]:
    return [AnswerScore(value, f"{value:g}") for value in values]


@pytest.mark.parametrize(
    ("how", "values", "wanted"),
    [
        ("mean", (1, 0, 0, 1), 0.5),
        ("max", (0.2, 0.7), 0.7),
        ("majority", (0, 1, 1), 1),
        ("majority", (0, 1), 0),
        ("at_least_2", (1, 0, 1), 1),
        ("at_least_3", (1, 0, 1), 0),
        ("pass@2", (1, 0, 0, 0), 0.5),
        ("pass^2", (1, 1, 1, 0), 0.5),
    ],
)
def test_one_score_of_several(how: str, values: tuple[float, ...], wanted: float) -> None:
    found = scores(*values)
    assert reduced(how, found, majority_of(found), None) == pytest.approx(wanted)


def test_what_cannot_be_reduced() -> None:
    with pytest.raises(CannotScore, match="has 2 of the 3 answers"):
        reduced("pass@3", scores(1, 0), scores(1)[0], None)
    with pytest.raises(CannotScore, match="needs pass_at"):
        reduced("at_least_1", scores(4, 5), scores(4)[0], None)
    assert reduced("at_least_1", scores(4, 5), scores(4)[0], 5) == 1


@settings(deadline=None, max_examples=60)  # the libraries are imported by the first one
@given(st.integers(1, 8), st.data())
def test_pass_at_k_and_pass_hat_k_count_every_draw(answers: int, data: Any) -> None:
    from itertools import combinations

    right = [data.draw(st.booleans()) for _ in range(answers)]
    k = data.draw(st.integers(1, answers))
    draws = list(combinations(right, k))
    assert pass_any(k, answers, sum(right)) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert pass_all(k, answers, sum(right)) == pytest.approx(sum(map(all, draws)) / len(draws))


def test_scores_of_another_scale_pass_only_where_that_is_said() -> None:
    assert passes(scores(1, 0.5), None) == [True, False]
    assert passes(scores(1, 5), None) is None
    assert passes(scores(1, 5), 4) == [False, True]
    row = Scorer(ScoreConfig(expected="x")).score_row(0, {}, "5", ["5", "4"])
    assert (row.correct, row.majority) == (1, 1.0)


def test_answers_that_are_none_of_the_labels_are_no_labels() -> None:
    scorer = Scorer(ScoreConfig(expected="x", match="casefold", labels=("Yes", "no")))
    junk = scorer.score_row(0, {}, "yes", ["I am not sure."])
    assert (junk.score, junk.predicted, junk.expected) == (0, None, "Yes")
    good = scorer.score_row(0, {}, "YES", ["**yes**."])
    assert (good.score, good.predicted, good.expected) == (1, "Yes", "Yes")
    assert "none of the labels" in str(scorer.score_row(0, {}, "maybe", ["yes"]).problem)
