"""Ways of comparing, reducers and agreement, against inspect_ai, rapidfuzz and scikit-learn on random data."""

from __future__ import annotations

import re
from collections import Counter
from math import isnan
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.evaluation.agreement import cohen_kappa
from batchrun.evaluation.matching import MatchOptions, compare
from batchrun.evaluation.reducers import majority_of, reduced
from batchrun.evaluation.scores import AnswerScore

if TYPE_CHECKING:
    from inspect_ai.scorer import Scorer

TEXTS = st.lists(
    st.sampled_from(["the", "Cat", "cat", "sat.", "on", "an", "mat,", "DOG", "over", "(bug)"]),
    max_size=12,
).map(" ".join)
LETTERS = "ABCD"
SLOW_FIRST = settings(deadline=None, max_examples=60)  # the library is imported by the first one


def known(scorer: Scorer, text: str, *targets: str) -> float:
    """Return what a scorer of inspect_ai gives an answer."""
    from inspect_ai.model import ModelName, ModelOutput
    from inspect_ai.scorer import Target, value_to_float
    from inspect_ai.solver import TaskState

    output = ModelOutput.from_content("mock/model", text)
    state = TaskState(
        ModelName("mock/model"), sample_id=1, epoch=1, input="", messages=[], output=output
    )

    async def score() -> float:
        found = await scorer(state, Target(list(targets)))
        assert found is not None
        return value_to_float()(found.value)

    return anyio.run(score)


@SLOW_FIRST
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_f1(said: str, right: list[str]) -> None:
    from inspect_ai.scorer import f1

    # It leaves out expected texts without words; SQuAD, and batchrun, compare them too.
    right = [text for text in right if re.sub(r"\b(?:a|an|the)\b|\W", "", text.lower())]
    if right:
        assert compare("f1", said, right).score == pytest.approx(
            known(f1(), said, *right), abs=0.0051
        )


@SLOW_FIRST
@given(TEXTS, TEXTS)
def test_contains_is_includes(said: str, right: str) -> None:
    from inspect_ai.scorer import includes

    assert compare("contains", said, right).score == known(includes(False), said, right)


@SLOW_FIRST
@given(TEXTS, TEXTS, st.booleans())
def test_exact_is_an_exact_match(said: str, other: str, is_same: bool) -> None:
    from inspect_ai.scorer import match

    right = f" {said}\n" if is_same else other
    oracle = match("exact", ignore_case=False)
    assert compare("exact", said, right).score == known(oracle, said, right)


@SLOW_FIRST
@given(TEXTS, st.sampled_from(["cat", r"(?:sat|mat)\W", "^the", r"\(bug\)$", "o."]))
def test_regex_is_a_pattern(said: str, pattern: str) -> None:
    from inspect_ai.scorer import pattern as scorer

    # Its scorer compares the group of the pattern with the target.
    found = re.search(pattern, said)
    right = found[0] if found else "nothing of this kind"
    oracle = scorer(f"({pattern})", ignore_case=False)
    assert compare("regex", said, pattern).score == known(oracle, said, right)


@SLOW_FIRST
@given(
    st.sampled_from(LETTERS),
    st.sampled_from(LETTERS),
    st.sampled_from(["ANSWER: {}", "B is tempting.\n\nANSWER: {}", "ANSWER: {}\n", "ANSWER : {}."]),
)
def test_choice_reads_an_announced_letter(said: str, right: str, form: str) -> None:
    from inspect_ai.scorer import answer

    text, options = form.format(said), MatchOptions(choices=tuple(LETTERS))
    assert compare("choice", text, right, options).score == known(answer("letter"), text, right)


@SLOW_FIRST
@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000), st.booleans())
def test_number_is_a_numeric_match(said: int, other: int, is_same: bool) -> None:
    from inspect_ai.scorer import match

    text, right = f"The answer is {said:,}", str(said if is_same else other)
    oracle = match("end", numeric=True)
    assert compare("number", text, right).score == known(oracle, text, right)


@SLOW_FIRST
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 8))
def test_reducers(passed: list[bool], k: int) -> None:
    from inspect_ai.scorer import Score, at_least, max_score, mean_score, pass_at

    k = min(k, len(passed))
    found = [AnswerScore(float(each), str(each)) for each in passed]
    given_scores = [Score(value=float(each)) for each in passed]
    oracles = {"mean": mean_score(), "max": max_score(), f"at_least_{k}": at_least(k)}
    oracles[f"pass@{k}"] = pass_at(k)
    winner = majority_of(found)
    for name, reducer in oracles.items():
        value = reducer(given_scores).as_float()
        assert reduced(name, found, winner, 1.0) == pytest.approx(value), name


@SLOW_FIRST
@given(TEXTS, TEXTS)
def test_similarity_is_that_of_rapidfuzz(said: str, right: str) -> None:
    from rapidfuzz import fuzz
    from rapidfuzz.distance import Indel, JaroWinkler, Levenshtein

    # What folding does to these texts; what is left of them is compared.
    one, other = (text.lower().strip(".,()") for text in (said, right))
    oracles = {
        "ratio": Indel.normalized_similarity(one, other),
        "levenshtein": Levenshtein.normalized_similarity(one, other),
        "jaro_winkler": JaroWinkler.similarity(one, other),
        "partial_ratio": fuzz.partial_ratio(one, other) / 100,
        "token_sort_ratio": fuzz.token_sort_ratio(one, other) / 100,
        "token_set_ratio": fuzz.token_set_ratio(one, other) / 100,
    }
    for variant, value in oracles.items():
        options = MatchOptions(variant=variant)
        assert compare("similarity", said, right, options).score == pytest.approx(value), variant


@SLOW_FIRST
@given(st.lists(st.tuples(st.sampled_from("1234"), st.sampled_from("1234")), max_size=30))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    """Of no rows, of one, with full agreement, with and without an order."""
    from sklearn.metrics import cohen_kappa_score

    counts = Counter(pairs)
    if len({label for pair in pairs for label in pair}) < 2:
        assert cohen_kappa(counts) is cohen_kappa(counts, "1234") is None
        return
    people, judge = zip(*pairs, strict=True)
    known = cohen_kappa_score(people, judge)
    assert not isnan(known)
    assert cohen_kappa(counts) == pytest.approx(known)
    weighted = cohen_kappa_score(people, judge, labels=list("1234"), weights="quadratic")
    assert cohen_kappa(counts, "1234") == pytest.approx(weighted)
