"""Composes answers: tool calls, JSON, one of the prompt's labels, or a few sentences.

Everything follows from the call and a key. An answer is composed as a whole; a stream sends it in pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from batchrun.simulator.calls import (
    FinishCause,
    SimulatedChoice,
    SimulatedToolUse,
    ToolDemand,
    count_tokens,
    cut_to_tokens,
)
from batchrun.simulator.draws import RandomDraws
from batchrun.simulator.generator import ValueGenerator
from batchrun.simulator.judge_answers import judge_answer
from batchrun.simulator.labels import find_labels, rank_labels
from batchrun.simulator.prose import MARK, describe, excerpt, find_topics, keywords, write_prose

if TYPE_CHECKING:
    from batchrun.simulator.calls import Json, SimulatedCall, ToolDefinition, ToolOffer
    from batchrun.simulator.labels import LabelOffer

    Key = tuple[int | str | bytes, ...]

# What `json_object` asks for: it names no schema.
ANY_OBJECT: Json = {
    "type": "object",
    "properties": {"simulated": {"const": True}, "answer": {"type": "string"}},
    "required": ["simulated", "answer"],
}

_REDRAWS = 20
_UNASKED = 8  # one in this many prompts that mention no tool gets a call all the same
_SECOND = 3  # one in this many calls has a second one beside it
_TOOL_USE_TOKENS = 12  # of a call of a tool, beside its name and arguments


def compose(
    call: SimulatedCall, *key: int | str | bytes, spoiled: bool = False
) -> tuple[SimulatedChoice, ...]:
    """Return the choices for `call`, as different from each other as the prompt allows.

    Args:
        call: the request.
        key: determines all random choices.
        spoiled: whether JSON violates the schema that it should satisfy.
    """
    texts = _structured(call, key, spoiled=spoiled) if call.schema is not None else _free(call, key)
    return tuple(_complete(call, text, (*key, place)) for place, text in enumerate(texts))


def _free(call: SimulatedCall, key: Key) -> list[str]:
    """Return verdicts or labels, where the call offers them, or prose."""
    judged = [
        judge_answer(call.prompt.question, RandomDraws(*key, place, "verdict"))
        for place in range(call.choices)
    ]
    if verdicts := [answer for answer in judged if answer is not None]:
        return verdicts
    if offer := _labels_of(call):
        begun = call.prompt.prefill.rpartition("\n")[2].strip().lower()
        ranked = rank_labels(offer.labels, offer.rest, RandomDraws(*key))
        # A prefill has begun one of them: the answer is the rest of it.
        fitting = [text[len(begun) :] for text in ranked if text.lower().startswith(begun)]
        return [
            (fitting or ranked)[place % len(fitting or ranked)] for place in range(call.choices)
        ]
    topics = find_topics(excerpt(call.prompt.subject))
    texts: list[str] = []
    for place in range(call.choices):
        for redraw in range(_REDRAWS):
            text = write_prose(call.prompt, topics, RandomDraws(*key, place, redraw))
            if text not in texts:
                break
        texts.append(text)
    return texts


def _labels_of(call: SimulatedCall) -> LabelOffer | None:
    """Return the labels that the call offers, and the text that speaks for one of them."""
    question = excerpt(call.prompt.question)
    if offer := find_labels(excerpt(call.prompt.system)):
        return offer._replace(rest=question)
    return find_labels(question)


def _structured(call: SimulatedCall, key: Key, *, spoiled: bool) -> list[str]:
    """Return JSON texts for the schema that is asked for."""
    schema = call.schema or {}
    subject = excerpt(call.prompt.subject)
    if schema is ANY_OBJECT and (offer := _labels_of(call)):
        answer = {"enum": list(offer.labels)}
        schema = {**ANY_OBJECT, "properties": {**ANY_OBJECT["properties"], "answer": answer}}
        subject = offer.rest
    texts: list[str] = []
    for place in range(call.choices):
        draws = RandomDraws(*key, place, "json")
        value = ValueGenerator(schema, subject, draws, marked=True).generate()
        texts.append(_spoil(value, schema, draws) if spoiled else orjson.dumps(value).decode())
    return texts


def _spoil(value: object, schema: Json, draws: RandomDraws) -> str:
    """Return JSON for `value` with a typical mistake of models, which violates the schema."""
    text = orjson.dumps(value).decode()
    faults = [f"Here is the JSON you asked for:\n\n{text}", f"```json\n{text}\n```"]
    if isinstance(value, dict):
        faults.append(text[: len(text) // 2])
        if schema.get("type") == "object":
            faults.append(f"[{text}]")
            for name in schema.get("required", [])[:1]:
                rest = {key: value[key] for key in value if key != name}
                faults.append(orjson.dumps(rest).decode())
    return draws.pick(faults)


def _complete(call: SimulatedCall, text: str, key: Key) -> SimulatedChoice:
    """Add reasoning and tool calls to a text, and truncate it at its limit."""
    uses: tuple[SimulatedToolUse, ...] = ()
    if call.tools and not call.prompt.results:  # the answer to a tool's result is a text
        draws = RandomDraws(*key, "tools")
        uses = _use_tools(call.tools, excerpt(call.prompt.subject), draws)
        if uses:
            text = f"{MARK} Let me use {uses[0].name}." if draws.below(2) else ""
    thoughts = ""
    if call.thinking:
        room = (
            call.thinking if call.max_tokens is None else min(call.thinking, call.max_tokens // 2)
        )
        topics = find_topics(excerpt(call.prompt.subject))
        thoughts = f"{MARK} {describe(topics, RandomDraws(*key, 'thoughts'))}"
        thoughts = cut_to_tokens(thoughts, room)
    finish, stop = FinishCause.TOOL_USE if uses else FinishCause.COMPLETE, None
    if found := min(((text.find(stop), stop) for stop in call.stops if stop in text), default=None):
        at, stop = found
        text, finish, uses = text[:at], FinishCause.STOP, ()
    tokens = count_tokens(thoughts) + count_tokens(text)
    tokens += sum(count_tokens(use.name + use.arguments) + _TOOL_USE_TOKENS for use in uses)
    if call.max_tokens is not None and tokens > call.max_tokens:
        text = cut_to_tokens(text, call.max_tokens - count_tokens(thoughts))
        # A call whose arguments do not fit is not made at all.
        finish, stop, uses, tokens = FinishCause.MAX_TOKENS, None, (), call.max_tokens
    return SimulatedChoice(text, max(1, tokens), finish, stop, thoughts, uses)


def _use_tools(offer: ToolOffer, subject: str, draws: RandomDraws) -> tuple[SimulatedToolUse, ...]:
    """Return the calls of tools that answer the subject: none, one or two."""
    if offer.demand is ToolDemand.NONE:
        return ()
    words = keywords(subject)
    tools = [tool for tool in offer.tools if offer.only in {None, tool.name}]
    tools.sort(key=lambda tool: -_relevance(tool, words, subject))
    asked = offer.demand is ToolDemand.REQUIRED or _relevance(tools[0], words, subject) > 0
    if not asked and draws.below(_UNASKED):
        return ()
    first = _use(tools[0], subject, draws)
    if offer.parallel and not offer.only and draws.below(_SECOND) == 0:
        second = _use(tools[1 % len(tools)], subject, draws)
        if (second.name, second.arguments) != (first.name, first.arguments):
            return (first, second)
    return (first,)


def _use(tool: ToolDefinition, subject: str, draws: RandomDraws) -> SimulatedToolUse:
    value = ValueGenerator(tool.schema, subject, draws).generate()
    arguments = orjson.dumps(value if isinstance(value, dict) else {}).decode()
    return SimulatedToolUse(draws.below(1 << 96), tool.name, arguments)


def _relevance(tool: ToolDefinition, words: set[str], subject: str) -> int:
    """Return the relevance of a tool to the subject; its name counts more than its description."""
    named = tool.name.lower() in subject.lower()
    return 10 * named + len(keywords(tool.purpose) & words)
