"""The neutral request parameters: their types, and what each format accepts.

Ranges are those of the two API references: temperature 0-1 in messages and 0-2 in chat, penalties
-2 to 2, up to four stop sequences.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from batchrun.records import Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import FormatName

MAX_STOP_SEQUENCES = 4

_EXPRESSION = re.compile(r"\{[{%#]")
_DIGITS = re.compile(r"[+-]?[0-9]+\Z")
_MOST = 2**63 - 1  # JSON readers keep whole numbers in 64 bits


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter's type and, for each format that can express it, its range."""

    kind: type
    messages: tuple[float, float] | None = None
    chat: tuple[float, float] | None = None
    instead: str = ""

    def bounds(self, name: FormatName) -> tuple[float, float] | None:
        """Return the accepted range in a format, None when the format has no such parameter."""
        return self.messages if name == "messages" else self.chat


_ANY = (-math.inf, math.inf)
_COUNT = (1, math.inf)

PARAMETERS: Mapping[str, Parameter] = {
    "max_tokens": Parameter(int, messages=_COUNT, chat=_COUNT),
    "temperature": Parameter(float, messages=(0, 1), chat=(0, 2)),
    "top_p": Parameter(float, messages=(0, 1), chat=(0, 1)),
    "top_k": Parameter(
        int,
        messages=(0, math.inf),
        instead="; a server that knows it anyway can be sent extra_body = { top_k = … }",
    ),
    "stop": Parameter(tuple, messages=_ANY, chat=_ANY),
    "n": Parameter(int, chat=_COUNT),
    "seed": Parameter(int, chat=_ANY),
    "presence_penalty": Parameter(float, chat=(-2, 2)),
    "frequency_penalty": Parameter(float, chat=(-2, 2)),
    "user": Parameter(str, messages=_ANY, chat=_ANY),
    "service_tier": Parameter(str, messages=_ANY, chat=_ANY),
    "thinking_tokens": Parameter(int, messages=_COUNT, chat=_COUNT),
    "logprobs": Parameter(bool, chat=_ANY),
    "top_logprobs": Parameter(int, chat=(0, 20)),
}

assert set(PARAMETERS) == {field.name for field in fields(Parameters)}  # noqa: S101


def unsupported(name: str, wire_format: FormatName) -> str | None:
    """Return why a format cannot express a parameter, or None when it can."""
    parameter = PARAMETERS[name]
    if parameter.bounds(wire_format) is not None:
        return None
    other = "chat" if wire_format == "messages" else "messages"
    return (
        f'the {wire_format} format has no {name}; use format = "{other}" '
        f"or remove it{parameter.instead}"
    )


def thinking_conflict(
    thinking_tokens: object, max_tokens: object, wire_format: FormatName
) -> str | None:
    """Return why two checked values do not go together, None when they do.

    In the messages format the thinking budget is a part of `max_tokens`, and the answer needs some
    of it too.
    """
    if wire_format != "messages" or not isinstance(thinking_tokens, int):
        return None
    if not isinstance(max_tokens, int) or thinking_tokens < max_tokens:
        return None
    return f"must be below max_tokens, which is {max_tokens}, not {thinking_tokens}"


def is_template(value: object) -> bool:
    """Say whether a value of the job file is text with an expression to be filled in for a row."""
    return isinstance(value, str) and _EXPRESSION.search(value) is not None


def check(name: str, value: object, wire_format: FormatName) -> Any:  # noqa: ANN401 - by name
    """Return a value of the job file as `coerce` does; a template stays what it is.

    Raises:
        ValueError: with a message that names the value.
    """
    if is_template(value):
        return value
    # TOML has types: a quoted number in the job file is a mistake worth naming.
    kind = PARAMETERS[name].kind
    if isinstance(value, str) and kind in {int, float, bool}:
        wanted = "true, false" if kind is bool else "a number"
        raise ValueError(f"must be {wanted} or a template, not {value!r:.80}")
    return coerce(name, value, wire_format)


def coerce(name: str, value: object, wire_format: FormatName) -> Any:  # noqa: ANN401 - by name
    """Return a value as the type and in the range that the format wants.

    Text from a table is read as the number it spells; a number is never cut to fit.

    Raises:
        ValueError: with a message that names the value.
    """
    parameter = PARAMETERS[name]
    if parameter.kind is tuple:
        return _stop_sequences(value)
    if parameter.kind is str:
        return _text(value)
    if parameter.kind is bool:
        return _flag(value)
    number = _number(value, parameter.kind)
    low, high = parameter.bounds(wire_format) or _ANY
    if not low <= number <= high:
        span = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"must be {span} in the {wire_format} format, not {value!r:.80}")
    return number


def _text(value: object) -> str:
    if isinstance(value, bool | float | bytes | list | tuple | dict):
        raise ValueError(f"must be a string, not {value!r:.80}")  # noqa: TRY004 - as below
    return str(value)


def _flag(value: object) -> bool:
    spelled = {"true": True, "false": False}
    found = value if isinstance(value, bool) else spelled.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"must be true or false, not {value!r:.80}")
    return found


def _number(value: object, kind: type) -> int | float:
    wanted = "a whole number" if kind is int else "a number"
    text = "" if isinstance(value, bool) else str(value).strip()
    try:
        number = float(text.replace("_", "?"))
        if kind is not int and math.isfinite(number):
            return number
        # Large integers (seeds) would lose digits on the way through float.
        whole = int(text) if _DIGITS.match(text) else int(number)
    except (ValueError, OverflowError):
        raise ValueError(f"must be {wanted}, not {value!r:.80}") from None
    if not _DIGITS.match(text) and whole != number:
        raise ValueError(f"must be a whole number, not {value!r:.80}")
    if abs(whole) > _MOST:
        raise ValueError(f"is too large for any server: {value!r:.80}")
    return whole


def _stop_sequences(value: object) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        raise ValueError(f"must be a string or an array of strings, not {value!r:.80}")
    if len(values) > MAX_STOP_SEQUENCES:
        raise ValueError(f"takes at most {MAX_STOP_SEQUENCES} sequences, not {len(values)}")
    if "" in values:
        raise ValueError("an empty stop sequence would end every answer at once")
    return tuple(values)
