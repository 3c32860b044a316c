"""Finding the one of several choices that a text picks: `B`, `(B)`, `Answer: B`, `B) Paris`.

A text that picks none, or several without saying which is the answer, picks none.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from math import isclose
from string import ascii_uppercase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


LONGEST_TEXT = 100_000
_GAP = re.compile(r"[\s_-]+")  # "how_to" is said as "How to"
_NEXT_WORD = re.compile(r"\s+([^\W\d_]{1,30})")
_CONJUNCTIONS = {"and", "as", "because", "but", "is", "or", "since"}
_AROUND = " \t\r\n\"'`“”‘’«»*_.:;,!()[]{}<>$\\"
# What comes between "answer" and the choice; a fixed, short stretch, so that nothing backtracks.
_ANNOUNCED = r"\b(?:answer|choice|option|label|category)\b(?:\s+is)?\s*[:=]?[\s*_(\[{{\"'`$]{{0,9}}"
_BOXED = r"\\boxed\{{\s*(?:\\text\{{)?\s*\(?"


class Choices:
    """The labels that an answer may pick.

    Args:
        labels: as they are to be spelled; none stands for the letters A to Z.
    """

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = tuple(labels) or tuple(ascii_uppercase)
        self._by_fold = {_folded(label): label for label in self.labels}
        self._has_letters = all(len(label) == 1 for label in self.labels)
        longest_first = sorted(self.labels, key=len, reverse=True)
        one = "|".join(_GAP.sub(r"[\\s_-]{1,3}", _escaped(label)) for label in longest_first)
        flags = 0 if self._has_letters else re.IGNORECASE
        one = rf"(?<!\w)({one})(?!\w)"
        self._announced = re.compile(rf"(?i:{_ANNOUNCED.format()}){one}", flags)
        self._boxed = re.compile(rf"{_BOXED.format()}{one}", flags)
        self._begins = re.compile(rf"[\s*_(\[]{{0,9}}{one}[\s*_]{{0,3}}[)\].:]", flags)
        self._mentioned = re.compile(one, flags)

    def find(self, text: str) -> str | None:
        """Return the choice that a text picks, None when it picks none."""
        text = text[-LONGEST_TEXT:]
        whole = self._by_fold.get(_folded(text))
        if whole is not None:
            return whole
        for pattern in (self._boxed, self._announced):
            if (found := _last(pattern, text)) is not None:
                return self._spelled(found)
        if (begins := self._begins.match(text)) is not None:
            return self._spelled(begins)
        mentioned = {
            self._spelled(found)
            for found in self._mentioned.finditer(text)
            if not (self._has_letters and _is_word(found, text))
        }
        return mentioned.pop() if len(mentioned) == 1 else None

    def of(self, expected: object) -> str | None:
        """Return the choice that a cell names: by its label, or by its number from 0."""
        label = self._by_fold.get(_folded(str(expected)))
        if label is not None:
            return label
        is_number = isinstance(expected, int) and not isinstance(expected, bool)
        if is_number and 0 <= int(str(expected)) < len(self.labels):
            return self.labels[int(str(expected))]
        return self.find(str(expected))

    def _spelled(self, found: re.Match[str]) -> str:
        return self._by_fold[_folded(found[1])]


@lru_cache(maxsize=16)
def choices_of(labels: tuple[str, ...]) -> Choices:
    """Return the choices for these labels."""
    return Choices(labels)


def _escaped(label: str) -> str:
    return " ".join(re.escape(part) for part in _GAP.split(label))


def _folded(text: str) -> str:
    return _GAP.sub(" ", text.strip(_AROUND) or text.strip()).casefold()


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _is_word(found: re.Match[str], text: str) -> bool:
    """Whether a letter is rather a word of the sentence: "A dog", "I think"."""
    if found[1] not in {"A", "I"}:
        return False
    following = _NEXT_WORD.match(text, found.end())
    return following is not None and following[1].lower() not in _CONJUNCTIONS


# The last number counts; one further back than this is in no answer.
LONGEST_NUMBER_TEXT = 100_000
MOST_DIGITS = 400
_TOLERANCE = 1e-9
_PLAIN_POWERS = 30

_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]])[-−‒–+])?\s?"
    r"(?:[$€£¥₹₩]\s?(?P<inner>[-−])?)?"
    r"(?P<digits>\d+(?:[.,'’_\u00a0\u2009\u202f]\d+)*|(?<![\w.])\.\d+)"
    r"(?P<power>[eE][-+−]?\d{1,4}(?!\w))?"
    r"(?:\s?/\s?(?P<under>\d{1,100})(?![\d/]))?"
    r"(?P<percent>\s?[%％])?"
)
_SPACERS = re.compile(r"['’_\u00a0\u2009\u202f]")
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:[.,]\d{2})*(?:[.,]\d{3})+\Z")


@dataclass(frozen=True, slots=True)
class Number:
    """A number; `is_percent` when a per cent sign followed, which is not part of the value."""

    value: Decimal
    is_percent: bool = False

    def __str__(self) -> str:
        """Return the number in plain decimals: `1234.5`."""
        value = self.value
        if value.is_zero():
            return "0"
        if abs(value.adjusted()) > _PLAIN_POWERS:
            return str(value)
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text

    def equals(self, other: Number) -> bool:
        """Say whether both are the same number; fractions, within a billionth of it.

        A per cent sign on one side only leaves open what the other side means: `12 %` is as well
        12 as 0.12.
        """
        if _same(self.value, other.value):
            return True
        if self.is_percent == other.is_percent:
            return False
        share, whole = (self, other) if self.is_percent else (other, self)
        return _same(share.value.scaleb(-2), whole.value)


def as_number(value: object) -> Number | None:
    """Return a cell's value as a number, None when it holds none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float | Decimal):
        number = Decimal(str(value))
        return Number(number) if number.is_finite() else None
    return find_number(str(value))


