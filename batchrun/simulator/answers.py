"""What the simulator answers: tool calls, JSON, one of the prompt's labels, or a few sentences.

Everything follows from the call and the dice. An answer is worked out whole; how it is cut by
`max_tokens` and stop sequences is decided here too, so that a stream can hand it out in pieces.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.simulator.calls import ANY_JSON, may_use_tools
from batchrun.simulator.dice import Dice
from batchrun.simulator.labels import find_offer, rank_labels
from batchrun.simulator.prose import (
    MARK,
    count_images,
    excerpt,
    find_topics,
    quote,
    talk,
    think,
)
from batchrun.simulator.schemas import SchemaWriter
from batchrun.simulator.sums import RESULT_MARK, guess
from batchrun.simulator.tokens import count_tokens, cut_to
from batchrun.simulator.tools import use_tools

if TYPE_CHECKING:
    from batchrun.simulator.calls import Call
    from batchrun.simulator.tools import ToolUse

_REDRAWS = 8
_REDACTED = 8  # one in so many thoughts has a part that is not shown
_REDACTED_BYTES = 48


class Ending(Enum):
    """Why an answer ends where it does."""

    COMPLETE = auto()
    MAX_TOKENS = auto()
    STOP = auto()
    TOOL_USE = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice.

    Attributes:
        text: what is said, after the prefill if there was one.
        tokens: what it costs, thoughts and tool calls included.
        ending: why it ends.
        stop: the stop sequence that ended it.
        thoughts: the reasoning before the text.
        redacted: reasoning that is not shown, as base64.
        thinking_tokens: what both of these cost.
        uses: calls of tools, after the text.
    """

    text: str
    tokens: int
    ending: Ending
    stop: str | None = None
    thoughts: str = ""
    redacted: str = ""
    thinking_tokens: int = 0
    uses: tuple[ToolUse, ...] = ()


def compose(call: Call, *key: int | bytes, spoiled: bool = False) -> tuple[Answer, ...]:
    """Return the choices for `call`, as different from each other as the prompt allows.

    Args:
        call: what is asked for.
        key: of the dice.
        spoiled: JSON violates the schema that it should satisfy.
    """
    if call.wishes.schema is not None:
        texts = _structured(call, key, spoiled=spoiled)
    else:
        texts = _said(call, key)
    return tuple(_finish(call, text, (*key, place)) for place, text in enumerate(texts))


def _said(call: Call, key: tuple[int | bytes, ...]) -> list[str]:
    """Return labels, where the call offers them, or prose."""
    prompt = excerpt(call.prompt)
    in_system = find_offer(excerpt(call.system))
    if offer := in_system or find_offer(prompt):
        ranked = rank_labels(offer.labels, prompt if in_system else offer.rest, Dice(*key))
        return _labels(ranked, call)
    return _prose(call, key)


def _labels(ranked: list[str], call: Call) -> list[str]:
    """Return the best labels; of one that the prefill has begun, only the rest."""
    begun = call.prefill.rpartition("\n")[2].strip().lower()
    fitting = [label[len(begun) :] for label in ranked if label.lower().startswith(begun)] or ranked
    return [fitting[place % len(fitting)] for place in range(call.choices)]


def _prose(call: Call, key: tuple[int | bytes, ...]) -> list[str]:
    topics = find_topics(_subject(call))
    notes = [count_images(call.images)] if call.images else []
    notes += map(quote, call.results)
    texts: list[str] = []
    for place in range(call.choices):
        for redraw in range(_REDRAWS):
            text = talk(topics, notes, call.prefill, Dice(*key, place, redraw))
            if text not in texts:
                break
        texts.append(text)
    if RESULT_MARK in call.system or RESULT_MARK in call.prompt:
        return [_with_result(text, call, (*key, place)) for place, text in enumerate(texts)]
    return texts


def _with_result(text: str, call: Call, key: tuple[int | bytes, ...]) -> str:
    return f"{text}\n{RESULT_MARK} {guess(excerpt(call.prompt), Dice(*key, 'result'))}"


