"""Limits the work of a template for one row: every operation that can grow is paid from a budget.

Templates may be untrusted, and `{{ 9 ** 9 ** 9 }}`, a repeated text or nested loops could take all
memory and time. Operations pay before they run if their result could be large, and afterwards for
their result. The unit is about a byte; a step costs `STEP` units, so that one budget limits memory and
time. It counts work, not seconds, so that the same row always succeeds or always fails.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jinja2.utils import Namespace

from batchrun.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

# More than any provider accepts in one request.
MAX_TEXT = 32 * 1024 * 1024
# Of one row: one million steps, or 100 MB of text.
BUDGET = 100_000_000
STEP = 100
CALL = 500  # of a function, a method or a macro
ELEMENT = 64
SCALAR = 32
# Bounds of single operations whose result can be much larger than their arguments.
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
_WIDE_PRINTF = re.compile(r"%(?:\([^()]*\))?[^%a-zA-Z]*?(?:\*|\d{5})")
_BRACKETS_IN_NAME = re.compile(r"%\([^()]*\(")


class OverBudgetError(RuntimeError):
    """A template would do more for one row than it may."""


class _Remaining(threading.local):
    budget = BUDGET


_remaining = _Remaining()


def reset_budget() -> None:
    """Reset the budget for a new row."""
    _remaining.budget = BUDGET


def pay(cost: int) -> None:
    """Take from the budget.

    Raises:
        OverBudgetError: if not enough is left.
    """
    _remaining.budget -= cost
    if _remaining.budget < 0:
        raise OverBudgetError(
            "the template exceeds the limit for one row (about 1 million steps or 100 MB of text); "
            "use shorter loops, repeats, widths or cells"
        )


def weigh(value: object) -> int:
    """Return the approximate size of a value when written out; shared parts count each time.

    Raises:
        OverBudgetError: if it is more than the budget.
        TypeError: if the value contains a namespace, which could contain itself.
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
        raise TypeError("a namespace is not text or data; use its attributes")
    return SCALAR


def _check_weight(total: int) -> None:
    if total > BUDGET:
        pay(total)


def _weigh_all(values: tuple[Any, ...], named: dict[str, Any]) -> int:
    return sum(weigh(value) for value in (*values, *named.values()))


def metered(value: Any) -> Any:  # noqa: ANN401 - what a loop iterates over
    """Pay a step for each iteration: at once if their number is known."""
    if isinstance(value, Iterator):
        return _metered_iterator(value)
    if hasattr(value, "__len__"):
        pay(STEP * len(value))
    return value


def _metered_iterator(values: Iterator[Any]) -> Iterator[Any]:
    for value in values:
        pay(STEP)
        yield value


# The cost of filters and methods whose result can be larger than their arguments, or that take more
# time than that. They are called with the same arguments, before the filter or method runs.


def product(text: Any, *values: Any, **named: Any) -> int:  # noqa: ANN401
    """Text that is filled up to a width, indented, joined, or compared with each of some characters."""
    cost = len(text) if hasattr(text, "__len__") else 1
    for value in (*values, *named.values()):
        size = abs(value) if isinstance(value, int) else len(value) if _is_sized(value) else 1
        cost *= max(1, size)
    return cost


