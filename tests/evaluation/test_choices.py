"""Which choice a text picks: what a person would say who reads the whole answer. None where it picks none."""

from __future__ import annotations

import pytest

from batchrun.evaluation.choices import Choices

LETTERS = ("A", "B", "C", "D")
TICKETS = ("billing", "bug", "how_to", "account")
ANSWERS = ("yes", "no", "maybe")
FEELINGS = ("positive", "negative", "neutral")

CASES: dict[str, tuple[tuple[str, ...], dict[str, str | None]]] = {
    "a question is no answer": (
        LETTERS,
        {
            "My answer: A? No. B.": "B",
            "My answer: A? No, B.": "B",
            "A? No. B.": "B",
            "Is it A or B? I'd say B.": "B",
            "Which one? A or B? B.": "B",
            "Is the answer A? No. Is it B? Yes.": "B",
            "Is the answer A?": None,
            "What is the answer? It's B.": "B",
            "A or B?": None,
            "A?": "A",
            "Answer: B?": "B",
            "Answer: B) What time is it? That is asked in option B only.": "B",
            "Sure! B fits. Do you want me to explain A?": "B",
            "It's B, right? I'm sure.": "B",
            "答案：A？不，B。": "B",
        },
    ),
    "what a text takes back": (
        LETTERS,
        {
            "The answer: A? Hmm, no, that's wrong. It must be C.": "C",
            "Answer: A. Wait, no. Answer: B.": "B",
            "Answer: A. Wait, actually it should be B.": "B",
            "Answer: A. Actually, B.": "B",
            "Answer: A. Wait, that's wrong.": None,
            "A. No wait, B.": "B",
            "I thought A, but it's B.": "B",
            "At first I thought the answer was A. However, it is B.": "B",
            "The answer might be A, but I think B is right.": "B",
            "Suppose the answer is A. Then 2 = 3. So, B.": "B",
            "If the answer is A, then x = 3, a contradiction.": None,
            "Answer: C. That is wrong to say of A.": "C",
            r"\boxed{A}? No. The answer is B.": "B",
            r"$\boxed{A}$? Hmm, no. The answer is B.": "B",
            r"\boxed{A} is wrong. The answer is B.": "B",
            "<answer>A</answer>? No. The answer is B.": "B",
            r"\boxed{A}? Wait, that is \boxed{B}.": "B",
            r"\boxed{A}? No.": None,
            r"\boxed{A}? Yes.": "A",
            r"\boxed{A}. No other option is right.": "A",
            "Let me think about A. Hmm. B. Final: C": "C",
            "A is too broad, B too old.\n\n**Decision:** C": "C",
        },
    ),
    "not this but that": (
        LETTERS,
        {
            "not A but B": "B",
            "Not A, but B.": "B",
            "The answer is not A but B.": "B",
            "The answer is not A, it's B.": "B",
            "The answer isn't A; it is C.": "C",
            "Not A. Not B. C.": "C",
            "Not B or C. A": "A",
            "Nicht A, sondern B": "B",
            "pas A mais B": "B",
            "No A, sino B": "B",
            "不是A而是B": "B",
            "Correct answer: not A": None,
            "The answer is not B. It is not C. It is not A.": None,
        },
    ),
    "this and not that": (
        LETTERS,
        {
            "I'd say (C), not (D)": "C",
            "(C), not (D)": "C",
            "C rather than D": "C",
            "C over D": "C",
            "Answer: C instead of D": "C",
            "B (not A)": "B",
            "B is better than A.": "B",
            "B fits better than A": "B",
            "Between A and B, I choose B.": "B",
            "Between A and B, B is better.": "B",
            "B, because A is too broad": "B",
            "B because A and C are wrong": "B",
            "The correct answer is C. Although B is better known, it was not first.": "C",
            "Without a doubt B": "B",
        },
    ),
    "several or none": (
        LETTERS,
        {
            "Answer: A or B": None,
            "The answer is either A or B.": None,
            "The answer is A or maybe B.": None,
            "Answer: A/B": None,
            "Answer: A. B is also correct.": None,
            "A is correct. B is correct too.": None,
            "Probably B, possibly C.": None,
            "I cannot decide between A and B.": None,
            "Answer is neither": None,
            "Answer is neither A nor B": None,
            "Answer is neither A nor B, but C.": "C",
            "None of A, B, C or D": None,
            "It can't be A, B or C.": None,
            "It can't be A, B or C, so it's D.": "D",
            "It cannot be A, B, or C. D": "D",
            "A and B are out. C remains.": "C",
            "Eliminating A and B leaves C": "C",
        },
    ),
    "lists": (
        LETTERS,
        {
            "A: no. B: yes. C: no. D: no.": "B",
            "A - incorrect\nB - correct\nC - incorrect\nD - incorrect": "B",
            "A) wrong\nB) right\nC) wrong\nD) wrong": "B",
            "A ❌\nB ✅\nC ❌": "B",
            "A. x\nB. y\nC. z\nD. w": None,
            "A: x\nB: y\nC: z\nD: w": None,
            "A\nB\nC": None,
            "(A) Wrong, Wrong": "A",
            "Answer: B) Wrong, Not wrong": "B",
            "B. No, because the owner had no duty.": "B",
        },
    ),
    "marked and alone": (
        LETTERS,
        {
            "**Answer:** B) Paris": "B",
            "**Answer:** B) Paris. A) is Rome.": "B",
            "### Answer\n\nB": "B",
            "**D**\n\nOption A is the distractor.": "D",
            "D\nBecause A, B and C are wrong": "D",
            "A is about heat, C is about light.\n\n**B**": "B",
        },
    ),
    "labels of several letters": (
        TICKETS,
        {
            "billing? No. bug.": "bug",
            "This is a bug, not billing": "bug",
            "billing or bug?": None,
            "neither billing nor bug": None,
            "Could be billing, but bug is better": "bug",
            "Is it a bug? No, it is about billing.": "billing",
            "This is definitely not a bug report; it is a billing question": "billing",
        },
    ),
    "yes and no": (
        ANSWERS,
        {
            "Yes? No.": "no",
            "Yes. No wait, no.": "no",
            "No. The answer is yes": "yes",
            "Yes, no doubt.": "yes",
            "Yes. There is no reason to doubt it.": "yes",
            "yes or no": None,
            "I cannot say yes or no": None,
        },
    ),
    "feelings": (
        FEELINGS,
        {
            "The sentiment is not negative but neutral.": "neutral",
            "neither positive nor negative, so neutral": "neutral",
            "Sentiment: mixed, neither positive nor negative": None,
            "I'd classify this as negative rather than neutral.": "negative",
        },
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_text_picks_the_choice_that_a_reader_would_name(kind: str) -> None:
    labels, cases = CASES[kind]
    choices = Choices(labels)
    assert {text: choices.find(text) for text in cases} == cases


def test_the_letter_i_is_a_word_in_a_contraction() -> None:
    assert Choices().find("I'd say E.") == "E"


@pytest.mark.parametrize("part", ["A, ", "A or ", "A? ", "not ", "no, ", "is the ", "A: no. ", "("])
def test_no_long_text_keeps_the_search_for_a_choice_busy(part: str) -> None:
    Choices().find(part * 30_000)  # in the square of its length this would take minutes
