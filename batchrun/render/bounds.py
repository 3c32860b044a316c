"""How much a template may do for one row: everything that can grow is paid for out of a budget.

Templates may come from strangers, and `{{ 9 ** 9 ** 9 }}`, a repeated text or nested loops would take
all memory and time there is. What can be large is paid for before it is made where that can be
known, and otherwise by what it came to. The unit is about a byte; steps cost `STEP` of them, so that
one budget bounds memory and time. It counts work, not seconds: a row fails always or never.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jinja2.utils import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable

# More than any provider takes in one request.
MAX_TEXT = 32 * 1024 * 1024
# What one row may use: one million steps, or 100 MB of text that is made on the way.
BUDGET = 100_000_000
STEP = 100
CALL = 500  # of a function, a method or a macro
ELEMENT = 64
SCALAR = 32
MAX_BITS = 10_000
MAX_WIDTH = 10_000
MAX_DIGITS = 1_000
LONGEST_NUMBER = 320  # the digits of the largest float

ENCODINGS = ("utf-8", "ascii", "latin-1", "cp1252", "utf-16")

_NOTHING: dict[str, str] = {}
_VIEWS = (type(_NOTHING.keys()), type(_NOTHING.values()), type(_NOTHING.items()))
_COLLECTIONS = (list, tuple, set, frozenset, *_VIEWS)
_TEXTS = (str, bytes)
_LONG_NUMBER = re.compile(r"\d{5,}")
_PRINTF = re.compile(r"%(?:\([^()]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?[hlL]?(.?)", re.DOTALL)


class OverBudgetError(RuntimeError):
    """A template wants to do more for one row than it may."""


class _Account(threading.local):
    left = BUDGET


_account = _Account()


def open_account() -> None:
    """Begin a row: the whole budget is there again."""
    _account.left = BUDGET


def pay(cost: int) -> None:
    """Take from the budget.

    Raises:
        OverBudgetError: when there is not so much left.
    """
    _account.left -= cost
    if _account.left < 0:
        raise OverBudgetError(
            "the template does more than one row may: about 1 million steps, or 100 MB of text on "
            "the way; shorten its loops, repeats and widths, or the cells"
        )


def weigh(value: object) -> int:
    """Return about how large a value is when written out; shared parts count each time.

    Raises:
        OverBudgetError: when that is more than the budget.
        TypeError: when there is a namespace in it, which could hold itself.
    """
    if isinstance(value, str):
        return len(value)
    total, parts = 0, [value]
    while parts:
        part = parts.pop()
        if isinstance(part, _TEXTS):
            total += len(part)
        elif isinstance(part, dict):
            total += 2 * ELEMENT * len(part)
            _check_weight(total)
            parts += [*part.keys(), *part.values()]
        elif isinstance(part, _COLLECTIONS):
            total += ELEMENT * len(part)
            _check_weight(total)
            parts += part
        else:
            total += _scalar_weight(part)
        _check_weight(total)
    return total


def _scalar_weight(value: object) -> int:
    if isinstance(value, int):
        return SCALAR + _integer(value.bit_length())
    if isinstance(value, range):
        return ELEMENT * len(value)
    if isinstance(value, Namespace):
        raise TypeError("a namespace is no text or data; use its attributes")
    return SCALAR


def _check_weight(total: int) -> None:
    if total > BUDGET:
        pay(total)


def counted(value: Any) -> Any:  # noqa: ANN401 - what a loop goes through
    """Pay a step for each turn of a loop."""
    if isinstance(value, Iterator):
        return metered(value)
    if hasattr(value, "__len__"):
        pay(STEP * len(value))
    return value


def metered(values: Iterator[Any]) -> Iterator[Any]:
    """Yield what an iterator gives, a step each."""
    for value in values:
        pay(STEP)
        yield value


# What filters and methods may give, before they do; the arguments are named as theirs.


def fill(text: Any, width: Any = 80, *_: Any) -> int:  # noqa: ANN401
    """The cost of text set in a width."""
    return len(str(text)) + _number(width)


def replace(text: Any, old: Any, new: Any, count: Any = None) -> int:  # noqa: ANN401
    """The cost of replacing all of `old`."""
    written = str(text)
    found = written.count(str(old)) if str(old) else len(written) + 1
    return found * len(str(new))


def join(values: Any, d: Any = "", attribute: Any = None) -> int:  # noqa: ANN401
    """The cost of what stands between values."""
    return len(values) * len(str(d)) if hasattr(values, "__len__") else 0


def indent(text: Any, width: Any = 4, first: Any = False, blank: Any = False) -> int:  # noqa: ANN401
    """The cost of indenting each line by a number of blanks or a text."""
    by = len(width) if isinstance(width, str) else _number(width)
    return (str(text).count("\n") + 1) * by


def expand_tabs(text: Any, tabsize: Any = 8) -> int:  # noqa: ANN401
    """The cost of blanks for tabs."""
    return len(text) + str(text).count("\t") * _number(tabsize)


def strip(text: Any, chars: Any = None) -> int:  # noqa: ANN401
    """The cost of looking each character up in those to take off."""
    return len(str(text)) * len(str(chars)) if chars else 0


def strip_tags(text: Any) -> int:  # noqa: ANN401
    """The cost of taking tags out one after the other."""
    written = str(text)
    return len(written) * written.count("<") // STEP


def decode(content: Any, encoding: Any = "utf-8", errors: Any = "strict") -> int:  # noqa: ANN401
    """Bytes as text, by the encodings that take no more than their length."""
    if encoding not in ENCODINGS:
        raise ValueError(f"decode: must be one of {', '.join(ENCODINGS)}, not {encoding!r:.80}")
    return len(content)


def pieces(text: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401
    """The cost of a text taken apart into many small ones."""
    return ELEMENT * len(text) if isinstance(text, _TEXTS) else 0


def split(text: Any, sep: Any = None, maxsplit: Any = -1) -> int:  # noqa: ANN401
    """The cost of the parts of a text."""
    found = text.count(sep) if sep else len(text) // 2
    return len(text) + ELEMENT * (min(found, maxsplit) if _number(maxsplit) else found)


def batch(value: Any, linecount: Any, fill_with: Any = None) -> int:  # noqa: ANN401
    """The cost of filling the last batch up."""
    return pieces(value) + (0 if fill_with is None else ELEMENT * _number(linecount))


def squared(*values: Any, **named: Any) -> int:  # noqa: ANN401
    """The cost of what takes time by the square of its arguments."""
    size = sum(weigh(value) for value in (*values, *named.values()))
    return size * size // STEP


def json(value: Any, indent: Any = None) -> int:  # noqa: ANN401
    """The cost of JSON; each line of it can be indented as often as it is deep."""
    if indent is None:
        return weigh(value)
    return squared(value) * max(1, len(indent) if isinstance(indent, str) else _number(indent))


def places(value: Any, precision: Any = 0, method: Any = "common") -> int:  # noqa: ANN401
    """Rounding to that many digits: ten to this power is what is calculated."""
    if isinstance(precision, int) and abs(precision) > MAX_DIGITS:
        raise OverBudgetError(f"round: the precision must be at most {MAX_DIGITS:,} digits")
    return 0


def total(iterable: Any, attribute: Any = None, start: Any = 0) -> int:  # noqa: ANN401
    """Sums are of numbers; lists summed up take time by the square."""
    if isinstance(start, (*_TEXTS, dict, *_COLLECTIONS)):
        raise TypeError("sum adds numbers only")
    return 0


def printf(text: Any, *values: Any, **named: Any) -> int:  # noqa: ANN401
    """The cost of `%` formatting, by the `format` filter or the operator."""
    template = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    cost, specs = 0, 0
    for match in _PRINTF.finditer(template):
        *widths, kind = match.groups()
        if kind == "(":
            raise OverBudgetError("format: a name in a format cannot hold brackets")
        if any(_is_too_wide(width or "") for width in widths):
            raise OverBudgetError(f"format: {match.group()[:40]!r} is wider than {MAX_WIDTH:,}")
        cost += LONGEST_NUMBER + sum(int(width or 0) for width in widths)
        specs += 1
    widest = sum(weigh(value) for value in (*values, *named.values()))
    is_named = named or any(isinstance(value, dict) for value in values)
    return cost + (specs * widest if is_named else widest)


def check_spec(spec: str) -> None:
    """Refuse a format spec, as of `str.format`, with an absurd width or precision."""
    if _LONG_NUMBER.search(spec):
        raise OverBudgetError(f"format: {spec[:40]!r} is wider than {MAX_WIDTH:,}")


def _is_too_wide(number: str) -> bool:
    return number == "*" or len(number) > 5 or int(number or 0) > MAX_WIDTH


def _number(value: object) -> int:
    return max(0, value) if isinstance(value, int) else 0


def repeat(left: Any, right: Any) -> int:  # noqa: ANN401
    """The cost of `left * right`: of a text or a list, so many times."""
    if isinstance(left, int) and isinstance(right, int):
        return _integer(left.bit_length() + right.bit_length())
    if not isinstance(left, int) and not isinstance(right, int):
        return 0
    if isinstance(left, int):
        left, right = right, left
    return weigh(left) * _number(right)


def power(left: Any, right: Any) -> int:  # noqa: ANN401
    """The cost of `left ** right`."""
    if isinstance(left, int) and isinstance(right, int):
        return _integer(left.bit_length() * max(0, right))
    return 0


def added(left: Any, right: Any) -> int:  # noqa: ANN401
    """The cost of `left + right`."""
    return weigh(left) + weigh(right)


def modulo(left: Any, right: Any) -> int:  # noqa: ANN401
    """The cost of `left % right`, which formats when `left` is a text."""
    return printf(left, right) if isinstance(left, _TEXTS) else added(left, right)


def _integer(bits: int) -> int:
    if bits > MAX_BITS:
        raise OverBudgetError(f"a number would have more than {MAX_BITS * 3 // 10:,} digits")
    return bits // 8


OPERATORS: dict[str, Callable[[Any, Any], int]] = {
    "+": added,
    "-": added,
    "*": repeat,
    "/": added,
    "//": added,
    "**": power,
    "%": modulo,
}

FILTERS: dict[str, Callable[..., int]] = {
    "batch": batch,
    "center": fill,
    "format": printf,
    "indent": indent,
    "join": join,
    "list": pieces,
    "pprint": squared,
    "replace": replace,
    "round": places,
    "slice": pieces,
    "sort": pieces,
    "striptags": strip_tags,
    "sum": total,
    "title": pieces,
    "tojson": json,
    "trim": strip,
    "unique": pieces,
    "urlize": squared,
    "wordcount": pieces,
    "wordwrap": squared,
}

# Other methods of texts cost about what they take and give, but for these: some of their ways take
# time by the square, and a prompt needs none of them.
REFUSED_METHODS = ("encode", "maketrans", "translate")

TEXT_METHODS: dict[str, Callable[..., int]] = {
    "center": fill,
    "decode": decode,
    "expandtabs": expand_tabs,
    "join": lambda separator, values: join(values, separator),
    "ljust": fill,
    "lstrip": strip,
    "replace": replace,
    "rjust": fill,
    "rsplit": split,
    "rstrip": strip,
    "split": split,
    "splitlines": pieces,
    "strip": strip,
    "striptags": strip_tags,
    "zfill": fill,
}
INTEGER_METHODS = ("as_integer_ratio", "bit_count", "bit_length", "is_integer")
