"""What a model accepts, judged by its name. Facts are from the vendors' documentation (November 2026).

A server may have models with any name: without a rule, everything is sent as the job says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.formats.providers import ProviderPreset
    from batchrun.records import Parameters

_CLAUDE = re.compile(
    r"claude-(?:(?P<old>\d)(?:[-.](?P<old_minor>\d))?-)?(?P<family>opus|sonnet|haiku|fable|mythos)"
    r"(?:-(?P<major>\d)(?:[-.](?P<minor>\d{1,2}))?)?(?!\d)",
    re.IGNORECASE,
)
# In older models, a budget for thinking takes the place of effort.
FIRST_THINKING, LEAST_BUDGET, MOST_BUDGET = (3, 7), 1_024, 32_000
_FIRST_EFFORT = {"opus": (4, 5)}
_FIRST_EFFORT_OF_OTHERS = (4, 6)
_FIRST_WITHOUT_BUDGET = (4, 7)
_FIRST_ONE_SAMPLING_PARAMETER = (4, 1)
_FIRST_WITHOUT_PREFILL = (4, 6)
# The share of `max_tokens` that thinking may take.
_SHARES: Mapping[str, float] = {
    "minimal": 0.1,
    "low": 0.2,
    "medium": 0.5,
    "high": 0.8,
    "xhigh": 0.9,
    "max": 0.95,
}
CLAUDE_SAMPLING = frozenset({"temperature", "top_p", "top_k"})
_VERSION_WITHOUT_SAMPLING = "2026-10-21"
_OPENAI_SAMPLING = frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty"})
# These do not reason unless they are asked to.
_OPENAI_WITHOUT_REASONING = re.compile(r"(?:.*/)?gpt-5\.[124](?:-\d{4}-\d\d-\d\d)?", re.IGNORECASE)
COMPLETION_TOKENS = "max_completion_tokens"


@dataclass(frozen=True, slots=True)
class ModelRules:
    """How a model's requests differ.

    Attributes:
        refused: parameters that it does not accept, by neutral name.
        max_tokens_key: its name for `max_tokens`; None: as the job says.
    """

    refused: frozenset[str] = frozenset()
    max_tokens_key: str | None = None


NO_RULES = ModelRules()


def claude_rules(
    model: str, _preset: ProviderPreset | None, _effort: str | None, api_version: str | None
) -> ModelRules:
    """Return the rules of a model of the messages format."""
    is_new_api = (api_version or "") >= _VERSION_WITHOUT_SAMPLING
    if is_new_api or _version_of(model) >= _FIRST_WITHOUT_BUDGET:
        return ModelRules(refused=CLAUDE_SAMPLING)
    return NO_RULES


def openai_rules(
    model: str, preset: ProviderPreset | None, effort: str | None, _api_version: str | None
) -> ModelRules:
    """Return the rules of a model of the chat format; they depend on its provider."""
    pattern = None if preset is None else preset.reasoning_models
    if pattern is None or not re.fullmatch(pattern, model, re.IGNORECASE):
        return NO_RULES
    thinks = effort != "none" and not (
        effort is None and _OPENAI_WITHOUT_REASONING.fullmatch(model)
    )
    return ModelRules(_OPENAI_SAMPLING if thinks else frozenset(), COMPLETION_TOKENS)


def _version_of(model: str) -> tuple[int, int]:
    """Return the version in the name of a Claude model; (0, 0) for any other name."""
    found = _CLAUDE.search(model)
    if found is None:
        return 0, 0
    major, minor = found["major"] or found["old"], found["minor"] or found["old_minor"]
    return int(major or 0), int(minor or 0)


def takes_effort(model: str) -> bool:
    """Whether a model of the messages format takes an effort; older ones take a budget."""
    found = _CLAUDE.search(model)
    if found is None or _version_of(model) == (0, 0):
        return True
    first = _FIRST_EFFORT.get(found["family"].lower(), _FIRST_EFFORT_OF_OTHERS)
    return _version_of(model) >= first


def takes_budget(model: str) -> bool:
    """Whether a model of the messages format takes a thinking budget."""
    version = _version_of(model)
    return version == (0, 0) or FIRST_THINKING <= version < _FIRST_WITHOUT_BUDGET


def takes_one_of_temperature_and_top_p(model: str) -> bool:
    """Whether a Claude model refuses requests with both sampling parameters."""
    return _FIRST_ONE_SAMPLING_PARAMETER <= _version_of(model) < _FIRST_WITHOUT_BUDGET


def takes_prefill(model: str) -> bool:
    """Whether the last turn can be the beginning of the answer; Claude 4.6 and later refuse that."""
    return _version_of(model) < _FIRST_WITHOUT_PREFILL


def thinking_budget(model: str, parameters: Parameters) -> int | None:
    """Return the thinking budget of a request in the messages format; None for none.

    It is the one of the job. For models without effort, an effort becomes a share of `max_tokens`.
    """
    effort, most = parameters.effort, parameters.max_tokens or 0
    if parameters.thinking_tokens is not None or effort is None or takes_effort(model):
        return parameters.thinking_tokens
    share = _SHARES.get(effort)
    if share is None:
        return None
    return max(LEAST_BUDGET, min(MOST_BUDGET, int(share * most)))
