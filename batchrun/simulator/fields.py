"""Checks of single fields in a request's body.

They raise `RefusedError` with the field's dotted path; the dialects word it as their vendor does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from batchrun.simulator.refusals import Fault, RefusedError

if TYPE_CHECKING:
    from collections.abc import Collection

_MAX_STOPS = 4
_MAX_CHOICES = 128


def decode(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"The request body is not valid JSON: {error}"
        raise RefusedError(Fault.INVALID, message) from error
    if not isinstance(fields, dict):
        raise RefusedError(Fault.INVALID, "The request body must be a JSON object.")
    return fields


def encode(value: object, param: str) -> bytes:
    """Return `value`, which was decoded from JSON, as JSON again."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        invalid(param, "nested too deeply.")


def invalid(param: str, message: str) -> NoReturn:
    """Refuse a field."""
    raise RefusedError(Fault.INVALID, message, param=param)


def required(fields: dict[str, Any], name: str, path: str = "") -> Any:  # noqa: ANN401 - JSON
    """Return a field that must be there. `path` is that of `fields`, with a final dot."""
    if fields.get(name) is None:
        raise RefusedError(Fault.MISSING, "Field required", param=path + name)
    return fields[name]


def model_name(fields: dict[str, Any]) -> str:
    """Return `model`, which is required."""
    return text(fields, "model")


def text(fields: dict[str, Any], name: str, path: str = "") -> str:
    """Return a string that must be there and not be empty."""
    value = required(fields, name, path)
    if not isinstance(value, str) or not value:
        invalid(path + name, "expected a string that is not empty.")
    return value


def flag(fields: dict[str, Any], name: str, *, default: bool = False, path: str = "") -> bool:
    """Return a boolean; `default` when it is absent."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        invalid(path + name, "expected true or false.")
    return value


def mapping(fields: dict[str, Any], name: str, path: str = "") -> dict[str, Any]:
    """Return an object; an empty one when it is absent."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        invalid(path + name, "expected an object.")
    return value


def one_of(fields: dict[str, Any], name: str, options: Collection[str], path: str = "") -> str:
    """Return a string that must be there and be one of `options`."""
    value = required(fields, name, path)
    if not isinstance(value, str) or value not in options:
        invalid(path + name, f"expected one of {', '.join(sorted(options))}.")
    return value


def integer(
    fields: dict[str, Any],
    name: str,
    *,
    needed: bool = False,
    most: int | None = None,
    path: str = "",
) -> int | None:
    """Return a number of at least 1; None when it is absent and may be."""
    value = required(fields, name, path) if needed else fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        invalid(path + name, "expected an integer.")
    if value < 1 or (most is not None and value > most):
        bounds = f"expected at least 1{f' and at most {most}' if most else ''}"
        invalid(path + name, f"{bounds}, got {value}.")
    return value


def choice_count(fields: dict[str, Any]) -> int:
    """Return `n`."""
    return integer(fields, "n", most=_MAX_CHOICES) or 1


def check_range(fields: dict[str, Any], name: str, low: float, high: float) -> None:
    """Refuse a number outside [low, high]."""
    value = fields.get(name)
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        invalid(name, "expected a number.")
    if not low <= value <= high:
        invalid(name, f"expected a value from {low:g} to {high:g}, got {value}.")


def stop_texts(fields: dict[str, Any], name: str) -> tuple[str, ...]:
    """Return the stop sequences: a string, a list of up to 4, or nothing."""
    value = fields.get(name)
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        invalid(name, "expected a list of strings that are not empty.")
    if len(stops) > _MAX_STOPS:
        invalid(name, f"expected at most {_MAX_STOPS} sequences, got {len(stops)}.")
    return tuple(stops)


def refuse_unsupported(fields: dict[str, Any], names: Collection[str]) -> None:
    """Refuse what the format knows and the simulator does not, rather than ignore it."""
    for name in names:
        if fields.get(name):
            message = f"The simulator does not know `{name}`: leave it out."
            raise RefusedError(Fault.NOT_IMPLEMENTED, message, param=name)
