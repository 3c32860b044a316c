"""The points at which a process is killed. No hook in the product is needed to hit them.

The provider sees requests and answers, the file system shows commits and outputs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random
    from pathlib import Path

OUTPUTS = ("results.parquet", "results.csv", "usage.parquet", "summary.json")


@dataclass(frozen=True)
class Point:
    """When to kill a life.

    Attributes:
        kind: `request` when the n-th one arrives, `answer` when the n-th one has been sent, `commit`
            when the write-ahead log has been written to for the n-th time, `output` when a file
            begins to be written, `instant` at any time, also before anything happens.
        number: the n of these.
        file: which output.
        after_s: when, of an instant.
    """

    kind: str
    number: int = 0
    file: str = ""
    after_s: float = 0.0

    def __str__(self) -> str:
        what = {"output": self.file, "instant": f"{self.after_s:.2f} s"}
        return f"{self.kind} {what.get(self.kind, self.number)}"


def draw(dice: random.Random, most: int, longest_s: float) -> Point:
    """Draw a point within the next `most` requests."""
    kind = dice.choice(["request", "answer", "commit", "instant"])
    if kind == "instant":
        return Point(kind, after_s=dice.uniform(0, longest_s))
    # Commits are fewer than requests, since they are shared.
    return Point(kind, number=dice.randint(1, most if kind != "commit" else max(2, most // 4)))


def draw_output(dice: random.Random) -> Point:
    """Draw a point while outputs are written."""
    return Point("output", file=dice.choice(OUTPUTS))


class Counts(Protocol):
    """What a provider has done so far."""

    @property
    def requests(self) -> int:
        """Requests that have arrived."""

    @property
    def answers(self) -> int:
        """Requests that have been answered."""


class Watch:
    """Says when a point has come; asked every few hundred microseconds."""

    def __init__(self, point: Point, directory: Path, books: Counts) -> None:
        self._point = point
        self._books = books
        self._start = time.monotonic()
        self._requests, self._answers = books.requests, books.answers
        self._partial = directory / f".{point.file}.partial"
        self._wal = directory / "checkpoint.db-wal"
        self._written = self._stamp()
        self._writes = 0

    def has_come(self) -> bool:
        """Say whether the process is to be killed now."""
        point = self._point
        if point.kind == "request":
            return self._books.requests - self._requests >= point.number
        if point.kind == "answer":
            return self._books.answers - self._answers >= point.number
        if point.kind == "output":
            return self._partial.exists()
        if point.kind == "instant":
            return time.monotonic() - self._start >= point.after_s
        if (stamp := self._stamp()) != self._written:
            self._written = stamp
            self._writes += 1
        return self._writes >= point.number

    def _stamp(self) -> tuple[int, int]:
        try:
            found = self._wal.stat()
        except OSError:
            return (0, 0)
        return found.st_size, found.st_mtime_ns
