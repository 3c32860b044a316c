"""A streamed answer of the chat format, put together into the body of a whole one.

Chunks carry deltas of choices, which may interleave by index when n > 1; tool calls arrive in pieces,
told apart by their ids and indexes; usage comes in a last chunk without choices, beside a choice, or
not at all. Fields that are not known here are kept, the latest value of each.
"""

from __future__ import annotations

from typing import Any

from batchrun.formats.content import merged_parts
from batchrun.formats.endings import stop_reason
from batchrun.formats.parsing import as_count, as_dict, as_dicts
from batchrun.formats.pieces import CallPieces, Pieces, merged_blocks
from batchrun.formats.usage import chat_counts, updated

_TEXTS = frozenset({"reasoning_content", "reasoning", "thinking", "refusal"})
_READ_FIELDS = frozenset({"delta", "message", "index"})
# Fields of a chunk that are not the completion's.
_CHUNK_ONLY = frozenset({"object", "choices", "usage", "x_groq"})


class ChatAssembler:
    """Takes chunks in, gives a completion body out."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self.is_ended = False

    @property
    def is_whole(self) -> bool:
        """Whether there is a choice, and each has a reason for its end."""
        return bool(self._choices) and all(choice.is_whole for choice in self._choices.values())

    @property
    def choices(self) -> int:
        """How many choices have begun."""
        return len(self._choices)

    @property
    def has_begun(self) -> bool:
        """Whether a part of an answer has come."""
        return bool(self._choices)

    def add(self, payload: dict[str, Any]) -> None:
        """Take the data of one chunk."""
        for name, value in payload.items():
            if name not in _CHUNK_ONLY and value is not None and value != "":
                self._head[name] = value
        if counts := chat_counts(payload):
            updated(self._usage, counts)
        for choice in as_dicts(payload.get("choices")):
            index = as_count(choice.get("index")) or 0
            if index not in self._choices:
                self._choices[index] = _Choice()
            self._choices[index].add(choice)

    def end(self) -> None:
        """Take `data: [DONE]`."""
        self.is_ended = True

    def head(self) -> dict[str, Any]:
        """Return the completion without its choices, as far as it has come."""
        return {**self._head, "object": "chat.completion", "usage": self._usage or None}

    def body(self) -> dict[str, Any]:
        """Return the completion as it would have come in one piece."""
        choices = [self._choices[index].body(index) for index in sorted(self._choices)]
        return {**self.head(), "choices": choices}


class _Choice:
    def __init__(self) -> None:
        self._content: list[Any] = []
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._others: dict[str, Any] = {}
        self._calls = CallPieces()
        self._function = Pieces("name", "arguments")
        self._audio = Pieces("data", "transcript")
        self._logprobs: dict[str, Any] = {}
        self._fields: dict[str, Any] = {}

    @property
    def is_whole(self) -> bool:
        found = self._fields
        return stop_reason(found.get("finish_reason")) is not None or bool(found.get("error"))

    def add(self, choice: dict[str, Any]) -> None:
        # A few servers put the last piece, or all of it, under the name of a whole answer's.
        delta = as_dict(choice.get("delta")) or as_dict(choice.get("message"))
        for name, value in delta.items():
            if value is not None:
                self._add_field(name, value)
        for name, value in choice.items():
            if value is None or name in _READ_FIELDS:
                continue
            if name == "logprobs":
                _extend(self._logprobs, as_dict(value))
            else:
                self._fields[name] = value

    def _add_field(self, name: str, value: Any) -> None:  # noqa: ANN401 - any JSON
        if name == "content":
            self._content.append(value)
        elif name == "tool_calls":
            for piece in as_dicts(value):
                self._calls.add(piece)
        elif name == "function_call":
            self._function.add(as_dict(value))
        elif name == "audio":
            self._audio.add(as_dict(value))
        elif name in _TEXTS and isinstance(value, str):
            self._texts.setdefault(name, []).append(value)
        elif isinstance(value, list):
            self._lists.setdefault(name, []).extend(value)
        elif isinstance(value, dict):
            self._others[name] = {**as_dict(self._others.get(name)), **value}
        else:
            self._others[name] = value

    def body(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": merged_parts(self._content)}
        message |= self._others
        message |= {name: "".join(pieces) for name, pieces in self._texts.items()}
        message |= {name: merged_blocks(blocks) for name, blocks in self._lists.items()}
        if calls := self._calls.whole():
            message["tool_calls"] = calls
        if self._function:
            message["function_call"] = self._function.whole()
        if self._audio:
            message["audio"] = self._audio.whole()
        found = {"index": index, "message": message, **self._fields}
        return {**found, "logprobs": self._logprobs} if self._logprobs else found


def _extend(known: dict[str, Any], piece: dict[str, Any]) -> None:
    """Put the lists of a piece behind those that are known, as log probabilities come."""
    for name, value in piece.items():
        if isinstance(value, list) and isinstance(known.get(name), list):
            known[name].extend(value)
        elif value is not None:
            known[name] = value
