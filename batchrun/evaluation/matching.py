"""Compares one answer with the expected value, by the methods of `[score] match`.

If the expected value is a list, each of its items is right; for JSON and sets the list itself is the value.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchrun.errors import quoted
from batchrun.evaluation import overlap
from batchrun.evaluation.answer_text import fold, without_thoughts
from batchrun.evaluation.choices import choices_of
from batchrun.evaluation.json_values import find_json, is_same_json, leaves, plain_json
from batchrun.evaluation.label_sets import read_labels
from batchrun.evaluation.numbers import Number, Tolerance, as_number, find_number
from batchrun.evaluation.patterns import pattern_of
from batchrun.evaluation.scores import AnswerScore, CannotScore
from batchrun.evaluation.symbolic import SymbolicMath


@dataclass(frozen=True, slots=True)
class MatchOptions:
    """Options of the methods.

    Attributes:
        choices: the labels of `choice` and `set`.
        labels: the only labels that an answer can have; empty for any.
        tolerance: tolerance of numbers.
        variant: variant of `rouge` and `similarity`; empty for the default.
    """

    choices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    tolerance: Tolerance | None = None
    variant: str = ""


# (what the answer says, what is expected, options) → score
Matcher = Callable[[str, Any, MatchOptions], AnswerScore]

# Ways of comparing for which a list is one expected value.
WHOLE_LISTS = {"json", "fields", "set"}
_MATH = SymbolicMath()


def _exact(text: str, expected: object, _options: MatchOptions) -> AnswerScore:
    said = text.strip()
    return AnswerScore(float(normal_form(said) == normal_form(as_text(expected))), said)


def _casefold(text: str, expected: object, _options: MatchOptions) -> AnswerScore:
    said, right = without_thoughts(text).strip(), as_text(expected)
    if fold(said) == fold(right):
        return AnswerScore(1.0, right)  # in the spelling of the table
    return AnswerScore(0.0, said)


def _contains(text: str, expected: object, _options: MatchOptions) -> AnswerScore:
    return AnswerScore(float(normal_form(as_text(expected)) in normal_form(text)), text.strip())


def _regex(text: str, expected: object, _options: MatchOptions) -> AnswerScore:
    try:
        pattern = pattern_of(str(expected))
    except ValueError as error:
        raise CannotScore(f"expected {error}") from None
    return AnswerScore(float(pattern.is_in(text)), text.strip())


def _number(text: str, expected: object, options: MatchOptions) -> AnswerScore:
    right = _expected_number(expected)
    said = find_number(text)
    if said is None:
        return AnswerScore(0.0, None)
    return AnswerScore(float(said.equals(right, options.tolerance)), str(said))


def _expected_number(expected: object) -> Number:
    right = as_number(expected)
    if right is None:
        raise CannotScore(f"expected holds no number: {quoted(expected)}")
    return right


def _json(text: str, expected: object, options: MatchOptions) -> AnswerScore:
    right = _expected_json(expected)
    try:
        said = find_json(text, type(right))
    except ValueError:
        return AnswerScore(0.0, None)
    return AnswerScore(float(is_same_json(said, right, options.tolerance)), _as_json(said))


def _expected_json(expected: object) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return orjson.loads(expected) if isinstance(expected, str) else plain_json(expected)
    except ValueError as error:
        raise CannotScore(f"expected is not valid JSON: {error}") from None


def _fields(text: str, expected: object, options: MatchOptions) -> AnswerScore:
    right = _expected_json(expected)
    if not isinstance(right, dict) or not right:
        raise CannotScore("expected is not a JSON object with fields")
    wanted = dict(leaves(right))
    try:
        said = find_json(text, dict)
    except ValueError:
        return AnswerScore(0.0, None, dict.fromkeys(wanted, False))
    given = dict(leaves(said)) if isinstance(said, dict) else {}
    fields = {
        path: path in given and is_same_json(given[path], value, options.tolerance)
        for path, value in wanted.items()
    }
    return AnswerScore(sum(fields.values()) / len(fields), _as_json(said), fields)


def _choice(text: str, expected: object, options: MatchOptions) -> AnswerScore:
    known = choices_of(options.choices)
    right, said = known.of(expected), known.find(text)
    if right is None:
        raise CannotScore(f"expected is none of the choices: {quoted(expected)}")
    return AnswerScore(float(said == right), said)


def _set(text: str, expected: object, options: MatchOptions) -> AnswerScore:
    right = read_labels(expected, options.choices)
    said = read_labels(without_thoughts(text), options.choices)
    both = len(right & said)
    # Nothing expected and nothing said is right.
    score = 2 * both / (len(right) + len(said)) if right or said else 1.0
    return AnswerScore(score, _as_json(sorted(said)))


def _f1(text: str, expected: object, _options: MatchOptions) -> AnswerScore:
    said = without_thoughts(text).strip()
    return AnswerScore(overlap.squad_f1(said, as_text(expected)), said)


def _rouge(text: str, expected: object, options: MatchOptions) -> AnswerScore:
    said = without_thoughts(text).strip()
    return AnswerScore(overlap.rouge(said, as_text(expected), options.variant or "rougeL"), said)


def _similarity(text: str, expected: object, options: MatchOptions) -> AnswerScore:
    said = without_thoughts(text).strip()
    compare_texts = overlap.SIMILARITIES[options.variant or "ratio"]
    return AnswerScore(compare_texts(fold(said), fold(as_text(expected))), said)


def _math(text: str, expected: object, _options: MatchOptions) -> AnswerScore:
    is_same, said = _MATH.compare(without_thoughts(text), as_text(expected))
    return AnswerScore(float(is_same), said)


MATCHERS: Mapping[str, Matcher] = {
    "exact": _exact,
    "casefold": _casefold,
    "contains": _contains,
    "regex": _regex,
    "number": _number,
    "json": _json,
    "choice": _choice,
    "f1": _f1,
    "rouge": _rouge,
    "similarity": _similarity,
    "set": _set,
    "math": _math,
    "fields": _fields,
}


def compare(
    match: str, text: str, expected: object, options: MatchOptions | None = None
) -> AnswerScore:
    """Compare an answer with the expected value.

    Args:
        match: the method, a key of `MATCHERS`.
        text: the answer.
        expected: a value, or a list of values each of which is right.
        options: choices, labels, tolerance.

    Raises:
        CannotScore: when nothing can be compared with `expected`.
    """
    matcher, options = MATCHERS[match], options or MatchOptions()
    if not isinstance(expected, list) or match in WHOLE_LISTS:
        return matcher(text, expected, options)
    if not expected:
        raise CannotScore("expected is an empty list")
    answer_scores = [matcher(text, each, options) for each in expected]
    return max(answer_scores, key=lambda answer_score: answer_score.score)


def label_of(match: str, expected: object, options: MatchOptions | None = None) -> str:
    """Return the expected answer in the spelling of predictions; of several, the first."""
    options = options or MatchOptions()
    if isinstance(expected, list) and match not in WHOLE_LISTS:
        expected = expected[0]
    if match == "choice":
        return choices_of(options.choices).of(expected) or as_text(expected)
    if match == "number":
        return str(as_number(expected))
    if match == "set":
        return _as_json(sorted(read_labels(expected, options.choices)))
    return as_text(expected)


def known_label(said: str | None, labels: tuple[str, ...], *, folded: bool) -> str | None:
    """Return the label of an answer in the spelling of `labels`; None if it is not one of them."""
    if said is None:
        return None
    plain = fold if folded else normal_form
    return next((label for label in labels if plain(label) == plain(said)), None)


def as_text(value: object) -> str:
    """Return a cell's value as a model would write it."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return orjson.dumps(value, default=str).decode()
    return str(value)


def normal_form(text: str) -> str:
    """Return a text in one Unicode form (NFC); characters are not replaced by similar ones."""
    return unicodedata.normalize("NFC", text)


def _as_json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
