"""What both dialects ask for, checked and neutral."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchrun.simulator.tools import Use

if TYPE_CHECKING:
    from batchrun.simulator.caching import Prefix
    from batchrun.simulator.content import Turn
    from batchrun.simulator.tools import Toolbox

THINKING_SUFFIX = "-thinking"
ANY_JSON: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a request asks for beside a text.

    Attributes:
        thinking: most tokens of reasoning before the answer; 0 for none.
        toolbox: tools that may be called.
        schema: JSON Schema that the text must satisfy; `ANY_JSON` leaves the shape open.
        stream: the answer comes as events.
        include_usage: a chat stream ends with its usage.
        service_tier: as answers name it; None when the request does not speak of it.
        prefixes: beginnings of the prompt that a cache may know, shortest first.
        logprobs: alternatives to list for each token, beside its log probability; None for neither.
    """

    thinking: int = 0
    toolbox: Toolbox | None = None
    schema: dict[str, Any] | None = None
    stream: bool = False
    include_usage: bool = False
    service_tier: str | None = None
    prefixes: tuple[Prefix, ...] = ()
    logprobs: int | None = None


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True)
class Call:
    """A request that will be answered.

    Attributes:
        model: as sent.
        system: all system text; "" when there is none.
        prompt: text of the last user message; "" when there is none.
        prefill: text of a final assistant message, which the answer continues; else "".
        max_tokens: most tokens of one choice, thinking included; None leaves it to the answer.
        stops: texts that end the answer before they appear in it.
        choices: how many answers.
        input_tokens: of the whole conversation, tools included.
        images: how many are in the conversation.
        results: what tools returned, when the conversation ends with that; else empty.
        wishes: what else is asked for.
    """

    model: str
    system: str
    prompt: str
    prefill: str
    max_tokens: int | None
    stops: tuple[str, ...]
    choices: int
    input_tokens: int
    images: int = 0
    results: tuple[str, ...] = ()
    wishes: Wishes = field(default=NO_WISHES)

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
    wishes: Wishes = NO_WISHES,
) -> Call:
    """Put together a call; `turns` holds system messages too."""
    users = [turn.text for turn in turns if turn.role == "user"]
    last = turns[-1]
    toolbox = wishes.toolbox
    return Call(
        model=model,
        system="\n\n".join(turn.text for turn in turns if turn.role in {"system", "developer"}),
        prompt=users[-1] if users else "",
        prefill=last.text if last.role == "assistant" else "",
        max_tokens=max_tokens,
        stops=stops,
        choices=choices,
        input_tokens=sum(turn.tokens for turn in turns) + (toolbox.tokens if toolbox else 0),
        images=sum(turn.images for turn in turns),
        results=last_results(turns),
        wishes=wishes,
    )


def last_results(turns: list[Turn]) -> tuple[str, ...]:
    """Return the tool results that end the conversation: in a user message, or in one message each."""
    if turns[-1].role != "tool":
        return turns[-1].results
    place = len(turns)
    while place and turns[place - 1].role == "tool":
        place -= 1
    return tuple(result for turn in turns[place:] for result in turn.results)


def may_use_tools(call: Call) -> bool:
    """Tell whether tools may be called: the answer to a tool's result is a text."""
    toolbox = call.wishes.toolbox
    return toolbox is not None and toolbox.use is not Use.NEVER and not call.results
