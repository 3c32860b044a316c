"""How long each command takes on a small run, most of which is starting and loading libraries.

Usage: python -m benchmarks.start [ROUNDS]

The run has 20 rows, answered by the simulator. All commands take turns; the figures are medians of the
time on the clock and of the processor time of the process. `libraries` are the largest ones that it loads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROUNDS = 9
ROWS = 20
JOB = """
[input]
path = "rows.csv"
[request]
model = "claude-haiku-4-5-20251001"
prompt = "{{ text }}"
max_tokens = 20
[score]
expected = "{{ text }}"
match = "contains"
[output]
dir = "run"
"""
COMMANDS = (
    ("--version",),
    ("--help",),
    ("run", "--help"),
    ("init", "rows.csv"),
    ("preview", "job.toml", "-n", "2"),
    ("estimate", "job.toml"),
    ("run", "job.toml", "--simulate"),
    ("status", "run.simulated"),
    ("cancel", "run.simulated"),
    ("export", "run.simulated"),
    ("export", "run.simulated", "--to", "copy.csv"),
    ("report", "run.simulated"),
    ("score", "run.simulated"),
    ("recost", "run.simulated"),
    ("compare", "run.simulated", "other.simulated"),
    ("verify", "run.simulated"),
)
LARGE = (
    "polars",
    "httpx",
    "pyreqwest",
    "anyio",
    "jinja2",
    "genai_prices",
    "jsonschema_rs",
    "sqlite3",
)
LOADED = f"""import sys
from batchrun.__main__ import main
try:
    main()
finally:
    sys.stdout.flush()
    print("loaded", *[name for name in {LARGE!r} if name in sys.modules], file=sys.stderr)"""


def main(rounds: int) -> None:
    """Measure every command, in turns."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        text = "\n".join(["text", *(f"row {row}" for row in range(ROWS))])
        (directory / "rows.csv").write_text(text)
        (directory / "job.toml").write_text(JOB)
        for place in ("run", "other"):
            start(directory, "run", "job.toml", "--simulate", "--output-dir", place)
        seconds: dict[tuple[str, ...], list[tuple[float, float]]] = {c: [] for c in COMMANDS}
        for _ in range(rounds):
            for command in COMMANDS:
                seconds[command].append(start(directory, *command))
        print(json.dumps({"rounds": rounds, "load": os.getloadavg()[0]}))
        for command, found in seconds.items():
            clock, processor = (median(values) for values in zip(*found, strict=True))
            libraries = loaded(directory, *command)
            print(f"{' '.join(command):40} {clock:6.3f} s {processor:6.3f} s CPU  {libraries}")


def start(directory: Path, *command: str) -> tuple[float, float]:
    """Run a command; return its seconds on the clock and of the processor."""
    (directory / "rows.toml").unlink(missing_ok=True)  # `init` replaces nothing
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "batchrun", *command],
        cwd=directory,
        capture_output=True,
        check=False,
    )
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode not in {0, 3}:
        raise SystemExit(f"{command}: exit {done.returncode}: {done.stderr.decode()}")
    used = after.children_user + after.children_system
    return seconds, used - before.children_user - before.children_system


def loaded(directory: Path, *command: str) -> str:
    """Return the names of the large libraries that a command loads."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *command],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.rpartition("loaded")[2].strip()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
