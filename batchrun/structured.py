"""Structured output: is the answer what the schema asked for?

`json_schema` of a job is checked when the job is loaded, and every answer against it when it
arrives: providers promise to follow a schema, and not all servers do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import orjson

from batchrun.findings import Rejection
from batchrun.formats import SCHEMA_TOOL
from batchrun.formats.parsing import as_dict, dumps, glimpse, loads
from batchrun.records import Ending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import Completion

MAX_PROBLEM_CHARACTERS = 500
# By how an answer ended that does not satisfy its schema: the type of the error, what is said behind
# the problem, and how often to ask again.
_BY_ENDING: Mapping[str, tuple[str, str, int | None]] = {
    Ending.LENGTH: ("cut_answer", " (the answer was cut: max_tokens is too low)", 1),
    Ending.REFUSAL: ("refused_answer", " (the model refused to answer)", 0),
    Ending.FILTERED: ("filtered_answer", " (a content filter removed the answer)", 0),
}


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Return why a schema cannot be used, None when it can."""
    try:
        _validator(schema)
    except (ValueError, RecursionError) as error:
        return str(error).strip().splitlines()[0]
    return None


class SchemaReview:
    """Judges answers by a JSON schema.

    Args:
        schema: what every choice of an answer must satisfy; None accepts any JSON object.
        as_tool: the answer comes as the input of a tool that the model was made to call.
    """

    def __init__(self, schema: Mapping[str, Any] | None, *, as_tool: bool) -> None:
        self._validator = _validator(schema if schema is not None else {"type": "object"})
        self._as_tool = as_tool

    def __call__(self, completion: Completion) -> tuple[Completion, Rejection | None]:
        """Return the completion, its text being the JSON, and why it is rejected, if it is."""
        if self._as_tool:
            completion = _unwrapped(completion)
        for text, ending in zip(completion.texts, _endings(completion), strict=False):
            if (problem := self._problem(text)) is not None:
                return completion, _rejection(problem, ending)
        return completion, None

    def _problem(self, text: str) -> str | None:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return f"the answer is not JSON: {glimpse(text.encode('utf-8', 'replace'))}"
        error = next(iter(self._validator.iter_errors(value)), None)
        if error is None:
            return None
        path = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path
        )
        return f"{'answer' + path}: {error.message}"


def _endings(completion: Completion) -> list[str]:
    """Return the ending of each choice."""
    if completion.choices is None:
        return [completion.ending] * len(completion.texts)
    return [as_dict(choice).get("ending", "") for choice in orjson.loads(completion.choices)]


def _rejection(problem: str, ending: str) -> Rejection:
    """Say what is wrong with an answer that is not what the schema asks for, and how it ended.

    To ask again costs as much as the first time: a refusal is mostly repeated, and what was cut is
    mostly cut again.
    """
    error_type, reason, most_retries = _BY_ENDING.get(ending, ("invalid_answer", "", None))
    room = MAX_PROBLEM_CHARACTERS - len(reason)
    return Rejection(error_type, problem[:room] + reason, most_retries)


def _unwrapped(completion: Completion) -> Completion:
    """Take the answer out of the call of the tool that stood for it."""
    calls = loads(completion.tool_calls or "[]")
    inputs = [as_dict(call).get("input") for call in calls if call.get("name") == SCHEMA_TOOL]
    if not inputs:
        return completion
    others = [call for call in calls if call.get("name") != SCHEMA_TOOL]
    answer = inputs[0] if isinstance(inputs[0], str) else dumps(inputs[0]).decode()
    rest = dumps(others).decode() if others else None
    is_answered = completion.ending is Ending.TOOL_CALLS and not others
    ending = Ending.STOP if is_answered else completion.ending
    return replace(completion, texts=(answer,), tool_calls=rest, ending=ending)


def _validator(schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(dict(schema), retriever=_refuse)


def _refuse(uri: str) -> Any:  # noqa: ANN401 - it never returns
    # A job file from a stranger must not make this machine fetch or read anything.
    raise ValueError(f"$ref to {uri}: only references within the schema are followed")