def find_number(text: str) -> Number | None:
    """Return the last number in a text, None when there is none."""
    found = deque(_NUMBER.finditer(text[-LONGEST_NUMBER_TEXT:]), maxlen=1)
    last = found.pop() if found else None
    if last is None or len(last["digits"]) > MOST_DIGITS:
        return None
    try:
        return Number(_value(last), is_percent=last["percent"] is not None)
    except (InvalidOperation, ZeroDivisionError):
        return None


def _value(found: re.Match[str]) -> Decimal:
    power = (found["power"] or "").replace("−", "-")
    value = Decimal(_plain(found["digits"]) + power)
    if found["under"]:
        value /= Decimal(found["under"])
    signs = (found["sign"] or "") + (found["inner"] or "")
    # copy_negate does not round, as unary minus would.
    return value if signs in {"", "+"} else value.copy_negate()


def _plain(digits: str) -> str:
    """Return digits with nothing but a decimal point between them."""
    digits = _SPACERS.sub("", digits)
    marks = {mark for mark in ".," if mark in digits}
    if len(marks) == 2:
        decimal = "." if digits.rfind(".") > digits.rfind(",") else ","
        whole, _, part = digits.rpartition(decimal)
        return f"{whole.replace('.', '').replace(',', '')}.{part}"
    mark = next(iter(marks), "")
    count = digits.count(mark) if mark else 0
    if count and (mark == "," or count > 1) and _GROUPED.match(digits):
        return digits.replace(mark, "")
    if count > 1:  # a list, a version: 1,2,3
        return digits.rpartition(mark)[2]
    return digits.replace(",", ".")


def _same(one: Decimal, other: Decimal) -> bool:
    if one == other:
        return True
    if _is_whole(one) and _is_whole(other):
        return False
    return isclose(float(one), float(other), rel_tol=_TOLERANCE)


def _is_whole(value: Decimal) -> bool:
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and (exponent >= 0 or value == value.to_integral_value())
