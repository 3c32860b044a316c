"""Tools that a request offers: which are called, and with what arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.simulator.prose import telling_words
from batchrun.simulator.schemas import SchemaWriter
from batchrun.simulator.tokens import count_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.simulator.dice import Dice

_INNER_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_CALL_TOKENS = 12  # what a call costs beside its name and arguments
_UNASKED = 8  # one in so many prompts that mention no tool gets a call all the same
_SECOND = 3  # one in so many calls has a second beside it


class Use(Enum):
    """What `tool_choice` asks for."""

    AUTO = auto()
    FORCED = auto()
    NEVER = auto()


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: its name, what it is for, and the JSON Schema of its arguments."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What a request says about tools.

    Attributes:
        tools: at least one.
        use: whether one must be called.
        only: the one to call; None leaves the choice.
        parallel: whether there may be more than one call.
        tokens: what the definitions cost as input.
    """

    tools: tuple[Tool, ...]
    use: Use
    only: str | None
    parallel: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One call of a tool.

    Attributes:
        number: names it, as part of an id; below 2**96.
        name: of the tool.
        arguments: JSON object.
    """

    number: int
    name: str
    arguments: dict[str, Any]

    @property
    def json(self) -> str:
        """The arguments as JSON text."""
        return orjson.dumps(self.arguments).decode()

    @property
    def tokens(self) -> int:
        """What the call costs as output."""
        return count_tokens(self.name) + count_tokens(self.json) + _CALL_TOKENS


def use_tools(toolbox: Toolbox, prompt: str, dice: Dice) -> tuple[ToolUse, ...]:
    """Return the calls that answer `prompt`: none, one or two."""
    if toolbox.use is Use.NEVER:
        return ()
    words = telling_words(prompt)
    tools = sorted(toolbox.tools, key=lambda tool: -_relevance(tool, words, prompt))
    if toolbox.only:
        tools = [tool for tool in tools if tool.name == toolbox.only]
    asked = toolbox.use is Use.FORCED or _relevance(tools[0], words, prompt) > 0
    if not asked and dice.below(_UNASKED):
        return ()
    uses = [_use(tools[0], prompt, dice)]
    if toolbox.parallel and not toolbox.only and dice.below(_SECOND) == 0:
        second = _use(tools[1 % len(tools)], prompt, dice)
        first = uses[0]
        if (second.name, second.arguments) != (first.name, first.arguments):
            uses.append(second)
    return tuple(uses)


def _use(tool: Tool, prompt: str, dice: Dice) -> ToolUse:
    arguments = SchemaWriter(tool.schema, prompt, dice).write()
    number = dice.below(1 << 96)
    return ToolUse(number, tool.name, arguments if isinstance(arguments, dict) else {})


def _relevance(tool: Tool, words: set[str], prompt: str) -> int:
    """Return how much the prompt speaks of a tool: of its name more than of its purpose."""
    named = tool.name.lower() in prompt.lower()
    parts = telling_words(_INNER_CASE.sub(" ", tool.name).replace("_", " "))
    return 10 * named + 3 * len(parts & words) + len(telling_words(tool.description) & words)
