"""Combinations of parameters that are certainly refused, whatever the text.

Facts are from the Claude Messages API reference and the errors of the API (November 2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.errors import short
from batchrun.formats.model_rules import (
    LEAST_BUDGET,
    takes_budget,
    takes_effort,
    takes_one_of_temperature_and_top_p,
    takes_prefill,
    thinking_budget,
)

if TYPE_CHECKING:
    from batchrun.records import Parameters

# The key of the job file at fault, and what is wrong with it.
Conflict = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Combination:
    """The values that may be refused together; unknown ones are None or empty.

    Attributes:
        forces_tool: whether the model must call a tool.
        is_prefilled: whether the last turn is the beginning of the answer.
    """

    model: str
    parameters: Parameters
    forces_tool: bool = False
    is_prefilled: bool = False


def messages_conflict(asked: Combination) -> Conflict | None:
    """Return why a request of the messages format is refused; None if nothing is known."""
    found = (
        _prefill_conflict(asked),
        _effort_conflict(asked),
        _thinking_conflict(asked),
        _sampling_conflict(asked),
    )
    return next((conflict for conflict in found if conflict is not None), None)


def chat_conflict(asked: Combination) -> Conflict | None:
    """Return why a request of the chat format is refused, for Claude models behind it."""
    return _prefill_conflict(asked)


def _prefill_conflict(asked: Combination) -> Conflict | None:
    if not asked.is_prefilled or takes_prefill(asked.model):
        return None
    return "messages", (
        f"{short(asked.model)} does not accept the beginning of the answer as the last turn; end with a user turn, "
        "and ask for the form of the answer in it or with json_schema"
    )


def _sampling_conflict(asked: Combination) -> Conflict | None:
    parameters = asked.parameters
    both = parameters.temperature is not None and parameters.top_p is not None
    if both and takes_one_of_temperature_and_top_p(asked.model):
        return (
            "top_p",
            f"cannot be combined with temperature in {short(asked.model)}; remove one of them",
        )
    return None


def _effort_conflict(asked: Combination) -> Conflict | None:
    parameters, model = asked.parameters, asked.model
    if parameters.effort is None:
        return None
    if parameters.thinking_tokens is not None:
        return "effort", "cannot be combined with thinking_tokens; remove one of them"
    if takes_effort(model):
        return None
    if not takes_budget(model):
        return "effort", f"{short(model)} cannot think before it answers; remove it"
    if parameters.max_tokens is not None and parameters.max_tokens <= LEAST_BUDGET:
        return "effort", (
            f"needs max_tokens above {LEAST_BUDGET:,}, because {short(model)} thinks within a part of it"
        )
    return None


def _thinking_conflict(asked: Combination) -> Conflict | None:
    parameters, model = asked.parameters, asked.model
    budget, most = thinking_budget(model, parameters), parameters.max_tokens
    if budget is None:
        return None
    if parameters.thinking_tokens is not None:
        if not takes_budget(model):
            return (
                "thinking_tokens",
                f"{short(model)} takes no budget; use effort instead, or remove it",
            )
        if most is not None and budget >= most:
            return "thinking_tokens", f"must be below max_tokens, which is {most}, not {budget}"
    found = [
        *(["temperature"] if parameters.temperature not in {None, 1.0} else []),
        *(["top_k"] if parameters.top_k is not None else []),
        *(["tool_choice"] if asked.forces_tool else []),
        *(["messages"] if asked.is_prefilled else []),
    ]
    if not found:
        return None
    what = {
        "tool_choice": ': use "auto"',
        "messages": ": remove the assistant turn at the end",
    }.get(found[0], "; remove one of them")
    return found[0], f"cannot be combined with thinking{what}"
