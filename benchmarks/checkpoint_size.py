"""How large a checkpoint is compared with the answers in it, and how much CPU time writing takes.

Usage: python -m benchmarks.checkpoint_size [MEGABYTES]

For each length of answers it writes that many megabytes of them, each commit with
`synchronous=FULL`, as a run with 256 requests in flight does: answers arrive in another order than their
rows. Answers are not compressed, so their content does not matter. Then it writes conversations with tools.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

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
    Turn,
    Usage,
    WireRequest,
    changed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEGABYTES = 20
LENGTHS = (200, 450, 1_000, 2_000, 5_000, 9_000, 12_000, 25_000, 70_000, 300_000, 1_000_000)
TURN_LENGTHS = (1_000, 2_000, 5_000, 20_000, 40_000)
# With fewer rows, the pages of empty tables count.
FEWEST_ROWS = 100
MOST_ROWS = 20_000
IN_FLIGHT = 256
PLANNED_ROWS = 1_000
# Of the logarithm of how long an answer takes.
SPREAD = 0.5
REQUEST = Request("chat", "http://127.0.0.1:9", "model", ())
WIRE = WireRequest("http://127.0.0.1:9/v1/chat/completions", (), b"{}")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def main(megabytes: int) -> None:
    """Measure each length of answers, and answers of all lengths from 200 bytes to 20 KB."""
    dice = random.Random(1)
    mixed = [round(200 * 100 ** dice.random()) for _ in range(megabytes * 200)]
    for length in LENGTHS:
        rows = min(MOST_ROWS, max(FEWEST_ROWS, megabytes * 1_000_000 // length))
        measure(f"{length:,} bytes", [length] * rows)
    measure("mixed lengths", mixed)
    for length in TURN_LENGTHS:
        rows = min(MOST_ROWS, max(FEWEST_ROWS, megabytes * 1_000_000 // length))
        measure(f"{length:,} in turns", [length] * rows, in_turns=True)


def measure(name: str, lengths: Sequence[int], *, in_turns: bool = False) -> None:
    """Write answers of these lengths, and print the size of the file and the CPU time of a row.

    With `in_turns`, each row is a conversation of two turns with these bytes, half of them results of tools.
    """
    with tempfile.TemporaryDirectory() as directory:
        started = time.process_time()
        size = write(Path(directory), lengths, in_turns=in_turns)
        seconds = time.process_time() - started
    ratio, other = size / sum(lengths), (size - sum(lengths)) / len(lengths)
    print(
        f"{name:>15}  {ratio:5.2f} x the answers  {other:>9,.0f} more bytes per row  "
        f"{seconds / len(lengths) * 1e6:>7,.0f} us of CPU per row"
    )


def write(directory: Path, lengths: Sequence[int], *, in_turns: bool = False) -> int:
    """Plan and answer rows; return the size of the checkpoint in bytes."""
    dice = random.Random(1)
    store = Checkpoint(directory, writable=True)
    document: dict[str, object] = {}
    new = NewExecution("size", document, directory, "s", len(lengths), __version__)
    store.start_execution(new)
    waiting: list[int] = []
    in_flight: list[tuple[float, int]] = []
    planned, now = 0, 0.0
    while planned < len(lengths) or in_flight:
        if planned < len(lengths) and len(waiting) < IN_FLIGHT:
            items = [item(n) for n in range(planned, min(planned + PLANNED_ROWS, len(lengths)))]
            waiting += [request.key for request in store.plan(items, retry_errored=False)]
            planned += len(items)
        sent, waiting = waiting[: IN_FLIGHT - len(in_flight)], waiting[IN_FLIGHT - len(in_flight) :]
        store.record([AttemptStart(key, 1, NOW) for key in sent], [], [])
        for key in sent:
            heapq.heappush(in_flight, (now + dice.lognormvariate(0, SPREAD), key))
        group = min(dice.randint(5, 60), len(in_flight))
        arrived = [heapq.heappop(in_flight) for _ in range(group)]
        now = arrived[-1][0]
        if in_turns:
            write_turns(store, {key: lengths[key - 1] for _, key in arrived})
        answers = {key: 2 if in_turns else lengths[key - 1] for _, key in arrived}
        results = [answered(key, completion(key, length)) for key, length in answers.items()]
        store.record([], [result.last for result in results], results)
    store.close()
    return store.path.stat().st_size


def write_turns(store: Checkpoint, lengths: Mapping[int, int]) -> None:
    """Write two turns of each conversation: first without the results of the tools, then with them."""
    for number in (1, 2):
        said = {key: "x" * (length // 4) for key, length in lengths.items()}
        turns = [Turn(key, number, text, '[{"id":"1"}]') for key, text in said.items()]
        store.record([], [], [], turns)
        store.record([], [], [], [changed(turn, results=turn.said) for turn in turns])


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


def answered(key: int, answer: Completion) -> Result:
    """The result of a request that succeeded at once."""
    attempt = Attempt(
        key, 1, 0.5, 200, request_id=f"req_{key:024d}", model="model", usage=answer.usage
    )
    return Result(key, Status.SUCCEEDED, attempt, NOW, answer)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MEGABYTES)
