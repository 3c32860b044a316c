"""`[score.judge]`: a model that judges answers, read as a `[request]` with a scale of verdicts.

Keys that the section does not set come from its rubric, then from the job's `[request]`. The keys of the
connection are inherited only together, so that an API key of the job is never sent to another server.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from functools import cache, partial
from math import isfinite
from typing import TYPE_CHECKING, Any

from batchrun.errors import quoted
from batchrun.job.configs import JudgeConfig
from batchrun.job.reader import Section, did_you_mean
from batchrun.job.request import read_request
from batchrun.job.texts import TEXT_SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


RUBRICS = ("correctness", "faithfulness", "preference")
MAX_TOKENS = 1_024
MOST_CHOICES, MOST_STEPS = 100, 1_000
LONGEST_LABEL = 60
# Keys of `[request]` that say where the provider is and how to reach it.
CONNECTION = (
    *("format", "base_url", "allow_http", "provider", "api_key_env", "auth", "api_version"),
    *("extra_headers", "secret_headers", "api_key_command", "max_tokens_key"),
)
# Keys of the section that are not keys of a request.
OWN_KEYS = ("rubric", "choices", "scale", "answer", "human")
# Of a judge, these would change what a verdict is.
_REFUSED = ("tools", "tool_choice", "parallel_tool_calls", "messages_column", "n", "dedupe")
# In a template, also `response_a`, `responses` and `row.response`.
_RESPONSE = re.compile(r"\{[{%][^}]*response")


@cache
def rubric(name: str) -> Mapping[str, Any]:
    """Return the keys of a built-in rubric."""
    from importlib import resources  # noqa: PLC0415 - few jobs have a judge

    text = resources.files("batchrun.job").joinpath("rubrics", f"{name}.toml").read_text("utf-8")
    return {key: _unbroken(value) for key, value in tomllib.loads(text).items()}


def _unbroken(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def read_judge(
    given: Mapping[str, Any], request: Mapping[str, Any], base: Path, section_name: str
) -> tuple[JudgeConfig, list[str]]:
    """Read the section; return it with the problems.

    Args:
        given: the section as parsed.
        request: the job's `[request]` as parsed.
        base: the folder that relative paths start from.
        section_name: name of the section in messages.
    """
    problems: list[str] = []
    own = Section(section_name, given, problems)
    name = _read_rubric(own)
    values = {**_inherited(given, request), **({} if name is None else rubric(name))}
    if any(key in given for key in TEXT_SOURCES):
        values = {key: value for key, value in values.items() if key not in TEXT_SOURCES}
    if "choices" in given or "scale" in given:
        values.pop("choices", None)
    values = {"max_tokens": MAX_TOKENS, **values, **given}
    for key in _REFUSED:
        if key in values:
            own.problem(key, "is not possible for a judge; remove it")
    config = _read_verdicts(Section(section_name, values, problems))
    asked = _asked(values, config)
    section = Section(section_name, {**values, **asked}, problems)
    request_config = read_request(section, base)
    if request_config.turns and not any(_RESPONSE.search(text) for _, text in request_config.turns):
        section.problem("prompt", "does not show the answer to the judge; add {{ response }}")
    for key in OWN_KEYS:
        section.raw(key)
    section.finish({})
    return replace(config, request=request_config, document=asked), problems


def judge_of(document: Mapping[str, Any]) -> JudgeConfig:
    """Read the document that `judge_document` wrote, without its request."""
    return _read_verdicts(Section("judge", document, []))


def judge_document(config: JudgeConfig) -> dict[str, Any]:
    """Return the rules for reading verdicts as a JSON document."""
    scale = None if config.scale is None else list(config.scale)
    found = {"choices": dict(config.choices) or None, "scale": scale, "answer": config.answer}
    return {key: value for key, value in found.items() if value is not None}


def _read_verdicts(section: Section) -> JudgeConfig:
    scale = section.check("scale", partial(_scale, section.raw("scale")), None)
    nothing: dict[str, float] = {}
    values = section.check("choices", partial(_choices, section.raw("choices")), nothing)
    if (scale is None) == (not values) and not _has_problem(section, "scale", "choices"):
        section.problem(
            "choices",
            "set the verdicts with their scores, such as choices = { right = 1.0, wrong = 0.0 }, "
            "or scale = [1, 5]; one of the two",
        )
    answer, human = section.get("answer", str), section.get("human", str)
    return JudgeConfig(choices=values, scale=scale, answer=answer, human=human)


def _asked(values: Mapping[str, Any], config: JudgeConfig) -> dict[str, Any]:
    """Return the judge's `[request]` with the instructions for its verdict in the last user turn."""
    asked = {key: value for key, value in values.items() if key not in OWN_KEYS}
    if values.get("samples", 1) == 1:
        asked["dedupe"] = True  # the same answer to the same row is judged once
    # Without a pattern of its own, the judge is asked for the line that is looked for.
    if config.answer is None and (config.choices or config.scale):
        text = instructions(config)
        prompt, turns = asked.get("prompt"), asked.get("messages")
        if isinstance(prompt, str) and prompt.strip():
            asked["prompt"] = f"{prompt.strip()}\n\n{text}"
        elif isinstance(turns, list):
            asked["messages"] = _with_last_turn(turns, text)
    return asked


