"""Requests that differ only in texts: all other parts are built and encoded once.

A job whose parameters, headers and model are the same for every row has such requests. The texts of each row
are inserted into the encoded body of one request, which takes a fraction of the time of building it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson

from batchrun.errors import RenderError
from batchrun.records import Message, RenderedItem, Request, WireRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchrun.formats import WireFormat
    from batchrun.records import Item
    from batchrun.render.template import Text

# The fields of a request behind its messages and its system prompt.
_REST = Request.__struct_fields__[5:]


class NoPatternError(ValueError):
    """The texts of a job affect other parts of its requests, so that there is no pattern."""


class RequestPattern:
    """The request of a job with places for the texts that differ from row to row.

    Args:
        wire_format: the format of the request.
        texts: all texts of the conversation that are not constant.
        build: builds the request from these texts.

    Raises:
        NoPatternError: if a text does not appear unchanged in one place of the body and one of the
            conversation.
        RenderError: if the request is invalid whatever these texts are.
    """

    def __init__(
        self,
        wire_format: WireFormat,
        texts: Sequence[Text],
        build: Callable[[Sequence[str]], Request],
    ) -> None:
        self._format = wire_format
        token = uuid4().hex
        marks = [f"<{token}:{number}>" for number in range(len(texts))]
        request = build(marks)
        wire = wire_format.encode(request)
        places = [wire.body.find(mark.encode()) for mark in marks]
        if any(wire.body.count(mark.encode()) != 1 for mark in marks):
            raise NoPatternError
        # In the order of the body, so that its parts can be joined as they are.
        order = sorted(range(len(texts)), key=places.__getitem__)
        self._texts = [texts[number] for number in order]
        marks = [marks[number] for number in order]
        self._body = _cut(wire.body, [mark.encode() for mark in marks])
        self._system = _of_text(request.system, marks)
        self._messages = [_of_message(message, marks) for message in request.messages]
        self._head = (request.format, request.base_url, request.model)
        self._rest = tuple(getattr(request, name) for name in _REST)
        self._wire = wire
        self._digest = wire_format.digest(request)

    def rendered(self, item: Item, values: Mapping[str, Any]) -> RenderedItem | None:
        """Return an item with its request; None if the request must be built from scratch.

        That is the case if a text cannot be rendered, or is blank, because formats treat blank texts
        differently.
        """
        try:
            texts = [text.text(values) for text in self._texts]
            written = [orjson.dumps(text)[1:-1] for text in texts]
        except (RenderError, orjson.JSONEncodeError):
            return None
        for text in texts:
            if not text or text.isspace():
                return None
        body = self._body.copy()
        body[1::2] = written
        wire = WireRequest(self._wire.url, self._wire.headers, b"".join(body), self._wire.stream)
        digest = self._digest.copy()
        digest.update(self._format.whole_body(wire))
        messages = tuple([message(texts) for message in self._messages])
        request = Request(*self._head, messages, self._system(texts), *self._rest)
        return RenderedItem(item.ordinal, item.custom_id, request, wire, digest.digest())


def _cut(text: Any, marks: Sequence[Any]) -> list[Any]:  # noqa: ANN401 - text or bytes
    """Split a text at marks that occur in this order; return the parts and the marks."""
    parts = []
    for mark in marks:
        before, _, text = text.partition(mark)
        parts += [before, mark]
    return [*parts, text]


def _of_message(message: Message, marks: Sequence[str]) -> Callable[[Sequence[str]], Message]:
    """Return a function that builds a message of a row from its texts."""
    role, content, extra = message.role, message.content, message.extra
    if isinstance(content, str) and content in marks:
        place = marks.index(content)
        return lambda texts: Message(role, texts[place], extra)
    if _has_any(content, marks):
        raise NoPatternError
    return lambda _: message


def _of_text(system: Any, marks: Sequence[str]) -> Callable[[Sequence[str]], Any]:  # noqa: ANN401 - text or blocks
    """Return a function that builds the system prompt of a row from its texts."""
    if not _has_any(system, marks):
        return lambda _: system
    if not isinstance(system, str):
        raise NoPatternError
    inside = sorted((mark for mark in marks if mark in system), key=system.index)
    parts, places = _cut(system, inside), [marks.index(mark) for mark in inside]

    def filled(texts: Sequence[str]) -> str:
        found = parts.copy()
        found[1::2] = [texts[place] for place in places]
        return "".join(found)

    return filled


def _has_any(content: object, marks: Sequence[str]) -> bool:
    written = orjson.dumps(content)
    return any(mark.encode() in written for mark in marks)
