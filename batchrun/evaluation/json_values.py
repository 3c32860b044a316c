"""Finds JSON values in the text of an answer, and compares them."""

from __future__ import annotations

import json
import re
import unicodedata
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.evaluation.answer_text import without_thoughts
from batchrun.evaluation.numbers import Number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.evaluation.numbers import Tolerance


LONGEST_JSON = 1_000_000
# The text after each bracket may be read to its end: many brackets would take quadratic time.
MOST_FAILURES = 500
_FENCE = re.compile(r"```[\w-]{0,20}[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_START = re.compile(r"[{\[]")
_DECODER = json.JSONDecoder()


def find_json(text: str, kind: type | None = None) -> Any:  # noqa: ANN401 - any JSON value
    """Return the JSON value in a text: all of it, its last fenced block, or its last complete value.

    Args:
        text: the answer, possibly with words and thoughts around the value.
        kind: `dict` or `list`: values of this kind are preferred. Without it, objects are preferred
            to arrays, which may be references such as `[1]`.

    Raises:
        ValueError: if there is none.
    """
    text = without_thoughts(text)[-LONGEST_JSON:].strip()
    for candidate in (text, *reversed(_FENCE.findall(text))):
        try:
            return orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
    values = list(_values(text))
    if not values:
        raise ValueError("holds no JSON")
    wanted = kind if kind in {dict, list} else dict
    return next((value for value in reversed(values) if isinstance(value, wanted)), values[-1])


def _values(text: str) -> Iterator[Any]:
    """Yield the complete objects and arrays of a text, without nested ones."""
    end = failures = 0
    for start in _START.finditer(text):
        if start.start() < end:
            continue
        try:
            _, end = _DECODER.raw_decode(text, start.start())
            yield orjson.loads(text[start.start() : end])
        except (ValueError, RecursionError):
            failures += 1
            if failures > MOST_FAILURES:
                return


def is_same_json(one: object, other: object, tolerance: Tolerance | None = None) -> bool:
    """Return whether two JSON values are equal: 1 is 1.0, true is not 1, and Unicode forms are equivalent.

    `tolerance` applies to numbers, relative to those of `other`.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            is_same_json(value, other[key], tolerance) for key, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            is_same_json(*pair, tolerance) for pair in zip(one, other, strict=True)
        )
    if isinstance(one, str) and isinstance(other, str):
        return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
    is_same = one == other and isinstance(one, bool) == isinstance(other, bool)
    if is_same or tolerance is None or isinstance(one, bool) or isinstance(other, bool):
        return is_same
    if isinstance(one, int | float) and isinstance(other, int | float):
        return Number(Decimal(str(one))).equals(Number(Decimal(str(other))), tolerance)
    return False


def plain_json(value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Return a cell's value as a JSON value; for example, a date as text.

    Raises:
        ValueError: when it cannot be written as JSON.
    """
    try:
        return orjson.loads(orjson.dumps(value, default=str))
    except TypeError as error:
        raise ValueError(str(error)) from None


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the fields of an object, including nested ones, with their dotted paths."""
    if isinstance(value, dict) and (value or not path):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
