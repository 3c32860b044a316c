"""Comparing one answer with what is expected, in the ways of `[score] match`.

A list of expected values means that any of them is right; for JSON it is a value like others.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson
import re2

from batchrun.evaluation.choices import Number, as_number, choices_of, find_number
from batchrun.evaluation.scores import AnswerScore, CannotScore

# (what the answer says, what is expected, the choices) → answer_score
Matcher = Callable[[str, Any, tuple[str, ...]], AnswerScore]

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


def _exact(text: str, expected: object, _choices: tuple[str, ...]) -> AnswerScore:
    said = text.strip()
    return AnswerScore(float(said == as_text(expected)), said)


def _casefold(text: str, expected: object, _choices: tuple[str, ...]) -> AnswerScore:
    said, right = text.strip(), as_text(expected)
    if fold(said) == fold(right):
        return AnswerScore(1.0, right)  # in the spelling of the table
    return AnswerScore(0.0, said)


def _contains(text: str, expected: object, _choices: tuple[str, ...]) -> AnswerScore:
    return AnswerScore(float(as_text(expected) in text), text.strip())


def _regex(text: str, expected: object, _choices: tuple[str, ...]) -> AnswerScore:
    try:
        pattern = pattern_of(str(expected))
    except ValueError as error:
        raise CannotScore(f"expected {error}") from None
    return AnswerScore(float(pattern.is_in(text)), text.strip())


def _number(text: str, expected: object, _choices: tuple[str, ...]) -> AnswerScore:
    right = _expected_number(expected)
    said = find_number(text)
    if said is None:
        return AnswerScore(0.0, None)
    return AnswerScore(float(said.equals(right)), str(said))


def _expected_number(expected: object) -> Number:
    right = as_number(expected)
    if right is None:
        raise CannotScore(f"expected holds no number: {expected!r:.80}")
    return right


def _json(text: str, expected: object, _choices: tuple[str, ...]) -> AnswerScore:
    try:
        right = orjson.loads(expected) if isinstance(expected, str) else _plain_json(expected)
    except ValueError as error:
        raise CannotScore(f"expected is not valid JSON: {error}") from None
    try:
        said = find_json(text)
    except ValueError:
        return AnswerScore(0.0, None)
    predicted = orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode()
    return AnswerScore(float(is_same_json(said, right)), predicted)


def _choice(text: str, expected: object, choices: tuple[str, ...]) -> AnswerScore:
    known = choices_of(choices)
    right, said = known.of(expected), known.find(text)
    if right is None:
        raise CannotScore(f"expected is none of the choices: {expected!r:.80}")
    return AnswerScore(float(said == right), said)


MATCHERS: Mapping[str, Matcher] = {
    "exact": _exact,
    "casefold": _casefold,
    "contains": _contains,
    "regex": _regex,
    "number": _number,
    "json": _json,
    "choice": _choice,
}


def compare(match: str, text: str, expected: object, choices: tuple[str, ...] = ()) -> AnswerScore:
    """Compare what an answer says with what is expected.

    Args:
        match: the way, a key of `MATCHERS`.
        text: the answer.
        expected: a value, or a list of values each of which is right.
        choices: the labels of `choice`.

    Raises:
        CannotScore: when nothing can be compared with `expected`.
    """
    matcher = MATCHERS[match]
    if not isinstance(expected, list) or match == "json":
        return matcher(text, expected, choices)
    if not expected:
        raise CannotScore("expected is an empty list")
    answer_scores = [matcher(text, each, choices) for each in expected]
    return max(answer_scores, key=lambda answer_score: answer_score.score)


def label_of(match: str, expected: object, choices: tuple[str, ...]) -> str:
    """Return the expected answer as predictions are spelled; of several, the first."""
    if isinstance(expected, list) and match != "json":
        expected = expected[0]
    if match == "choice":
        return choices_of(choices).of(expected) or as_text(expected)
    if match == "number":
        return str(as_number(expected))
    return as_text(expected)


def as_text(value: object) -> str:
    """Return a cell's value as a model would write it."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return orjson.dumps(value, default=str).decode()
    return str(value)


def fold(text: str) -> str:
    """Return a text such that texts which differ in case or spaces only become the same."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def find_json(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the JSON value in a text: all of it, its last fenced block, or what braces enclose.

    Raises:
        ValueError: when there is none.
    """
    candidates = [text, *reversed(_FENCE.findall(text))]
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    if starts and end > min(starts):
        candidates.append(text[min(starts) : end + 1])
    for candidate in candidates:
        try:
            return orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
    raise ValueError("holds no JSON")


def is_same_json(one: object, other: object) -> bool:
    """Say whether two JSON values are the same: 1 is 1.0, and true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        same_keys = one.keys() == other.keys()
        return same_keys and all(is_same_json(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        same_length = len(one) == len(other)
        return same_length and all(map(is_same_json, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _plain_json(value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Return a cell's value as JSON would carry it: a date is text there.

    Raises:
        ValueError: when it cannot be written as JSON.
    """
    try:
        return orjson.loads(orjson.dumps(value, default=str))
    except TypeError as error:
        raise ValueError(str(error)) from None


# Where answers end is what matters; also linear time adds up.
LONGEST_TEXT = 1_000_000
LONGEST_PATTERN = 10_000


class Pattern:
    """A regular expression.

    Raises:
        ValueError: when it is none, in a way to put behind the name of a key.
    """

    def __init__(self, source: str) -> None:
        options = re2.Options()
        options.log_errors = False
        if len(source) > LONGEST_PATTERN:
            raise ValueError(f"is longer than {LONGEST_PATTERN:,} characters")
        try:
            self._pattern: Any = re2.compile(source, options)
        except re2.error as error:
            raise ValueError(
                f"is not a pattern in RE2 syntax, which has no lookahead, lookbehind and back "
                f"references: {_reason(error)}"
            ) from None
        except UnicodeEncodeError:
            raise ValueError(
                "contains half of a surrogate pair, which is not a character"
            ) from None

    def is_in(self, text: str) -> bool:
        """Say whether the pattern matches anywhere in a text."""
        return self._pattern.search(_readable(text)) is not None

    def find(self, text: str) -> str | None:
        """Return what the last match found: its first group, or all of it; None without a match.

        The last one, because a model that corrects itself does so further on.
        """
        found = deque(self._pattern.finditer(_readable(text)), maxlen=1)
        if not found:
            return None
        last = found.pop()
        taken = [group for group in last.groups() if group is not None]
        return str(taken[0] if taken else last.group())


@lru_cache(maxsize=1_024)
def pattern_of(source: str) -> Pattern:
    """Return the pattern of a row; the latest ones are kept."""
    return Pattern(source)


def _readable(text: str) -> str:
    """Return the end of a text, with invalid characters replaced."""
    return text[-LONGEST_TEXT:].encode(errors="replace").decode()


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