def pieces(text: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401
    """Text that is split into its characters, words or lines."""
    return ELEMENT * len(text) if isinstance(text, _TEXTS) else 0


def split(text: Any, sep: Any = None, maxsplit: Any = -1) -> int:  # noqa: ANN401
    """Text that is split at a separator."""
    found = text.count(sep) if sep else len(text) // 2
    is_limited = isinstance(maxsplit, int) and maxsplit > 0
    return len(text) + ELEMENT * (min(found, maxsplit) if is_limited else found)


def replace(text: Any, old: Any, new: Any, count: Any = None) -> int:  # noqa: ANN401
    """All of `old` replaced."""
    written = str(text)
    return (written.count(str(old)) if str(old) else len(written) + 1) * len(str(new))


def strip_tags(text: Any) -> int:  # noqa: ANN401
    """Tags that are removed one after the other."""
    written = str(text)
    return len(written) * written.count("<") // STEP


def decode(content: Any, encoding: Any = "utf-8", errors: Any = "strict") -> int:  # noqa: ANN401
    """Bytes as text, in the encodings whose text is not longer than the bytes."""
    if encoding not in ENCODINGS:
        raise ValueError(f"decode: must be one of {', '.join(ENCODINGS)}, not {quoted(encoding)}")
    return len(content)


def squared(*values: Any, **named: Any) -> int:  # noqa: ANN401
    """What takes time in proportion to the square of its arguments."""
    return _weigh_all(values, named) ** 2 // STEP


def json(value: Any, indent: Any = None) -> int:  # noqa: ANN401
    """JSON, each line of which can be indented by its depth."""
    return weigh(value) if indent is None else squared(value) * product(None, indent)


def places(value: Any, precision: Any = 0, method: Any = "common") -> int:  # noqa: ANN401
    """A number that is rounded: Jinja calculates ten to the power of the precision."""
    if isinstance(precision, int) and abs(precision) > MAX_DIGITS:
        raise OverBudgetError(f"round: the precision must be at most {MAX_DIGITS:,} digits")
    return 0


def total(iterable: Any, attribute: Any = None, start: Any = 0) -> int:  # noqa: ANN401
    """A sum of numbers; a sum of lists would take time in proportion to its square."""
    if isinstance(start, (*_TEXTS, dict, *_COLLECTIONS)):
        raise TypeError("sum adds numbers only")
    return 0


def printf(text: Any, *values: Any, **named: Any) -> int:  # noqa: ANN401
    """`%` formatting, by the `format` filter or the operator; each value can be used many times."""
    template = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    if _BRACKETS_IN_NAME.search(template):
        raise OverBudgetError("format: a name in a format cannot contain brackets")
    if wide := _WIDE_PRINTF.search(template):
        raise OverBudgetError(f"format: {quoted(wide.group(), 40)} is wider than {MAX_WIDTH:,}")
    widths = sum(map(int, re.findall(r"\d{1,4}", template)))
    return widths + template.count("%") * (LONGEST_NUMBER + _weigh_all(values, named))


def check_spec(spec: str) -> None:
    """Refuse a format spec, as of `str.format`, with a very large width or precision."""
    if _LONG_NUMBER.search(spec):
        raise OverBudgetError(f"format: {quoted(spec, 40)} is wider than {MAX_WIDTH:,}")


# Operators


def repeat(left: Any, right: Any) -> int:  # noqa: ANN401
    """`left * right`: a product, or a text or list repeated."""
    if isinstance(left, int) and isinstance(right, int):
        return _integer(left.bit_length() + right.bit_length())
    if isinstance(left, int):
        left, right = right, left
    return weigh(left) * max(0, right) if isinstance(right, int) else 0


def power(left: Any, right: Any) -> int:  # noqa: ANN401
    """`left ** right`."""
    is_whole = isinstance(left, int) and isinstance(right, int)
    return _integer(left.bit_length() * max(0, right)) if is_whole else 0


def added(left: Any, right: Any) -> int:  # noqa: ANN401
    """`left + right`, and the operators that cost the same."""
    return weigh(left) + weigh(right)


def modulo(left: Any, right: Any) -> int:  # noqa: ANN401
    """`left % right`, which formats if `left` is a text."""
    return printf(left, right) if isinstance(left, _TEXTS) else added(left, right)


def _integer(bits: int) -> int:
    if bits > MAX_BITS:
        raise OverBudgetError(f"a number would have more than {MAX_BITS * 3 // 10:,} digits")
    return bits // 8


def _is_sized(value: object) -> bool:
    return hasattr(value, "__len__")


def _by_name(*costs: tuple[Callable[..., int], str]) -> dict[str, Callable[..., int]]:
    return {name: cost for cost, names in costs for name in names.split()}


OPERATORS = _by_name((added, "+ - / //"), (repeat, "*"), (power, "**"), (modulo, "%"))
FILTERS = _by_name(
    (product, "batch center indent join trim"),
    (pieces, "list slice sort title unique wordcount"),
    (squared, "pprint urlize wordwrap"),
    (printf, "format"),
    (replace, "replace"),
    (places, "round"),
    (strip_tags, "striptags"),
    (total, "sum"),
    (json, "tojson"),
)
# Other methods of texts cost about as much as their arguments and result, except the refused ones:
# these can take time in proportion to the square, and a prompt does not need them.
TEXT_METHODS = _by_name(
    (product, "center expandtabs join ljust lstrip rjust rstrip strip zfill"),
    (pieces, "splitlines"),
    (split, "rsplit split"),
    (decode, "decode"),
    (replace, "replace"),
    (strip_tags, "striptags"),
)
REFUSED_METHODS = ("encode", "maketrans", "translate")
INTEGER_METHODS = ("as_integer_ratio", "bit_count", "bit_length", "is_integer")
