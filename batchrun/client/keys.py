"""The key struck out of what a server sends back: it may quote what it got.

Some providers repeat a key that they refuse, and debugging servers repeat whole requests, in bodies,
headers and answers. What is recorded holds `***` instead.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from batchrun.records import Billing, Completion

if TYPE_CHECKING:
    from batchrun.errors import ProviderFault

MASK = "***"
MIN_KEY_PART = 4
# Shorter ones, such as "EMPTY" for a server of one's own, are no secrets but words.
MIN_SECRET = 12


def struck_out(key: str, text: str) -> str:
    """Replace a key in a text, also where the end of the text cuts it short."""
    text = text.replace(key, MASK)
    for length in range(len(key) - 1, MIN_KEY_PART - 1, -1):
        if text.endswith(key[:length]):
            return text[:-length] + MASK
    return text


def fault_without(key: str | None, fault: ProviderFault) -> ProviderFault:
    """Return a failure whose texts do not hold the key."""
    if key is None or len(key) < MIN_SECRET:
        return fault
    return replace(
        fault,
        error_type=struck_out(key, fault.error_type),
        message=struck_out(key, fault.message),
        request_id=fault.request_id and struck_out(key, fault.request_id),
        model=fault.model and struck_out(key, fault.model),
    )


def id_without(key: str | None, request_id: str | None) -> str | None:
    """Return the id of an exchange, from a header, without the key."""
    if request_id is None or key is None or key not in request_id:
        return request_id
    return request_id.replace(key, MASK)


def completion_without(key: str | None, completion: Completion) -> Completion:
    """Return an answer that does not hold the key; nearly always it is the same one."""
    if key is None or len(key) < MIN_SECRET or not _quotes(completion, key):
        return completion
    raw = completion.raw
    return replace(
        completion,
        texts=tuple(text.replace(key, MASK) for text in completion.texts),
        turn=completion.turn and json.loads(json.dumps(completion.turn).replace(key, MASK)),
        raw=raw and raw.replace(key.encode(), MASK.encode()),
        billing=replace(completion.billing, **_struck(key, completion.billing)),
        **_struck(key, completion),
    )


def _quotes(completion: Completion, key: str) -> bool:
    facts = (*_texts(completion).values(), *_texts(completion.billing).values())
    if any(key in text for text in (*completion.texts, *facts)):
        return True
    if completion.raw is not None and key.encode() in completion.raw:
        return True
    return completion.turn is not None and key in json.dumps(completion.turn)


def _struck(key: str, record: Completion | Billing) -> dict[str, Any]:
    """Return the fields of a record that hold the key, without it."""
    return {name: text.replace(key, MASK) for name, text in _texts(record).items() if key in text}


def _texts(record: Completion | Billing) -> dict[str, str]:
    """Return the fields of a record that are text."""
    values = ((name, getattr(record, name)) for name in _TEXT_FIELDS[type(record)])
    return {name: value for name, value in values if value is not None}


_TEXT_FIELDS = {
    record: tuple(each.name for each in fields(record) if each.type == "str | None")
    for record in (Completion, Billing)
}