def _with_last_turn(turns: Sequence[Any], text: str) -> list[Any]:
    """Return the turns with a text added to the last user turn."""
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    last = max((n for n, role in enumerate(roles) if role == "user"), default=-1)
    return [
        {**turn, "content": f"{turn.get('content', '')}\n\n{text}"} if n == last else turn
        for n, turn in enumerate(turns)
    ]


def instructions(config: JudgeConfig) -> str:
    """Return the instructions that make the judge's verdict readable."""
    if config.scale is None:
        verdicts = f"one of: {', '.join(config.choices)}"
    else:
        low, high = config.scale
        kind = "whole number" if config.is_whole else "number"
        verdicts = f"a {kind} from {low:g} (worst) to {high:g} (best)"
    return (
        "Give the reasons for your verdict first, in at most five sentences. Then end with a line "
        f"of this form:\nVerdict: X\nX is {verdicts}."
    )


def _inherited(given: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a judge inherits from the job.

    Another format or address means another server: then no key of the job's connection is used.
    """
    is_own = any(
        key in given and given[key] != request.get(key)
        for key in ("format", "base_url", "provider")
    )
    keys: Iterable[str] = () if is_own else (*CONNECTION, "model")
    return {key: request[key] for key in keys if key in request}


def _read_rubric(section: Section) -> str | None:
    name = section.get("rubric", str)
    if name is not None and name not in RUBRICS:
        known = ", ".join(f'"{each}"' for each in RUBRICS)
        section.problem(
            "rubric", f"must be one of {known}, not {quoted(name)}{did_you_mean(name, RUBRICS)}"
        )
        return None
    return name


def _has_problem(section: Section, *keys: str) -> bool:
    return any(section.has_problem(key) for key in keys)


def _choices(given: object) -> dict[str, float]:
    """Return the score of each label.

    Raises:
        ValueError: says what is wrong.
    """
    if given is None:
        return {}
    example = "{ right = 1.0, wrong = 0.0 }"
    if not isinstance(given, dict):
        raise ValueError(  # noqa: TRY004 - of the job file
            f"must give each verdict its score, such as {example}, not {quoted(given)}"
        )
    folded = [label.strip().casefold() for label in given]
    if not 2 <= len(given) <= MOST_CHOICES or len(set(folded)) != len(folded) or "" in folded:
        raise ValueError(f"needs 2 to {MOST_CHOICES} different labels, such as {example}")
    for label, value in given.items():
        if len(label) > LONGEST_LABEL or not label.isprintable() or set(label) & set("{}%,:"):
            raise ValueError(f"{quoted(label)} must be a short text without any of {{}}%,:")
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError(f"the score of {label} must be a number, not {quoted(value)}")
    return {label.strip(): float(value) for label, value in given.items()}


def _scale(given: object) -> tuple[float, float] | None:
    """Return the lowest and the highest number.

    Raises:
        ValueError: says what is wrong.
    """
    if given is None:
        return None
    is_pair = isinstance(given, list) and len(given) == 2
    numbers = [n for n in given if type(n) in {int, float} and isfinite(n)] if is_pair else []  # type: ignore[attr-defined]
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ValueError(
            f"must be the lowest and the highest number, such as [1, 5]; not {quoted(given)}"
        )
    if all(type(n) is int for n in numbers) and numbers[1] - numbers[0] > MOST_STEPS:
        raise ValueError(f"may have at most {MOST_STEPS:,} steps")
    return numbers[0], numbers[1]
