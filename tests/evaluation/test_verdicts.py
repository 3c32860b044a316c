"""A verdict is read where it is certain, and is none where it is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.evaluation.verdicts import UnreadableVerdict, Verdict, VerdictReader
from batchrun.job import JudgeConfig

GRADES = JudgeConfig(choices={"correct": 1.0, "partly": 0.5, "wrong": 0.0})
STARS = JudgeConfig(scale=(1, 5))
SHARE = JudgeConfig(scale=(0.0, 1.0))


def read(text: str, config: JudgeConfig = GRADES) -> Verdict:
    return VerdictReader(config).read(text)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("It says the same.\nVerdict: correct", "correct"),
        ("It says the same.\n\n**Verdict:** Correct.", "correct"),
        ("### Final verdict: `partly`\n", "partly"),
        ("- Verdict = WRONG", "wrong"),
        ("Verdict： wrong", "wrong"),
        ("Verdict: wrong\nIt contradicts the reference.", "wrong"),
        ("Verdict: wrong\nAs said:\nVerdict: wrong", "wrong"),
        ("<think>Verdict: wrong? No.</think>\nVerdict: correct", "correct"),
        ('{"reason": "same", "verdict": "correct"}', "correct"),
        ('```json\n{"verdict": "partly"}\n```', "partly"),
        ("Correct", "correct"),
        ("**wrong**.", "wrong"),
    ],
)
def test_a_verdict_is_read(text: str, label: str) -> None:
    assert read(text).label == label


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is correct.",  # no verdict: it may go on "in part"
        "It is not correct",
        "Verdict: not correct",
        "Verdict: correct, mostly",
        "Verdict: correct or partly",
        "Verdict: X",
        "Verdict:",
        "Verdict: correct\nOn second thought,\nVerdict: wrong",
        "Verdict: right",
        "correct wrong",
        "My verdict: correct",  # not a line of the form that was asked for
        '{"verdict": "correct", "score": 0}',
        '{"verdict": true}',
        '{"reason": "same"}',
        '{"verdict": ["correct"]}',
    ],
)
def test_what_is_not_certain_is_no_verdict(text: str) -> None:
    with pytest.raises(UnreadableVerdict):
        read(text)


@pytest.mark.parametrize(
    ("text", "config", "score"),
    [
        ("Verdict: 4", STARS, 4),
        ("Verdict: 4/5", STARS, 4),
        ("Verdict: 4 out of 5", STARS, 4),
        ("Verdict: **5**", STARS, 5),
        ("Verdict: 0.25", SHARE, 0.25),
        ('{"score": 3}', STARS, 3),
        ("2", STARS, 2),
        ("Verdict: -1", JudgeConfig(scale=(-2, 2)), -1),
    ],
)
def test_numbers_of_a_scale(text: str, config: JudgeConfig, score: float) -> None:
    assert read(text, config).score == score


@pytest.mark.parametrize(
    "text",
    [
        "Verdict: 6",
        "Verdict: 0",
        "Verdict: 4.5",
        "Verdict: 8/10",
        "Verdict: four",
        "Verdict: 4 or 5",
    ],
)
def test_other_numbers_are_no_verdict(text: str) -> None:
    with pytest.raises(UnreadableVerdict):
        read(text, STARS)


def test_the_reasons_are_what_stands_beside_the_verdict() -> None:
    found = read("It says 4, as the reference.\nNothing is missing.\n\n**Verdict:** correct")
    assert found == Verdict("correct", 1.0, "It says 4, as the reference.\nNothing is missing.")
    assert read("Verdict: correct").reason is None
    assert read('{"explanation": "same", "verdict": "correct"}').reason == "same"


def test_a_pattern_finds_the_verdict() -> None:
    config = JudgeConfig(choices={"C": 1.0, "I": 0.0}, answer=r"GRADE: (\w)")
    assert read("Reasons. GRADE: C", config).label == "C"
    for text in ("C", "GRADE: X", "grade: C"):
        with pytest.raises(UnreadableVerdict):
            read(text, config)


labels = st.lists(
    st.from_regex(r"[a-z]{1,8}( [a-z]{1,8})?", fullmatch=True), min_size=2, max_size=6, unique=True
)


@given(labels, st.data(), st.text(max_size=80))
def test_whatever_is_read_is_the_verdict_that_was_written(
    names: list[str], data: Any, reasons: str
) -> None:
    config = JudgeConfig(choices={name: float(n) for n, name in enumerate(names)})
    said = data.draw(st.sampled_from(names))
    try:
        found = read(f"{reasons}\nVerdict: {said}", config)
    except UnreadableVerdict:
        # Only text that itself has a verdict, or is a thought without an end, may spoil it.
        assert "verdict" in reasons.casefold() or "{" in reasons or "`" in reasons
    else:
        assert found.label == said


@given(st.text(max_size=200))
def test_no_text_is_an_error(text: str) -> None:
    for config in (GRADES, STARS):
        try:
            found = read(text, config)
        except UnreadableVerdict:
            continue
        assert found.score in {0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0}
