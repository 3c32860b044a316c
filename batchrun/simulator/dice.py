"""Choices that follow from a key alone: neither global randomness nor the order of arrival."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

_REFILL_BELOW = 1 << 128  # keeps the bias of a draw below 2**-64
_SHARES = 1 << 53


class Dice:
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
