"""A streamed answer of the chat format, put together into the body of a whole one.

Chunks carry deltas of choices, which may interleave by index when n > 1; tool calls arrive in pieces
by an index of their own; usage comes in a last chunk without choices, or not at all.
"""

from __future__ import annotations

from typing import Any

from batchrun.formats.parsing import as_dict, as_text

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


class ChatAssembler:
    """Takes chunks in, gives a completion body out. `[DONE]` is told by `end`."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self.is_complete = False

    def add(self, payload: dict[str, Any]) -> None:
        """Take the data of one chunk."""
        for name in ("id", "model"):
            if payload.get(name):
                self._head[name] = payload[name]
        self._usage.update(
            {k: v for k, v in as_dict(payload.get("usage")).items() if v is not None}
        )
        choices = payload.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                index = choice.get("index")
                key = index if isinstance(index, int) else 0
                self._choices.setdefault(key, _Choice()).add(choice)

    def end(self) -> None:
        """Take `data: [DONE]`."""
        self.is_complete = True

    def head(self) -> dict[str, Any]:
        """Return the completion's `model` and `usage`, as far as they have been told."""
        return {**self._head, "usage": self._usage}

    def body(self) -> dict[str, Any]:
        """Return the completion as it would have come in one piece."""
        choices = [self._choices[index].body(index) for index in sorted(self._choices)]
        return {**self._head, "choices": choices, "usage": self._usage}


class _Choice:
    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, list[str]] = {}
        self._finish_reason: object = None

    def add(self, choice: dict[str, Any]) -> None:
        delta = as_dict(choice.get("delta"))
        for name in _TEXTS:
            if isinstance(delta.get(name), str):
                self._texts.setdefault(name, []).append(delta[name])
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._add_call(call)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def body(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        message |= {name: "".join(pieces) for name, pieces in self._texts.items()}
        if self._calls:
            message["tool_calls"] = [self._call(key) for key in sorted(self._calls)]
        return {"index": index, "message": message, "finish_reason": self._finish_reason}

    def _add_call(self, call: dict[str, Any]) -> None:
        index = call.get("index")
        # A server that leaves the index out sends each call whole.
        key = index if isinstance(index, int) else len(self._calls)
        known = self._calls.setdefault(key, {"type": "function", "function": {"name": ""}})
        function = as_dict(call.get("function"))
        if call.get("id"):
            known["id"] = call["id"]
        known["function"]["name"] += as_text(function.get("name"))
        self._arguments.setdefault(key, []).append(as_text(function.get("arguments")))

    def _call(self, key: int) -> dict[str, Any]:
        call = self._calls[key]
        call["function"]["arguments"] = "".join(self._arguments[key])
        return call