def _subject(call: Call) -> str:
    """Return what the answer is about: the prompt, else what a tool returned, else the system."""
    return excerpt(call.prompt or "\n".join(call.results) or call.system)


def _structured(call: Call, key: tuple[int | bytes, ...], *, spoiled: bool) -> list[str]:
    """Return JSON texts for the schema that is asked for."""
    schema = call.wishes.schema or ANY_JSON
    subject = _subject(call)
    texts: list[str] = []
    for place in range(call.choices):
        dice = Dice(*key, place, "json")
        if schema is ANY_JSON:
            (said, *_) = _said(call, (*key, place))
            value: object = {"simulated": True, "answer": said}
        else:
            value = SchemaWriter(schema, subject, dice, marked=True).write()
        texts.append(_spoil(value, schema, dice) if spoiled else orjson.dumps(value).decode())
    return texts


def _spoil(value: object, schema: dict[str, Any], dice: Dice) -> str:
    """Return JSON for `value` with one of the faults that models have: the schema allows none."""
    text = orjson.dumps(value).decode()
    faults = [f"Here is the JSON you asked for:\n\n{text}", f"```json\n{text}\n```"]
    if isinstance(value, dict):
        faults += [text[: len(text) // 2], f"{text[:-1]},}}"]
    if schema.get("type") == "object" and isinstance(value, dict):
        faults.append(f"[{text}]")
        for name in list(schema.get("required", ()))[:1]:
            rest = {key: each for key, each in value.items() if key != name}
            faults.append(orjson.dumps(rest).decode())
    return dice.pick(faults)


def _finish(call: Call, text: str, key: tuple[int | bytes, ...]) -> Answer:
    """Add thoughts and tool calls to what is said, and end it where it must end."""
    uses: tuple[ToolUse, ...] = ()
    if call.wishes.toolbox and may_use_tools(call):
        dice = Dice(*key, "tools")
        uses = use_tools(call.wishes.toolbox, _subject(call), dice)
        if uses:
            text = f"{MARK} Let me use {uses[0].name}." if dice.below(2) else ""
    if not call.wishes.thinking and not uses:
        return _cut(call, text)
    thoughts, redacted = _think(call, Dice(*key, "thoughts"))
    return _cut(call, text, thoughts, redacted, uses)


def _think(call: Call, dice: Dice) -> tuple[str, str]:
    """Return thoughts, and now and then some that are not shown, within budget and `max_tokens`."""
    room = call.wishes.thinking
    if call.max_tokens is not None:
        room = min(room, call.max_tokens // 2)
    if room < 1:
        return "", ""
    redacted = ""
    thoughts = think(find_topics(_subject(call)), dice)
    if dice.below(_REDACTED) == 0:
        hidden = blake2b(thoughts.encode(), digest_size=_REDACTED_BYTES).digest()
        redacted = b64encode(hidden).decode()
        if count_tokens(redacted) >= room:
            redacted = ""
    return cut_to(thoughts, room - count_tokens(redacted)), redacted


def _cut(
    call: Call,
    text: str,
    thoughts: str = "",
    redacted: str = "",
    uses: tuple[ToolUse, ...] = (),
) -> Answer:
    """End the answer before the first stop sequence in its text, and within `max_tokens`."""
    ending, stop = Ending.TOOL_USE if uses else Ending.COMPLETE, None
    if found := min(((text.find(stop), stop) for stop in call.stops if stop in text), default=None):
        at, stop = found
        text, ending, uses = text[:at], Ending.STOP, ()
    thinking = count_tokens(thoughts) + count_tokens(redacted) if thoughts else 0
    tokens = thinking + count_tokens(text) + sum(use.tokens for use in uses)
    if call.max_tokens is not None and tokens > call.max_tokens:
        text = cut_to(text, call.max_tokens - thinking)
        # A call whose arguments do not fit is not made at all.
        ending, stop, uses, tokens = Ending.MAX_TOKENS, None, (), call.max_tokens
    return Answer(text, max(1, tokens), ending, stop, thoughts, redacted, thinking, uses)
