"""Random choices that depend only on a key: not on global randomness or the order of arrival."""

from __future__ import annotations

import re
import re._parser as regex  # type: ignore[import-not-found]  # not public, but the same since 3.11
import string
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Sampler = Callable[["RandomDraws"], str]

T = TypeVar("T")

_REFILL_BELOW = 1 << 128  # keeps the bias of a draw below 2**-64
_SHARES = 1 << 53
_LONGEST_PIECE = 24  # characters

_MORE_REPEATS = 4  # how far a repetition goes beyond its minimum
_MOST_CHARACTERS = 10_000  # longer texts are not drawn: nested repetitions multiply
_TRIES = 8
_WORD = string.ascii_letters + string.digits + "_"
_PRINTABLE = _WORD + string.punctuation.replace("_", "") + " "
_CATEGORIES = {
    regex.CATEGORY_DIGIT: string.digits,
    regex.CATEGORY_NOT_DIGIT: string.ascii_letters,
    regex.CATEGORY_WORD: _WORD,
    regex.CATEGORY_NOT_WORD: " -",
    regex.CATEGORY_SPACE: " ",
    regex.CATEGORY_NOT_SPACE: string.ascii_letters + string.digits,
}
_REPEATS = (regex.MAX_REPEAT, regex.MIN_REPEAT, regex.POSSESSIVE_REPEAT)


class RandomDraws:
    """An endless stream of draws, the same for the same key.

    Args:
        key: ints, strings and bytes; anything whose `repr` is stable.
    """

    __slots__ = ("_digest", "_pool")

    def __init__(self, *key: int | str | bytes) -> None:
        self._digest = repr(key).encode()
        self._pool = 0

    def below(self, bound: int) -> int:
        """Draw from 0 to `bound` - 1."""
        if self._pool < _REFILL_BELOW:
            self._digest = blake2b(self._digest).digest()
            self._pool = int.from_bytes(self._digest)
        self._pool, drawn = divmod(self._pool, bound)
        return drawn

    def share(self) -> float:
        """Draw from [0, 1)."""
        return self.below(_SHARES) / _SHARES

    def pick(self, options: Sequence[T]) -> T:
        """Draw one of `options`, which must not be empty."""
        return options[self.below(len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Draw up to `count` different positions of `options`, in drawn order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]

    def pieces(self, text: str) -> Iterator[str]:
        """Yield `text` in pieces of 1 to 24 characters, which may end inside words."""
        start = 0
        while start < len(text):
            end = start + 1 + self.below(_LONGEST_PIECE)
            yield text[start:end]
            start = end


def sample_pattern(pattern: str, draws: RandomDraws) -> str | None:
    """Return a text that matches a regular expression; None when none was found."""
    try:
        sampler, check = _compile(pattern)
    except (re.error, ValueError, OverflowError, RecursionError):
        return None
    drawn = (sampler(draws) for _ in range(_TRIES))
    return next(filter(check.search, drawn), None)


@lru_cache(maxsize=256)
def _compile(pattern: str) -> tuple[Sampler, re.Pattern[str]]:
    nodes = regex.parse(pattern)
    if nodes.getwidth()[0] > _MOST_CHARACTERS:
        raise ValueError(pattern)
    return _sequence(nodes), re.compile(pattern)


def _sequence(nodes: Any) -> Sampler:  # noqa: ANN401 - nodes of the standard library's parser
    parts = [_node(kind, value) for kind, value in nodes]
    return lambda draws: "".join(part(draws) for part in parts)


def _node(kind: object, value: Any) -> Sampler:  # noqa: ANN401 - as above
    """Return what draws a text for one node. Raises ValueError for lookaround and back references."""
    if kind in _REPEATS:
        return _repeat(*value)
    if kind is regex.SUBPATTERN:
        return _sequence(value[-1])
    if kind is regex.BRANCH:
        branches = [_sequence(branch) for branch in value[1]]
        return lambda draws: draws.pick(branches)(draws)
    if kind is regex.AT:  # ^, $ and \b match no characters
        return lambda _: ""
    characters = _WORD if kind is regex.ANY else _characters([(kind, value)])
    return lambda draws: draws.pick(characters)


def _repeat(least: int, most: int, nodes: Any) -> Sampler:  # noqa: ANN401 - as above
    part, more = _sequence(nodes), min(most - least, _MORE_REPEATS)
    return lambda draws: "".join(part(draws) for _ in range(least + draws.below(more + 1)))


def _characters(members: list[tuple[object, Any]]) -> str:
    """Return the characters that one position of a pattern may hold."""
    found: list[str] = []
    negated = False
    for kind, value in members:
        if kind is regex.IN:
            found.append(_characters(value))
        elif kind is regex.LITERAL:
            found.append(chr(value))
        elif kind is regex.RANGE:
            found += map(chr, range(value[0], min(value[1], value[0] + 0x2FF) + 1))
        elif kind is regex.CATEGORY:
            found.append(_CATEGORIES[value])
        elif kind in {regex.NEGATE, regex.NOT_LITERAL}:
            negated = True
            found.append(chr(value) if kind is regex.NOT_LITERAL else "")
        else:
            raise ValueError(kind)
    inside = "".join(found)
    allowed = "".join(set(_PRINTABLE) - set(inside)) if negated else inside
    if not allowed:
        raise ValueError(members)
    return "".join(sorted(allowed)) if negated else allowed
