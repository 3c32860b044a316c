"""Right and wrong answers of the kinds that scorers of the field got wrong, by way of comparing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchrun.evaluation.matching import MatchOptions, compare

CASES = json.loads((Path(__file__).parent / "score_cases.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['match']}: {case['answer'][:40]}")
def test_an_answer_is_scored_as_a_person_would(case: dict[str, Any]) -> None:
    options = MatchOptions(choices=tuple(case.get("choices", ())))
    found = compare(case["match"], case["answer"], case["expected"], options)
    assert (found.score == 1) is case["right"], found
