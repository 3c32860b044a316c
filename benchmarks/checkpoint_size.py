"""How large a checkpoint is beside the answers that it holds, and how fast answers are written.

Usage: python -m benchmarks.checkpoint_size [MEGABYTES]

For each length of answers it writes that many megabytes of them, each commit with
`synchronous=FULL`, as a run with 256 requests in flight does.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from batchrun import __version__
from batchrun.checkpoint import Checkpoint, NewExecution
from batchrun.records import (
    Attempt,
    AttemptStart,
    Completion,
    RenderedItem,
    Request,
    Result,
    Status,
    Usage,
    WireRequest,
)

MEGABYTES = 40
LENGTHS = (450, 2_000, 9_000, 20_000)
GROUP = 256
REQUEST = Request("chat", "http://127.0.0.1:9", "model", ())
WIRE = WireRequest("http://127.0.0.1:9/v1/chat/completions", (), b"{}")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def main(megabytes: int) -> None:
    """Measure each length of answers."""
    for length in LENGTHS:
        rows = megabytes * 1_000_000 // length
        with tempfile.TemporaryDirectory() as directory:
            started = time.perf_counter()
            size = write(Path(directory), rows, length)
            seconds = time.perf_counter() - started
        ratio = size / (rows * length)
        print(f"{length:>7,} bytes  {ratio:5.2f} x the answers  {rows / seconds:>9,.0f} rows/s")


def write(directory: Path, rows: int, length: int) -> int:
    """Plan and answer rows; return the size of the checkpoint in bytes."""
    store = Checkpoint(directory, writable=True)
    document: dict[str, object] = {}
    new = NewExecution("size", document, directory, "s", rows, __version__)
    store.start_execution(new)
    for first in range(0, rows, GROUP):
        items = [item(row) for row in range(first, min(first + GROUP, rows))]
        keys = [planned.key for planned in store.plan(items, retry_errored=False)]
        store.record([AttemptStart(key, 1, NOW) for key in keys], [], [])
        completions = [completion(key, length) for key in keys]
        attempts, results = zip(*map(answered, keys, completions), strict=True)
        store.record([], list(attempts), list(results))
    store.close()
    return store.path.stat().st_size


def item(row: int) -> RenderedItem:
    """A row with a fingerprint like any other."""
    fingerprint = hashlib.blake2b(b"%d" % row, digest_size=16).digest()
    return RenderedItem(row, str(row + 1), REQUEST, WIRE, fingerprint)


def completion(key: int, length: int) -> Completion:
    """An answer of this many bytes."""
    text = f"Answer {key} of some words. " * (length // 20 + 1)
    return Completion(
        (text[:length],), "end_turn", "model", f"msg_{key:024d}", Usage(60, length // 4)
    )


def answered(key: int, answer: Completion) -> tuple[Attempt, Result]:
    """The attempt and the result of a request that succeeded."""
    attempt = Attempt(
        key, 1, 0.5, 200, request_id=f"req_{key:024d}", model="model", usage=answer.usage
    )
    return attempt, Result(key, Status.SUCCEEDED, attempt, NOW, answer)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MEGABYTES)
