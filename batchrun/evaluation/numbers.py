"""Reads the number that a text gives as its answer. Unclear text gives no number, never a wrong one."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, Overflow, localcontext
from math import isclose

from batchrun.evaluation.answer_text import LONGEST_TEXT, marked_answer, without_thoughts

# Answers are untrusted: `1e999999999` written in plain decimals would take all memory.
MOST_DIGITS = 400
MOST_EXPONENT = 9_999
_TOLERANCE = 1e-9
_PLAIN_POWERS = 30

# One number with all that belongs to it. `bad` parts make it one that is not read.
_NUMBER = re.compile(
    r"(?P<before>√|\\overline\s*\{|(?<=\d\.)\(|\\sqrt\s*(?:\[\d+\])?\{?|\\?(?:log|ln|sin|cos|tan|exp)(?:_\{?\w+\}?)?\s*[({]?)?\s?"
    r"(?P<sign>(?<![\w.)\]])[-+])?\s?"
    r"(?:[$€£¥₹₩]\s?(?P<inner>-)?)?"
    r"(?:(?P<whole>\d{1,9})\s(?=\d{1,9}\s?/\s?\d))?"
    r"(?P<digits>\d{1,3}(?: \d{3})+(?![\d.]|,\d)|\d{1,3}(?: \d{3})+[.,]\d+"
    r"|\d+(?:[.,'_]\d+)*|(?<![\w.])\.\d+)"
    r"(?P<power>[eE][-+]?\d{1,4}(?!\w))?"
    r"(?:\s?/\s?(?P<under>\d{1,100})(?![\d/]))?"
    r"(?:(?P<times>\s?(?:[×xX*·]\s?)10)?\s?\^\s?[({]?\s?(?P<exponent>[-+]?\d{1,5})\s?[)}]?)?"
    r"(?P<percent>\s?(?:%|(?:per\s?cent|Prozent)\b))?"
    r"(?P<magnitude>(?:\s?(?:thousand|million|billion|trillion|lakh|crore|mio|mrd|bn|mn)\b\.?"
    r"|[kKMB](?![\w^])))?"
    # Only looked at, so that what follows is not read as a number of its own: 2024-05-01.
    r"(?:(?=(?P<after>[:/]\d|-\d+-\d|\s?(?:\\?pi\b|π|√|\\sqrt)|\s?\^|!(?=\s|\Z)(?<=\d!)(?=\s*=))))?"
)
_MAGNITUDES = {
    "thousand": 3,
    "k": 3,
    "lakh": 5,
    "million": 6,
    "mio": 6,
    "mn": 6,
    "m": 6,
    "crore": 7,
    "billion": 9,
    "bn": 9,
    "b": 9,
    "mrd": 9,
    "trillion": 12,
}
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:[.,]\d{2})*(?:[.,]\d{3})+\Z")
_VERSION = re.compile(r"(?<=[\dvV])\.")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_RAISED = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_VULGAR = re.compile(r"(\d?)\s?([¼½¾⅐-⅞↉])")
_UNIT_POWER = re.compile(r"(?<=[^\W\d_])\s?\^\s?(?:\{[-+]?\d{1,3}\}|[-+]?\d{1,3})(?!\d)")
_FRACTION = re.compile(
    r"(?P<whole>\d{1,20})?\s?\\[dtc]?frac\s?"
    r"(?:\{\s?(?P<a>[-+]?[\d.,]{1,100})\s?\}|(?P<c>\d))\s?(?:\{\s?(?P<b>\d{1,100})\s?\}|(?P<d>\d))"
)
_LATEX = (
    (re.compile(r"\{\s?([,.'])\s?\}"), r"\1"),
    (
        re.compile(
            r"\\(?:left|right|displaystyle|bf|mathbf|mathrm|text|textbf|operatorname)(?![a-z])"
        ),
        "",
    ),
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "×"),
    (re.compile(r"\^\s?\{?\s?\\circ\s?\}?"), "°"),
    (re.compile(r"\\([%$#&])"), r"\1"),
    (re.compile(r"\\!|\\[(\[)\]]"), ""),
    (re.compile(r"(?<=\d)\\[,;: ](?=\d{3})|(?<=\d)~(?=\d{3})"), " "),
    (re.compile(r"\\[,;:]"), " "),
)
_SIGNS = str.maketrans("−‒–﹣－＋％٪’٬٫،⁄\u00a0\u2007\u2009\u202f", "----" + "-+%%'" + "'.,/    ")
_FRACTION_LEFT = re.compile(r"\\[dtc]?frac")
_ANNOUNCED = re.compile(
    r"(?i)(?:####|(?:(?<!\w)(?:answer|result|total|r[ée]sultat|r[ée]ponse|resultado|respuesta|resposta"
    r"|risultato|risposta|ergebnis|antwort|ответ)|答案|答え|정답)"
    r"(?:\*{0,2}\s{0,2}[:=]|\s+(?:is|est|es|è|é|ist|lautet)(?!\w)(?:\s{0,2}:)?|是|は))\s{0,20}"
    r"(?P<said>[^\n]{1,300})"
)
_SENTENCE_END = re.compile(r"[.!?](?:\s|\Z)|[;]\s|[。！？]")
# What comes after the number that an announcement gives: "18 (see step 3)", "18, not 20", "18 out of 20".
_REMARK = re.compile(
    r"(?<=[\d%])[^\d(]{0,40}?(?:\(|,?\s(?:not|out of|instead of|rather than)\s)", re.IGNORECASE
)
_NO_ANSWER = re.compile(r"[\s*_]*(?:none|unknown|undefined|n/a|null)[\s*_.]*\Z", re.IGNORECASE)
_MINUS = re.compile(r"(?i)(?<!\w)minus\s+(?=\d)")
# What stands before the last number of a calculation or a range: "5 × 3", "3-5" …
_LEFT_SIDE = re.compile(r"\d(?: ?(?:[-+*×·xX]|\*\*) ?)\Z")
# … and of a list that is given as the answer: "3 or 4".
_LIST = re.compile(r"\d(?: (?:or|and) |[,;] )\Z")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The allowed difference of two numbers: an amount, or a share of the expected number."""

    amount: float
    is_share: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """A number; `is_percent`: a percent sign followed it, which is not part of the value."""

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

    def equals(self, other: Number, tolerance: Tolerance | None = None) -> bool:
        """Return whether both are the same number; for fractions, within one billionth.

        If only one side has a percent sign, the meaning of the other is open: `12 %` equals both
        12 and 0.12. `tolerance` is relative to `other`.
        """
        if _same(self.value, other.value, tolerance):
            return True
        if self.is_percent == other.is_percent:
            return False
        one, two = self.value, other.value
        if self.is_percent:
            return _same(one.scaleb(-2), two, tolerance)
        return _same(one, two.scaleb(-2), tolerance)


