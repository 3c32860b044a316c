"""The values of a request, checked against what its format can express."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from batchrun import formats
from batchrun.errors import quoted
from batchrun.formats.wire_format import ANY
from batchrun.records import Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.formats import WireFormat

MAX_STOP_SEQUENCES = 4  # of both API references

_EXPRESSION = re.compile(r"\{[{%#]")
_DIGITS = re.compile(r"[+-]?[0-9]+\Z")
_MOST = 2**63 - 1  # JSON readers keep whole numbers in 64 bits


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter's type, and the advice if the format does not have it."""

    kind: type
    instead: str = ""

    @property
    def example(self) -> Any:  # noqa: ANN401 - of its kind
        """An example value of its type."""
        return ("text",) if self.kind is tuple else self.kind(1)


# The ranges are in the `Capabilities` of each format.
PARAMETERS: Mapping[str, Parameter] = {
    "max_tokens": Parameter(int),
    "temperature": Parameter(float),
    "top_p": Parameter(float),
    "top_k": Parameter(
        int, "; if the server supports it anyway, send it with extra_body = { top_k = … }"
    ),
    "stop": Parameter(tuple),
    "n": Parameter(int),
    "seed": Parameter(int),
    "presence_penalty": Parameter(float),
    "frequency_penalty": Parameter(float),
    "user": Parameter(str),
    "service_tier": Parameter(str),
    "thinking_tokens": Parameter(int),
    "logprobs": Parameter(bool),
    "top_logprobs": Parameter(int),
    "effort": Parameter(str),
}

assert set(PARAMETERS) == {field.name for field in fields(Parameters)}  # noqa: S101


def unsupported(name: str, wire_format: WireFormat) -> str | None:
    """Return why a format cannot express a parameter, or None if it can."""
    if name in wire_format.capabilities.parameters:
        return None
    other = formats.use_another(lambda each: name in each.capabilities.parameters)
    return (
        f"the {wire_format.name} format has no {name}; {other} "
        f"or remove it{PARAMETERS[name].instead}"
    )


def is_template(value: object) -> bool:
    """Return whether a value of the job file is text with an expression to be filled in for each row."""
    return isinstance(value, str) and _EXPRESSION.search(value) is not None


def check(name: str, value: object, wire_format: WireFormat) -> Any:  # noqa: ANN401 - by name
    """Return a value of the job file as `coerce` does; a template stays unchanged.

    Raises:
        ValueError: with a message that names the value.
    """
    if is_template(value):
        return value
    # TOML has types: a quoted number in the job file is a mistake worth naming.
    kind = PARAMETERS[name].kind
    if isinstance(value, str) and kind in {int, float, bool}:
        wanted = "true, false" if kind is bool else "a number"
        raise ValueError(f"must be {wanted} or a template, not {quoted(value)}")
    return coerce(name, value, wire_format)


def coerce(name: str, value: object, wire_format: WireFormat) -> Any:  # noqa: ANN401 - by name
    """Return a value with the type and in the range that the format requires.

    Text from a table is read as a number; a number is never rounded to fit.

    Raises:
        ValueError: with a message that names the value.
    """
    parameter = PARAMETERS[name]
    if parameter.kind is tuple:
        return _stop_sequences(value, wire_format)
    if parameter.kind is str:
        text = _text(value)
        return _effort(text, wire_format) if name == "effort" else text
    if parameter.kind is bool:
        return _flag(value)
    number = _number(value, parameter.kind)
    low, high = wire_format.capabilities.parameters.get(name, ANY)
    if not low <= number <= high:
        span = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"must be {span} in the {wire_format.name} format, not {quoted(value)}")
    return number


def _text(value: object) -> str:
    if isinstance(value, bool | float | bytes | list | tuple | dict):
        raise ValueError(f"must be a string, not {quoted(value)}")  # noqa: TRY004 - as below
    return str(value)


def _effort(given: str, wire_format: WireFormat) -> str:
    allowed = wire_format.capabilities.efforts
    if given not in allowed:
        raise ValueError(f"must be one of {', '.join(allowed)}, not {quoted(given)}")
    return given


def _flag(value: object) -> bool:
    spelled = {"true": True, "false": False}
    found = value if isinstance(value, bool) else spelled.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"must be true or false, not {quoted(value)}")
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
        raise ValueError(f"must be {wanted}, not {quoted(value)}") from None
    if not _DIGITS.match(text) and whole != number:
        raise ValueError(f"must be a whole number, not {quoted(value)}")
    if abs(whole) > _MOST:
        raise ValueError(f"is too large for any server: {quoted(value)}")
    return whole


def _stop_sequences(value: object, wire_format: WireFormat) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        raise ValueError(f"must be a string or an array of strings, not {quoted(value)}")
    if len(values) > MAX_STOP_SEQUENCES:
        raise ValueError(f"takes at most {MAX_STOP_SEQUENCES} sequences, not {len(values)}")
    if "" in values:
        raise ValueError("an empty stop sequence would end every answer at once")
    if not wire_format.capabilities.blank_stops and not all(item.strip() for item in values):
        raise ValueError(
            "a stop sequence of white space only is refused by the "
            f"{wire_format.name} format; use other text"
        )
    return tuple(values)
