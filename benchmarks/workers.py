"""Rows per second and CPU time with worker processes, end to end, against one server on this machine.

Usage: python -m benchmarks.workers [--workers 0 1 2 4] [--rows 20000] [--in-flight 64] [--latency-ms 50]
       [--rounds 3] [--ray]

0 workers is a run of one process. `--in-flight` is per worker. `--ray` starts a Ray cluster of two
raylets on this machine, and its actors are the workers. Prints medians of the rounds: rows per second,
and microseconds of CPU per row in the owner, in its workers and in the server. Those of workers include
their start.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from benchmarks.contenders import JOB, MODEL, prompt


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. CPU times are in microseconds per row."""

    rows_per_s: float
    owner_us: float
    workers_us: float
    server_us: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(*options.one)
        return
    if options.ray and find_spec("ray") is None:
        print('not measured: ray is not installed; install it with: pip install -e ".[ray]"')
    elif options.ray:
        from tests.support.ray_nodes import ray_nodes

        with ray_nodes(2) as nodes:
            measure(options, f"ray:{nodes.address}")
    else:
        measure(options, "")


def measure(options: argparse.Namespace, on: str) -> None:
    """Measure on this machine or on a cluster, and print."""
    print(f"{'workers':>7} {'rows/s':>8} {'owner µs':>9} {'workers µs':>11} {'server µs':>10}")
    rounds = [
        [measured(count, options, on) for count in options.workers] for _ in range(options.rounds)
    ]
    for count, found in zip(options.workers, zip(*rounds, strict=True), strict=True):
        print(
            f"{count:>7} {median(one.rows_per_s for one in found):>8,.0f} "
            f"{median(one.owner_us for one in found):>9,.0f} "
            f"{median(one.workers_us for one in found):>11,.0f} "
            f"{median(one.server_us for one in found):>10,.0f}"
        )


class ActorTimes(threading.Thread):
    """Notes the CPU times of the Ray actors among the descendants of this process, until the end of a block."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self._ticks: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._note()
        self._before = sum(self._ticks.values())
        self.start()
        return self

    def __exit__(self, *_ended: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Look four times a second."""
        while not self._ended.wait(0.25):
            self._note()

    @property
    def total_s(self) -> float:
        """The seconds that actors have used within the block."""
        return (sum(self._ticks.values()) - self._before) / os.sysconf("SC_CLK_TCK")

    def _note(self) -> None:
        parents, found = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                name, _, rest = (folder / "stat").read_text().rpartition(")")
                fields = rest.split()
                parents[int(folder.name)] = int(fields[1])
                if "(ray::WorkerAct" in name:
                    found[int(folder.name)] = int(fields[11]) + int(fields[12])
        for actor, ticks in found.items():
            above = parents.get(actor)
            while above not in (None, os.getpid()):
                above = parents.get(above)
            if above is not None:
                self._ticks[actor] = ticks


def median(values: object) -> float:
    """Return the median."""
    return statistics.median(values)  # type: ignore[arg-type]


def measured(count: int, options: argparse.Namespace, on: str) -> Measured:
    """Run once in a new process, against a new server."""
    command = [sys.executable, "-m", "benchmarks.server", str(options.latency_ms)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as directory,
    ):
        assert server.stdout is not None
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            write_job(Path(directory), url, options.rows, options.in_flight * max(1, count))
            one = [sys.executable, "-m", "benchmarks.workers", "--one", directory, str(count), on]
            with ActorTimes() as actors:
                done = subprocess.run(one, capture_output=True, text=True, check=True)
            seconds, owner_s, workers_s = json.loads(done.stdout)
            workers_s += actors.total_s
            with urllib.request.urlopen(url, timeout=10) as response:
                requests, server_s = json.loads(response.read())
        finally:
            server.terminate()
    assert requests == options.rows, requests
    us = 1e6 / options.rows
    return Measured(options.rows / seconds, owner_s * us, workers_s * us, server_s * us)


def write_job(directory: Path, url: str, rows: int, in_flight: int) -> None:
    """Write the input and the job file."""
    import polars as pl

    texts = [prompt(number) for number in range(rows)]
    pl.DataFrame({"text": texts}).write_parquet(directory / "rows.parquet")
    text = JOB.format(url=url, model=MODEL, in_flight=in_flight)
    (directory / "job.toml").write_text(text)


def run_one(directory: str, workers: str, on: str) -> None:
    """Run the job in this process; print its seconds, and CPU seconds of it and of its workers."""
    from batchrun.job import Job
    from batchrun.run import RunOptions, run_job

    job = Job.load(Path(directory) / "job.toml")
    before, start = cpu_s(resource.RUSAGE_SELF), time.perf_counter()
    count = int(workers) or None
    place = on if on and count else None
    report = run_job(job, RunOptions(quiet=True, workers=count, on=place))
    seconds = time.perf_counter() - start
    assert report.totals.succeeded == int(report.totals.succeeded), report
    owner_s = cpu_s(resource.RUSAGE_SELF) - before
    print(json.dumps([seconds, owner_s, cpu_s(resource.RUSAGE_CHILDREN)]))


def cpu_s(who: int) -> float:
    """Return the CPU seconds of this process, or of its children that have ended."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
