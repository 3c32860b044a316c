"""Requests per second of batchrun, end to end, beside other clients: on one core, on one server.

Usage: python -m benchmarks.throughput [--rounds 5] [--requests 10000] [--in-flight 256 1000]
       [--latency-ms 0] [--peers PYTHON] [--only NAME …]

Every round runs each client once, each in a separate process on the first core, against one server
on the second core. Prints medians of the rounds, and of the ratios to the plain aiohttp loop of the
same round, and the CPU time of a request in the client, which other work on the machine changes
less than its requests per second. Skips clients that are not installed; `--peers` is the Python of an environment with
clients that this project does not depend on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import urllib.request
from pathlib import Path

CONTENDERS = Path(__file__).with_name("contenders.py")
# Clients that would take all day get fewer requests.
SHARE = {"httpx": 0.02, "openai": 0.2, "lm-deluge": 0.5, "async-batch-llm": 0.1}
NEEDS = {
    "aiohttp": "aiohttp",
    "httpx": "httpx",
    "openai": "openai",
    "batchrun": "batchrun",
    "lm-deluge": "lm_deluge",
    "async-batch-llm": "async_batch_llm",
}
TIME_LIMIT_S = 120


def main() -> None:
    """Measure and print."""
    options = read_options()
    pythons = {name: python for name in options.only if (python := find(name, options.peers))}
    print(
        f"{'in flight':>9}  {'client':15} {'requests/s':>10} {'of aiohttp':>10} {'server':>7} {'CPU µs':>7}"
    )
    for in_flight in options.in_flight:
        rounds = [one_round(pythons, options, in_flight) for _ in range(options.rounds)]
        for name in pythons:
            tell(name, in_flight, [found for found in rounds if name in found])


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[256, 1_000])
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--peers", help="a Python with the peers")
    parser.add_argument("--only", nargs="+", default=list(NEEDS), choices=list(NEEDS))
    return parser.parse_args()


def find(name: str, peers: str | None) -> str | None:
    """Return a Python that has what a client needs."""
    for python in filter(None, (sys.executable, peers)):
        probe = subprocess.run(
            [python, "-c", f"import {NEEDS[name]}"], stderr=subprocess.DEVNULL, check=False
        )
        if probe.returncode == 0:
            return python
    print(f"{name}: not installed, left out", file=sys.stderr)
    return None


def one_round(
    pythons: dict[str, str], options: argparse.Namespace, in_flight: int
) -> dict[str, tuple[float, float, float]]:
    """Run each client once; return its requests/s, how busy the server was, and CPU µs a request."""
    found: dict[str, tuple[float, float, float]] = {}
    command = [sys.executable, "-m", "benchmarks.server", str(options.latency_ms)]
    with subprocess.Popen(pinned(1, command), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            for name, python in pythons.items():
                requests = max(in_flight, int(options.requests * SHARE.get(name, 1)))
                _, before = counted(url)
                took = run(python, name, url, requests, in_flight)
                _, after = counted(url)
                if took is not None:
                    seconds, cpu_s = took
                    busy = (after - before) / seconds
                    found[name] = (requests / seconds, busy, cpu_s / requests * 1e6)
        finally:
            server.terminate()
    return found


def run(python: str, name: str, url: str, requests: int, in_flight: int) -> list[float] | None:
    """Run a client on the first core; return its seconds and CPU seconds, None when it failed."""
    command = [python, str(CONTENDERS), name, url, str(requests), str(in_flight)]
    try:
        done = subprocess.run(
            pinned(0, command), capture_output=True, text=True, timeout=TIME_LIMIT_S, check=True
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        reason = str(error.stderr or error).strip().splitlines()[-1]
        print(f"{name}, {in_flight} in flight: {reason}", file=sys.stderr)
        return None
    return [float(each) for each in done.stdout.split()[-2:]]


def pinned(core: int, command: list[str]) -> list[str]:
    """Return a command that runs on one core, where the machine has several."""
    return ["taskset", "-c", str(core), *command] if (os.cpu_count() or 1) > 1 else command


def counted(url: str) -> tuple[int, float]:
    """Return the server's number of requests and its CPU seconds."""
    with urllib.request.urlopen(url, timeout=10) as response:
        number, seconds = json.loads(response.read())
    return number, seconds


def tell(name: str, in_flight: int, rounds: list[dict[str, tuple[float, float, float]]]) -> None:
    """Print the medians of a client."""
    if not rounds:
        print(f"{in_flight:>9}  {name:15} {'–':>10}")
        return
    rate = statistics.median(found[name][0] for found in rounds)
    busy = statistics.median(found[name][1] for found in rounds)
    cpu_us = statistics.median(found[name][2] for found in rounds)
    ratios = [found[name][0] / found["aiohttp"][0] for found in rounds if "aiohttp" in found]
    ratio = f"{statistics.median(ratios):.2f}" if ratios else "–"
    print(f"{in_flight:>9}  {name:15} {rate:>10,.0f} {ratio:>10} {busy:>7.0%} {cpu_us:>7.0f}")


if __name__ == "__main__":
    main()
