"""Assembles objects of a streamed answer that arrive in pieces, such as tool calls of the chat format.

Servers separate calls differently. OpenAI: an index, and an id in the first piece only. Ollama and
Gemini: the same index for all, and an id each. Others: no index, or id and name in every piece.
Therefore a new id starts a call, whatever its index. A piece without an id continues the call of its
index, or the last call if it has no index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.formats.parsing import as_dict, as_text, dumps, loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Pieces:
    """An object in pieces: some texts are joined; for any other field the latest value counts.

    Args:
        texts: the names of the fields that arrive in pieces.
    """

    def __init__(self, *texts: str) -> None:
        self._texts: dict[str, list[str]] = {name: [] for name in texts}
        self.fields: dict[str, Any] = {}

    def __bool__(self) -> bool:
        """Whether anything has arrived."""
        return bool(self.fields) or any(self._texts.values())

    def add(self, piece: Mapping[str, Any]) -> None:
        """Take a piece."""
        for name, value in piece.items():
            if name in self._texts and value is not None:
                self._texts[name].append(value if isinstance(value, str) else dumps(value).decode())
            elif value is not None and not (value == "" and self.fields.get(name)):
                self.fields[name] = value

    def text(self, name: str) -> str:
        """Return a text so far."""
        return "".join(self._texts[name])

    def whole(self) -> dict[str, Any]:
        """Return the complete object."""
        texts = {name: "".join(pieces) for name, pieces in self._texts.items() if pieces}
        return {**self.fields, **texts}


class CallPieces:
    """Assembles pieces of tool calls into complete calls."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}
        self._last: _Call | None = None

    def add(self, piece: Mapping[str, Any]) -> None:
        """Take a piece."""
        index = piece.get("index")
        index = index if isinstance(index, int) else None
        call_id = as_text(piece.get("id"))
        call = self._continued(call_id, index, piece)
        if call is None:
            call = _Call(len(self._calls) if index is None else index)
            self._calls.append(call)
        if call_id:
            self._by_id[call_id] = call
        if index is not None:
            self._by_index[index] = call
        self._last = call
        call.add(piece)

    def whole(self) -> list[dict[str, Any]]:
        """Return the calls by their index, those with the same index in order of arrival."""
        return [call.whole() for call in sorted(self._calls, key=lambda call: call.index)]

    def _continued(self, call_id: str, index: int | None, piece: Mapping[str, Any]) -> _Call | None:
        """Return the call that a piece continues; None if it begins a new one."""
        if call_id and call_id in self._by_id:
            return self._by_id[call_id]
        found = self._last if index is None else self._by_index.get(index)
        if found is None or (found.has_id if call_id else found.is_over(piece)):
            return None
        return found


class _Call:
    def __init__(self, index: int) -> None:
        self.index = index
        self._fields = Pieces()
        self._function = Pieces("arguments")
        self._custom = Pieces("input")

    @property
    def has_id(self) -> bool:
        return bool(self._fields.fields.get("id"))

    def is_over(self, piece: Mapping[str, Any]) -> bool:
        """Return whether a piece without an id starts another call: it has a name, and this one is complete."""
        function = as_dict(piece.get("function")) or piece
        arguments = self._function.text("arguments")
        if not (function.get("name") and function.get("arguments") and arguments.endswith("}")):
            return False
        try:
            return isinstance(loads(arguments), dict)
        except ValueError:
            return False

    def add(self, piece: Mapping[str, Any]) -> None:
        """Take a piece."""
        rest = {name: value for name, value in piece.items() if name not in _PARTS}
        self._fields.add(rest)
        # A few servers send name and arguments next to the id.
        loose = {name: piece[name] for name in ("name", "arguments") if name in piece}
        self._add_part(self._function, as_dict(piece.get("function")) or loose)
        self._add_part(self._custom, as_dict(piece.get("custom")))

    def whole(self) -> dict[str, Any]:
        """Return the complete call."""
        call = {"type": "function", **self._fields.whole()}
        if self._custom:
            return {**call, "custom": {"input": "", **self._custom.whole()}}
        return {**call, "function": {"name": "", "arguments": "", **self._function.whole()}}

    @staticmethod
    def _add_part(part: Pieces, piece: Mapping[str, Any]) -> None:
        before = as_text(part.fields.get("name"))
        part.add(piece)
        name = as_text(piece.get("name"))
        # The name can arrive in pieces; a server that repeats it sends all of it each time.
        if before and name not in ("", before):
            part.fields["name"] = before + name


_PARTS = frozenset({"index", "function", "custom", "name", "arguments"})


def merged_blocks(blocks: Iterable[Any]) -> list[Any]:
    """Join pieces of reasoning that belong to one block.

    OpenRouter's `reasoning_details` belong together by index, LiteLLM's `thinking_blocks` up to the
    signature. Anything else is a separate block.
    """
    merged: list[Any] = []
    for block in blocks:
        last = merged[-1] if merged else None
        if not _is_reasoning(block):
            merged.append(block)
            continue
        if not (isinstance(last, Pieces) and _continues(last.fields, block)):
            last = Pieces(*_BLOCK_TEXTS)
            merged.append(last)
        last.add(block)
    return [block.whole() if isinstance(block, Pieces) else block for block in merged]


_BLOCK_TEXTS = ("text", "summary", "thinking")


def _is_reasoning(block: object) -> bool:
    kind = as_text(as_dict(block).get("type"))
    has_text = any(isinstance(as_dict(block).get(name), str) for name in _BLOCK_TEXTS)
    return has_text and kind.startswith(("reasoning", "thinking"))


def _continues(last: Mapping[str, Any], block: Mapping[str, Any]) -> bool:
    is_same = all(last.get(name) == block.get(name) for name in ("type", "index"))
    return is_same and not (last.get("signature") and not block.get("signature"))
