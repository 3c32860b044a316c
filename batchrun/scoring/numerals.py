"""Numbers as people and models write them: `$1,234.50`, `1e3`, `−5`, `12 %`, `3/4`.

Separators are read as in English unless that is impossible: `1,234` is a thousand, `3,5` is three
and a half, and of `1.234,5` the last separator is the decimal one.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isclose

# The last number counts; one further back than this is in no answer.
LONGEST_TEXT = 100_000
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
    found = deque(_NUMBER.finditer(text[-LONGEST_TEXT:]), maxlen=1)
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
