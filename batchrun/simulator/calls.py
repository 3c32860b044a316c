"""What both dialects ask for, checked and neutral.

The checks raise `RefusedError` with the field's dotted path; the dialects word it as their vendor does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from batchrun.simulator.answers import count_tokens
from batchrun.simulator.refusals import Fault, RefusedError

if TYPE_CHECKING:
    from collections.abc import Collection

_TURN_TOKENS = 3  # what a role and its delimiters cost
_IMAGE_TOKENS = 1_500  # about one megapixel
_IMAGE_BLOCKS = frozenset({"image", "image_url"})
_MAX_STOPS = 4
_MAX_CHOICES = 128


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: its role, the text of its text blocks, and what it costs as input."""

    role: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Call:
    """A request that will be answered.

    Attributes:
        model: as sent.
        system: all system text; "" when there is none.
        prompt: text of the last user message; "" when there is none.
        prefill: text of a final assistant message, which the answer continues; else "".
        max_tokens: most tokens of one choice; None leaves it to the answer.
        stops: texts that end the answer before they appear in it.
        choices: how many answers.
        input_tokens: of the whole conversation.
    """

    model: str
    system: str
    prompt: str
    prefill: str
    max_tokens: int | None
    stops: tuple[str, ...]
    choices: int
    input_tokens: int

    @property
    def reserved_tokens(self) -> int:
        """What admission charges: the output is not known yet, so its bound stands in for it.

        Without a bound only the input is charged, and the output afterwards.
        """
        return self.input_tokens + self.choices * (self.max_tokens or 0)


def build_call(
    model: str,
    turns: list[Turn],
    *,
    max_tokens: int | None,
    stops: tuple[str, ...],
    choices: int = 1,
) -> Call:
    """Put together a call; `turns` holds system messages too."""
    users = [turn.text for turn in turns if turn.role == "user"]
    last = turns[-1]
    return Call(
        model=model,
        system="\n\n".join(turn.text for turn in turns if turn.role in {"system", "developer"}),
        prompt=users[-1] if users else "",
        prefill=last.text if last.role == "assistant" else "",
        max_tokens=max_tokens,
        stops=stops,
        choices=choices,
        input_tokens=sum(turn.tokens for turn in turns),
    )


def decode(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"The request body is not valid JSON: {error}"
        raise RefusedError(Fault.INVALID, message) from error
    if not isinstance(fields, dict):
        raise RefusedError(Fault.INVALID, "The request body must be a JSON object.")
    if fields.get("stream"):
        message = "The simulator does not stream yet: leave out `stream`, or set it to false."
        raise RefusedError(Fault.NOT_IMPLEMENTED, message, param="stream")
    return fields


def model_name(fields: dict[str, Any]) -> str:
    """Return `model`, which is required."""
    model = _required(fields, "model")
    if not isinstance(model, str) or not model:
        _invalid("model", "expected a model name.")
    return model


def integer(
    fields: dict[str, Any], name: str, *, required: bool = False, most: int | None = None
) -> int | None:
    """Return a number of at least 1; None when it is absent and may be."""
    value = _required(fields, name) if required else fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        _invalid(name, "expected an integer.")
    if value < 1 or (most is not None and value > most):
        _invalid(name, f"expected at least 1{f' and at most {most}' if most else ''}, got {value}.")
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
        _invalid(name, "expected a number.")
    if not low <= value <= high:
        _invalid(name, f"expected a value from {low:g} to {high:g}, got {value}.")


def stop_texts(fields: dict[str, Any], name: str) -> tuple[str, ...]:
    """Return the stop sequences: a string, a list of up to 4, or nothing."""
    value = fields.get(name)
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        _invalid(name, "expected a list of strings that are not empty.")
    if len(stops) > _MAX_STOPS:
        _invalid(name, f"expected at most {_MAX_STOPS} sequences, got {len(stops)}.")
    return tuple(stops)


def conversation(fields: dict[str, Any], roles: Collection[str]) -> list[Turn]:
    """Return `messages`, at least one, each with one of `roles`."""
    messages = _required(fields, "messages")
    if not isinstance(messages, list):
        _invalid("messages", "expected a list.")
    if not messages:
        _invalid("messages", "at least one message is required.")
    return [_turn(message, f"messages.{place}", roles) for place, message in enumerate(messages)]


def turn_of(role: str, content: object, path: str) -> Turn:
    """Return the turn for content that is text, a list of blocks, or null."""
    if content is None or isinstance(content, str):
        text = content or ""
        return Turn(role, text, count_tokens(text) + _TURN_TOKENS)
    if not isinstance(content, list):
        _invalid(path, "expected a string or a list of content blocks.")
    texts: list[str] = []
    tokens = _TURN_TOKENS
    for place, block in enumerate(content):
        text, cost = _block(block, f"{path}.{place}")
        texts += [text] if text else []
        tokens += cost
    return Turn(role, "\n".join(texts), tokens)


def _turn(message: object, path: str, roles: Collection[str]) -> Turn:
    if not isinstance(message, dict):
        _invalid(path, "expected an object.")
    role = message.get("role")
    if not isinstance(role, str) or role not in roles:
        _invalid(f"{path}.role", f"expected one of {', '.join(sorted(roles))}.")
    if "content" not in message and role != "assistant":
        raise RefusedError(Fault.MISSING, "Field required", param=f"{path}.content")
    return turn_of(role, message.get("content"), f"{path}.content")


def _block(block: object, path: str) -> tuple[str, int]:
    """Return a content block's text, if it has one, and its tokens."""
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        _invalid(path, "expected a content block with a type.")
    if block["type"] == "text":
        if not isinstance(block.get("text"), str):
            _invalid(f"{path}.text", "expected a string.")
        return block["text"], count_tokens(block["text"])
    if block["type"] in _IMAGE_BLOCKS:
        return "", _IMAGE_TOKENS
    try:
        return "", count_tokens(orjson.dumps(block).decode())
    except orjson.JSONEncodeError:
        _invalid(path, "nested too deeply.")


def _required(fields: dict[str, Any], name: str) -> Any:  # noqa: ANN401 - JSON, not checked yet
    if fields.get(name) is None:
        raise RefusedError(Fault.MISSING, "Field required", param=name)
    return fields[name]


def _invalid(param: str, message: str) -> NoReturn:
    raise RefusedError(Fault.INVALID, message, param=param)
