"""Reading ahead: the next part is fetched while this one is worked on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


def ahead(parts: Iterator[T]) -> Iterator[T]:
    """Yield what an iterator gives, which runs in a thread, one part ahead."""
    with ThreadPoolExecutor(1, "read ahead") as thread:
        following = thread.submit(next, parts, None)
        while (part := following.result()) is not None:
            following = thread.submit(next, parts, None)
            yield part
            del part  # it may be large, and waiting for the next one takes time
