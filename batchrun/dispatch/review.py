"""Reviews answers: by their ending, whether they are empty, and by a JSON schema.

It does no I/O, so stored answers can be reviewed again by the same rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from batchrun import evaluation
from batchrun.dispatch.ports import accept
from batchrun.errors import JobError, Rejection, short
from batchrun.formats import SCHEMA_TOOL
from batchrun.formats.parsing import as_dict, dumps, glimpse, loads
from batchrun.records import Ending, changed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import jsonschema_rs

    from batchrun.dispatch.ports import Review
    from batchrun.job import Job, JudgeConfig
    from batchrun.records import Completion, RejectReason


_WORDING: Mapping[RejectReason, str] = {
    "length": "the answer was cut at max_tokens or at the end of the context window",
    "refusal": "the model refused to answer",
    "filtered": "a content filter removed the answer or a part of it",
    "empty": "the answer has no text, no tool calls and no refusal",
}


def rejected(completion: Completion, reject: Sequence[RejectReason]) -> Rejection | None:
    """Return the first reason to reject an answer; None when it is accepted.

    With several choices, one rejected choice is enough.
    """
    choices = list(_choices(completion))
    for reason in reject:
        found = next((choice for choice in choices if _is_for(reason, choice)), None)
        if found is not None:
            said = found.get("refusal") if reason == "refusal" else None
            text = f": {glimpse(said.encode('utf-8', 'replace'))}" if said else ""
            return Rejection(f"rejected_{reason}", _WORDING[reason] + text, most_retries=0)
    return None


def rejecting(review: Review, reject: Sequence[RejectReason]) -> Review:
    """Return a review that also rejects answers for the reasons in `[request] reject`."""

    def both(completion: Completion) -> tuple[Completion, Rejection | None]:
        completion, rejection = review(completion)
        return completion, rejection or rejected(completion, reject)

    return both if reject else review


def _choices(completion: Completion) -> Iterator[Mapping[str, Any]]:
    if completion.choices is not None:
        yield from map(as_dict, orjson.loads(completion.choices))
        return
    yield {
        "response": completion.texts[0],
        "tool_calls": completion.tool_calls,
        "ending": completion.ending,
        "refusal": completion.refusal,
    }


def _is_for(reason: RejectReason, choice: Mapping[str, Any]) -> bool:
    if reason == "empty":
        text = choice.get("response") or ""
        is_refusal = choice.get("refusal") or choice.get("ending") == Ending.REFUSAL
        return not (text.strip() or is_refusal or _has_open_calls(choice.get("tool_calls")))
    return choice.get("ending") == reason


def _has_open_calls(calls: object) -> bool:
    """Return whether there are tool calls that batchrun did not carry out."""
    found = orjson.loads(calls) if isinstance(calls, str) else calls
    return isinstance(found, list) and any("output" not in as_dict(call) for call in found)


MAX_PROBLEM_CHARACTERS = 500
# For an answer that does not match its schema, by its ending: the error type, the end of the message, and how
# often to ask again.
_BY_ENDING: Mapping[str, tuple[str, str, int | None]] = {
    Ending.LENGTH: ("cut_answer", " (the answer was cut: max_tokens is too low)", 1),
    Ending.REFUSAL: ("refused_answer", " (the model refused to answer)", 0),
    Ending.FILTERED: ("filtered_answer", " (a content filter removed the answer)", 0),
}


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Return why a schema cannot be used; None when it can."""
    try:
        _validator(schema)
    except (ValueError, RecursionError) as error:
        return str(error).strip().splitlines()[0]
    return None


class SchemaReview:
    """Reviews answers by a JSON schema.

    Args:
        schema: what every choice of an answer must satisfy; None accepts any JSON object.
        as_tool: the answer is the input of a tool that the model had to call.
    """

    def __init__(self, schema: Mapping[str, Any] | None, *, as_tool: bool) -> None:
        self._validator = _validator(schema if schema is not None else {"type": "object"})
        self._as_tool = as_tool

    def __call__(self, completion: Completion) -> tuple[Completion, Rejection | None]:
        """Return the completion with the JSON as its text, and why it is rejected, if it is."""
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
    """Return the rejection of an answer that does not match its schema.

    Each retry costs as much as the first request, and most refusals and truncated answers occur again.
    """
    error_type, reason, most_retries = _BY_ENDING.get(ending, ("invalid_answer", "", None))
    room = MAX_PROBLEM_CHARACTERS - len(reason)
    return Rejection(error_type, problem[:room] + reason, most_retries)


def _unwrapped(completion: Completion) -> Completion:
    """Move the answer from the input of the schema tool to the text."""
    calls = loads(completion.tool_calls or "[]")
    inputs = [as_dict(call).get("input") for call in calls if call.get("name") == SCHEMA_TOOL]
    if not inputs:
        return completion
    others = [call for call in calls if call.get("name") != SCHEMA_TOOL]
    answer = inputs[0] if isinstance(inputs[0], str) else dumps(inputs[0]).decode()
    rest = dumps(others).decode() if others else None
    is_answered = completion.ending is Ending.TOOL_CALLS and not others
    ending = Ending.STOP if is_answered else completion.ending
    return changed(completion, texts=(answer,), tool_calls=rest, ending=ending)


def _validator(schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
    from jsonschema_rs import validator_for  # noqa: PLC0415 - most commands get no answers

    return validator_for(dict(schema), retriever=_refuse)


def _refuse(uri: str) -> Any:  # noqa: ANN401 - it never returns
    # A job file from a stranger must not make this machine fetch or read anything.
    raise ValueError(f"$ref to {uri}: only references within the schema are followed")


# An unreadable verdict costs as much as another: the judge is asked once more at most.
MOST_VERDICT_RETRIES = 1


class VerdictReview:
    """Accepts the answers of a judge if they have a verdict."""

    def __init__(self, config: JudgeConfig) -> None:
        self._reader = evaluation.VerdictReader(config)

    def __call__(self, completion: Completion) -> tuple[Completion, Rejection | None]:
        """Return the completion, and why it has no verdict, if it has none."""
        if completion.ending is Ending.LENGTH:
            reason = "the answer of the judge was cut: its max_tokens is too low"
            return completion, Rejection(evaluation.CUT_VERDICT, reason, most_retries=0)
        try:
            self._reader.read(completion.texts[0] or "")
        except evaluation.UnreadableVerdict as problem:
            retries = MOST_VERDICT_RETRIES if completion.ending is Ending.STOP else 0
            reason = f"the verdict of the judge cannot be read: {problem}"
            return completion, Rejection(
                evaluation.UNREADABLE_VERDICT, reason, most_retries=retries
            )
        return completion, None


def review_of(job: Job) -> Review:
    """Return the review of the answers of a job.

    Raises:
        JobError: when its JSON schema is not valid.
    """
    answer, reject = job.request.answer, job.request.reject
    if job.judge is not None:
        return rejecting(VerdictReview(job.judge), reject)
    if answer is None:
        return rejecting(accept, reject)
    if answer.schema is not None and (problem := schema_problem(answer.schema)) is not None:
        raise JobError(f"[request] json_schema: not a valid JSON schema: {short(problem, 500)}")
    return rejecting(SchemaReview(answer.schema, as_tool=answer.as_tool), reject)
