"""What of an answer is looked at before it counts: its ending, and whether there is anything in it.

Pure, so that stored answers can be judged again by the same rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from batchrun.findings import Rejection
from batchrun.formats.parsing import as_dict, glimpse
from batchrun.records import Ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchrun.dispatch.ports import Review
    from batchrun.records import Completion, RejectReason

_WORDING: Mapping[RejectReason, str] = {
    "length": "the answer was cut at max_tokens or at the end of the context window",
    "refusal": "the model refused to answer",
    "filtered": "a content filter removed the answer or a part of it",
    "empty": "the answer has no text, no tool calls and no refusal",
}


def rejected(completion: Completion, reject: Sequence[RejectReason]) -> Rejection | None:
    """Return why an answer is not accepted, by the first reason that holds; None when it is.

    With several choices, one of them is enough.
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
    """Return a review that rejects by `reject` what another one finds nothing wrong with."""

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
    """Say whether there are calls that batchrun has not carried out, which led to this answer."""
    found = orjson.loads(calls) if isinstance(calls, str) else calls
    return isinstance(found, list) and any("output" not in as_dict(call) for call in found)
