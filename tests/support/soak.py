"""`python -m tests.support.soak`: a long run against a provider that fails one request in twenty.

Memory, file handles and tasks of the running process are sampled; what grows from the second third
of the run to the last is a leak. The job runs through the Python interface, in a process of its own,
so that the tasks of its event loop can be counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import polars as pl

import batchrun
from benchmarks.server import Connection
from tests.conftest import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONCURRENCY = 64
SAMPLE_EVERY_S = 0.5
MOST_ROWS_A_SECOND = 8_000
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ANSWER = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"claude-haiku-4-5-20251001",'
    b'"content":[{"type":"text","text":"A short answer."}],"stop_reason":"end_turn",'
    b'"stop_sequence":null,"usage":{"input_tokens":40,"output_tokens":5}}'
)
SORRY = b'{"type":"error","error":{"type":"api_error","message":"sorry"}}'
JOB = """
[input]
path = "rows.parquet"
[request]
base_url = "{url}"
api_key_env = "TEST_KEY"
model = "claude-haiku-4-5-20251001"
prompt = "Say {{{{ text }}}}"
max_tokens = 50
[limits]
concurrency = {concurrency}
[output]
dir = "out"
"""


@dataclass(frozen=True)
class Sample:
    """What a process holds at a moment: MiB, open file handles, tasks of its event loop."""

    at_s: float
    mib: float
    handles: int
    tasks: int


@dataclass(frozen=True)
class Growth:
    """The medians of the second and of the last third of a run."""

    second: Sample
    last: Sample

    def __str__(self) -> str:
        pairs = ((name, getattr(self.second, name), getattr(self.last, name)) for name in WHAT)
        return ", ".join(
            f"{name} {before:.0f} -> {after:.0f} ({after / before - 1:+.1%})"
            for name, before, after in pairs
        )


WHAT = ("mib", "handles", "tasks")


def growth(samples: Sequence[Sample]) -> Growth:
    """Compare the second third of the samples with the last."""
    third = len(samples) // 3
    return Growth(_median(samples[third : 2 * third]), _median(samples[2 * third :]))


def _median(samples: Sequence[Sample]) -> Sample:
    def middle(name: str) -> float:
        return float(sorted(getattr(sample, name) for sample in samples)[len(samples) // 2])

    return Sample(middle("at_s"), middle("mib"), int(middle("handles")), int(middle("tasks")))


class Faulty(Connection):
    """A connection of a provider that fails: errors, resets, answers that are cut short."""

    dice = random.Random(1)

    def answer(self, line: bytes) -> None:
        draw = self.dice.random()
        if draw < 0.02:
            self._transport.write(_reply(500, SORRY))
        elif draw < 0.03:
            self._transport.write(_reply(529, SORRY, b"retry-after: 0.05\r\n"))
        elif draw < 0.04:
            self._transport.abort()
        elif draw < 0.05:
            self._transport.write(_reply(200, ANSWER)[:-40])
            self._transport.close()
        else:
            self._transport.write(_reply(200, ANSWER))


def _reply(status: int, body: bytes, extra: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
    return head % (status, extra, len(body)) + body


async def serve() -> None:
    """Print the port, and serve until ended."""
    server = await asyncio.get_running_loop().create_server(Faulty, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def run(job: Path) -> int:
    """Run a job, and print a sample of this process now and then."""
    async with anyio.create_task_group() as group:
        group.start_soon(_sample)
        loaded = batchrun.load_job(job, {})
        report = await batchrun.arun_job(loaded, batchrun.RunOptions(quiet=True, grace_s=5))
        group.cancel_scope.cancel()
    return report.exit_code


async def _sample() -> None:
    start = time.monotonic()
    while True:
        await anyio.sleep(SAMPLE_EVERY_S)
        held = (time.monotonic() - start, *_held(), len(asyncio.all_tasks()))
        print(json.dumps(held), flush=True)


def _held() -> tuple[float, int]:
    """Return this process's memory in MiB, and how many files it has open."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * PAGE_BYTES / 2**20, len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run this module as a process that ends with the block."""
    command = [sys.executable, "-m", "tests.support.soak", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            yield process
        finally:
            process.kill()


def soak(place: Path, seconds: float, most_requests: int) -> tuple[list[Sample], int]:
    """Run for a time, or for a number of rows; return the samples and the exit code."""
    rows = min(most_requests, int(seconds * MOST_ROWS_A_SECOND))
    table = pl.DataFrame({"text": pl.int_range(rows, eager=True).cast(pl.String)})
    table.write_parquet(place / "rows.parquet")
    with child("--serve") as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        (place / "job.toml").write_text(JOB.format(url=url, concurrency=CONCURRENCY))
        with child("--run", str(place / "job.toml")) as process:
            assert process.stdout is not None
            first = process.stdout.readline()  # libraries may load slowly on a busy machine
            threading.Timer(seconds, process.send_signal, [signal.SIGINT]).start()
            samples = [Sample(*json.loads(line)) for line in (first, *process.stdout)]
            code = process.wait()
    # What comes after the time is the end of the run: outputs are written.
    return [sample for sample in samples if sample.at_s < seconds], code


def main() -> None:
    """Run, and print what grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--requests", type=int, default=2_000_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        sys.exit(asyncio.run(serve()))
    if options.run:
        sys.exit(anyio.run(run, options.run))
    with tempfile.TemporaryDirectory() as place:
        samples, code = soak(Path(place), options.minutes * 60, options.requests)
        summary = json.loads((Path(place) / "out" / "summary.json").read_bytes())
    attempts, retries = summary["attempts"], summary["retries"]["total"]
    print(f"{attempts} requests, {retries} retried, exit code {code}")
    found = growth(samples)
    print(f"from the second third to the last: {found}")
    sys.exit(any(getattr(found.last, n) > 1.05 * getattr(found.second, n) for n in WHAT))


if __name__ == "__main__":
    main()
