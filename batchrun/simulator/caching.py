"""Prompt caching: which part of a prompt was seen before, as both vendors bill it.

The messages format marks where a prefix ends, and gateways take the same marks in the chat format.
Without marks, the chat format caches long beginnings by itself.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.simulator.fields import encode, invalid, one_of
from batchrun.simulator.tokens import count_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchrun.simulator.content import Turn

_LEAST_MARKED = 64  # tokens; the vendor's least is 1,024, which few rehearsals would reach
_STEP_TOKENS = 1_024  # of beginnings that are cached by themselves
_STEP_BYTES = 4 * _STEP_TOKENS
_MOST_STEPS = 64
_MOST_MARKS = 4
_MOST_PREFIXES = 50_000
_DIGEST_BYTES = 12
_LIVES_S = {"5m": 300.0, "1h": 3600.0}


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a prompt, up to a mark.

    Attributes:
        digest: of all that it holds.
        tokens: what it costs.
        life: how long it is kept once written: "5m" or "1h"; "" when it was not marked.
    """

    digest: bytes
    tokens: int
    life: str


@dataclass(frozen=True, slots=True)
class InputUse:
    """What a prompt cost, in tokens: the sum is all input.

    Attributes:
        uncached: neither read from the cache nor written to it.
        read: served by the cache.
        written_5m: stored for five minutes.
        written_1h: stored for an hour.
    """

    uncached: int
    read: int = 0
    written_5m: int = 0
    written_1h: int = 0

    @property
    def total(self) -> int:
        """All input."""
        return self.uncached + self.read + self.written_5m + self.written_1h


class PromptCache:
    """Remembers prefixes, the most recent 50,000 of them.

    Args:
        clock: seconds, from any origin, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends_at: OrderedDict[bytes, float] = OrderedDict()

    def use(self, prefixes: tuple[Prefix, ...], input_tokens: int) -> InputUse:
        """Read the longest known prefix, and write those beyond it.

        Args:
            prefixes: of one prompt, shortest first.
            input_tokens: of the whole prompt.
        """
        if not prefixes:
            return InputUse(input_tokens)
        now = self._clock()
        known = (p.tokens for p in prefixes if self._ends_at.get(p.digest, now) > now)
        done = read = max(known, default=0)
        written = {"5m": 0, "1h": 0, "": 0}
        for prefix in prefixes:
            if prefix.tokens > done:
                written[prefix.life] += prefix.tokens - done
                done = prefix.tokens
            self._keep(prefix, now)
        paid = read + written["5m"] + written["1h"]
        return InputUse(input_tokens - paid, read, written["5m"], written["1h"])

    def _keep(self, prefix: Prefix, now: float) -> None:
        """Write a prefix, or begin its life anew."""
        self._ends_at[prefix.digest] = now + _LIVES_S.get(prefix.life, _LIVES_S["5m"])
        self._ends_at.move_to_end(prefix.digest)
        if len(self._ends_at) > _MOST_PREFIXES:
            self._ends_at.popitem(last=False)


def marked_prefixes(
    fields: dict[str, Any], turns: list[Turn], *, has_system: bool
) -> tuple[Prefix, ...]:
    """Return the prefixes that end at a `cache_control` and are long enough, shortest first.

    Args:
        fields: the request's body.
        turns: its messages; with `has_system` the first of them is the `system` field.
        has_system: whether there is such a field.
    """
    tools = fields.get("tools") or []
    said = [message.get("content") for message in fields["messages"]]
    # Most requests have plain texts only, and are done here.
    lists = [part for part in (tools, fields.get("system"), *said) if isinstance(part, list)]
    if not any(map(_is_marked, lists)):
        return ()
    contents = [("system", "system", fields["system"])] if has_system else []
    for place, message in enumerate(fields["messages"]):
        contents.append((message["role"], f"messages.{place}.content", message.get("content")))
    running = blake2b(str(fields.get("model")).encode(), digest_size=_DIGEST_BYTES)
    tokens = 0
    found: list[Prefix] = []
    for label, path, block, cost in _parts(tools, contents, turns):
        running.update(label.encode())
        running.update(encode(_unmarked(block), path))
        tokens += cost
        if life := _life(block, path):
            found.append(Prefix(running.digest(), tokens, life))
    if len(found) > _MOST_MARKS:
        invalid("cache_control", f"expected at most {_MOST_MARKS} marks, got {len(found)}.")
    return tuple(prefix for prefix in found if prefix.tokens >= _LEAST_MARKED)


def long_prefixes(fields: dict[str, Any], input_tokens: int) -> tuple[Prefix, ...]:
    """Return the beginnings of a chat that are cached by themselves, shortest first."""
    if input_tokens < _STEP_TOKENS:
        return ()
    said = orjson.dumps([fields.get("model"), fields.get("tools"), fields["messages"]])
    running = blake2b(digest_size=_DIGEST_BYTES)
    found: list[Prefix] = []
    steps = min(len(said) // _STEP_BYTES, input_tokens // _STEP_TOKENS, _MOST_STEPS)
    for step in range(steps):
        running.update(said[step * _STEP_BYTES : (step + 1) * _STEP_BYTES])
        found.append(Prefix(running.digest(), (step + 1) * _STEP_TOKENS, ""))
    return tuple(found)


def _parts(
    tools: list[Any], contents: list[tuple[str, str, Any]], turns: list[Turn]
) -> Iterator[tuple[str, str, Any, int]]:
    """Yield the role, path, block and tokens of all that a prompt consists of, in order."""
    for place, tool in enumerate(tools):
        yield "tool", f"tools.{place}", tool, count_tokens(encode(tool, "tools").decode())
    for (role, path, content), turn in zip(contents, turns, strict=True):
        if not turn.block_tokens:
            yield role, path, content, turn.tokens
            continue
        overhead = turn.tokens - sum(turn.block_tokens)
        for place, block in enumerate(content):
            cost = turn.block_tokens[place] + (0 if place else overhead)
            yield role, f"{path}.{place}", block, cost


def _is_marked(blocks: list[Any]) -> bool:
    return any(isinstance(block, dict) and block.get("cache_control") for block in blocks)


def _unmarked(block: object) -> object:
    """Return a block without its mark: moving a mark does not change what was said before it."""
    if not isinstance(block, dict):
        return block
    return {name: value for name, value in block.items() if name != "cache_control"}


def _life(block: object, path: str) -> str | None:
    """Return how long the prefix up to this block is kept; None when it is not marked."""
    mark = block.get("cache_control") if isinstance(block, dict) else None
    if not mark:
        return None
    inside = f"{path}.cache_control"
    if not isinstance(mark, dict):
        invalid(inside, "expected an object.")
    one_of(mark, "type", ("ephemeral",), f"{inside}.")
    return one_of({"ttl": "5m"} | mark, "ttl", _LIVES_S, f"{inside}.")
