"""The neutral request parameters: their types, and what each format accepts.

Ranges are those of the two API references: temperature 0-1 in messages and 0-2 in chat, penalties
-2 to 2, up to four stop sequences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from batchrun.records import Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import FormatName

MAX_STOP_SEQUENCES = 4


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
        return str(value)
    number = _number(value, parameter.kind)
    low, high = parameter.bounds(wire_format) or _ANY
    if not low <= number <= high:
        span = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"must be {span} in the {wire_format} format, not {value!r}")
    return number


def _number(value: object, kind: type) -> int | float:
    wanted = "a whole number" if kind is int else "a number"
    if isinstance(value, bool):
        raise ValueError(f"must be {wanted}, not {value!r}")  # noqa: TRY004 - callers expect one type
    try:
        number = float(str(value))
        if kind is not int:
            return number
        whole = int(number)
    except (ValueError, OverflowError):
        raise ValueError(f"must be {wanted}, not {value!r}") from None
    if whole != number:
        raise ValueError(f"must be a whole number, not {value!r}")
    # Large integers (seeds) lose digits on the way through float.
    return int(str(value)) if str(value).strip().lstrip("+-").isdigit() else whole


def _stop_sequences(value: object) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        raise ValueError(f"must be a string or an array of strings, not {value!r}")
    if len(values) > MAX_STOP_SEQUENCES:
        raise ValueError(f"takes at most {MAX_STOP_SEQUENCES} sequences, not {len(values)}")
    if "" in values:
        raise ValueError("an empty stop sequence would end every answer at once")
    return tuple(values)