def as_number(value: object) -> Number | None:
    """Return a cell's value as a number; None if it is not a number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float | Decimal):
        number = Decimal(str(value))
        return Number(number) if number.is_finite() else None
    return find_number(str(value))


def find_number(text: str) -> Number | None:
    """Return the number that a text gives as its answer; None if none can be read.

    In order of precedence: a marked answer, an announced one (`#### 18`, `The answer is 18.`), the last number
    of the text.
    """
    text = without_thoughts(text[-LONGEST_TEXT:])
    marked = marked_answer(text)
    if marked is not None:
        return _last_number(_plain_text(marked), is_answer=True)
    text = _plain_text(text)
    announced = [found["said"] for found in _ANNOUNCED.finditer(text)]
    sentence = _SENTENCE_END.split(announced[-1], maxsplit=1)[0] if announced else ""
    if any(sign.isdigit() for sign in sentence):
        return _last_number(_REMARK.split(sentence, maxsplit=1)[0], is_answer=True)
    if _NO_ANSWER.match(sentence):
        return None
    return _last_number(text)


def _plain_text(text: str) -> str:
    """Return a text with one spelling of signs, digits, fractions and powers."""
    text = text.translate(_SIGNS)
    text = _RAISED.sub(lambda found: f"^{found[0].translate(_SUPERSCRIPTS)}", text)
    text = _VULGAR.sub(lambda found: f"{found[1]} {_vulgar(found[2])}", text)
    text = unicodedata.normalize("NFKC", text)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = _MINUS.sub("-", text)
    text = _FRACTION.sub(_fraction, text)
    # The power of a unit, as in m^2, is not one of the number.
    return _UNIT_POWER.sub("", text)


def _vulgar(sign: str) -> str:
    return unicodedata.normalize("NFKC", sign).replace("⁄", "/")


def _fraction(found: re.Match[str]) -> str:
    whole = f"{found['whole']} " if found["whole"] else ""
    return f"{whole}{found['a'] or found['c']}/{found['b'] or found['d']}"


def _last_number(text: str, *, is_answer: bool = False) -> Number | None:
    """Return the last number of a text; with `is_answer`, the text contains only the answer."""
    last = next(iter(deque(_NUMBER.finditer(text), maxlen=1)), None)
    if last is None or last["before"] or last["after"] or len(last["digits"]) > MOST_DIGITS:
        return None
    # A fraction that could not be read holds the numbers: \frac{x}{3}
    left = text[: last.start("digits")]
    begin = last.end() - len(last[0].lstrip())
    before = text[max(0, begin - 8) : begin]
    if _is_right_side(last, before) or (is_answer and _LIST.search(before)):
        return None
    if _FRACTION_LEFT.search(left[-120:].rpartition(" ")[2]) or _is_part(last, text):
        return None
    try:
        return Number(_value(last), is_percent=last["percent"] is not None)
    except (InvalidOperation, Overflow, ZeroDivisionError):
        return None


def _is_right_side(found: re.Match[str], before: str) -> bool:
    """Return whether the number ends a calculation or a range: 15 - 5, 3-5."""
    if found["sign"] and re.search(r"\d \Z", before):
        return True
    return _LEFT_SIDE.search(before) is not None


def _is_part(found: re.Match[str], text: str) -> bool:
    """Return whether the digits are part of a date, a time, a version or a name: 2024-05-01, 12:30, v1.2.3."""
    before = text[max(0, found.start("digits") - 12) : found.start("digits")]
    digits = found["digits"]
    is_version = digits.count(".") > 1 and not _GROUPED.match(digits) and "," not in digits
    return (
        is_version or re.search(r"\d[:]\Z|\d-\d{1,2}-\Z|[vV]\Z|\d/\d{1,2}/\Z", before) is not None
    )


def _value(found: re.Match[str]) -> Decimal:
    value = Decimal(_plain(found["digits"]) + (found["power"] or ""))
    if found["under"]:
        value /= Decimal(found["under"])
    if found["whole"]:
        value += Decimal(found["whole"])
    if found["exponent"]:
        value = _raised(value, int(found["exponent"]), is_base=found["times"] is None)
    if found["magnitude"]:
        value = value.scaleb(_MAGNITUDES[found["magnitude"].strip(" .").lower()])
    signs = (found["sign"] or "") + (found["inner"] or "")
    # copy_negate does not round, as unary minus would.
    return value if signs in {"", "+"} else value.copy_negate()


def _raised(value: Decimal, exponent: int, *, is_base: bool) -> Decimal:
    if abs(exponent) > MOST_EXPONENT:
        raise InvalidOperation
    if not is_base:
        return value.scaleb(exponent)
    with localcontext() as context:
        context.prec = MOST_DIGITS
        raised: Decimal = (value**exponent).normalize()
        return raised


def _plain(digits: str) -> str:
    """Return digits without separators except a decimal point."""
    digits = re.sub(r"[' _]", "", digits)
    marks = {mark for mark in ".," if mark in digits}
    if len(marks) == 2:
        decimal = "." if digits.rfind(".") > digits.rfind(",") else ","
        whole, _, part = digits.rpartition(decimal)
        return f"{whole.replace('.', '').replace(',', '')}.{part}"
    mark = next(iter(marks), "")
    count = digits.count(mark) if mark else 0
    if count and (mark == "," or count > 1) and _GROUPED.match(digits):
        return digits.replace(mark, "")
    if count > 1:  # a list: 1,2,3
        return digits.rpartition(mark)[2]
    return digits.replace(",", ".")


def _same(one: Decimal, other: Decimal, tolerance: Tolerance | None) -> bool:
    if one == other:
        return True
    if tolerance is not None:
        most = Decimal(repr(tolerance.amount))
        return abs(one - other) <= (most * abs(other) if tolerance.is_share else most)
    if _is_whole(one) and _is_whole(other):
        return False
    return isclose(float(one), float(other), rel_tol=_TOLERANCE)


def _is_whole(value: Decimal) -> bool:
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and (exponent >= 0 or value == value.to_integral_value())
