"""How long each command takes on a small run, most of which is starting and loading libraries.

Usage: python -m benchmarks.start [ROUNDS]

The run has 20 rows, answered by the simulator. All commands take turns; the figures are medians of the
time on the clock and of the processor time of the process. Those of Python alone, and of importing polars,
are beside them. At the end of a line are the largest libraries that a command loads.
"""

from __future__ import annotations

import json
import os
import resource
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
REFERENCES = ("pass", "import polars")
COMMANDS = (
    ("--version",),
    ("--help",),
    ("run", "--help"),
    ("init", "rows.csv"),
    ("preview", "job.toml", "-n", "2"),
    ("estimate", "job.toml"),
    ("run", "job.toml", "--simulate"),
    ("status", "run.simulated"),
    ("status", "job.toml"),
    ("cancel", "run.simulated"),
    ("export", "run.simulated"),
    ("export", "run.simulated", "--to", "copy.csv"),
    ("report", "run.simulated"),
    ("score", "run.simulated"),
    ("recost", "run.simulated"),
    ("compare", "run.simulated", "other.simulated"),
    ("verify", "run.simulated"),
    ("simulate", "--help"),
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
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        text = "\n".join(["text", *(f"row {row}" for row in range(ROWS))])
        (directory / "rows.csv").write_text(text)
        (directory / "job.toml").write_text(JOB)
        for run in ("run", "other"):
            start(directory, "-m", "batchrun", "run", "job.toml", "--simulate", "--output-dir", run)
        every = {f"python -c '{code}'": ("-c", code) for code in REFERENCES}
        every |= {" ".join(command): ("-m", "batchrun", *command) for command in COMMANDS}
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in every}
        for _ in range(rounds):
            for name, arguments in every.items():
                seconds[name].append(start(directory, *arguments))
        print(json.dumps({"rounds": rounds, "load": os.getloadavg()[0]}))
        for name, found in seconds.items():
            clock, processor = (median(values) for values in zip(*found, strict=True))
            module, _, *command = every[name]
            libraries = loaded(directory, *command) if module == "-m" else ""
            print(f"{name:40} {clock:6.3f} s {processor:6.3f} s CPU  {libraries}".rstrip())


def start(directory: Path, *arguments: str) -> tuple[float, float]:
    """Run Python with arguments; return its seconds on the clock and of the processor."""
    (directory / "rows.toml").unlink(missing_ok=True)  # `init` replaces nothing
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, check=False
    )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in {0, 3}:
        raise SystemExit(f"{arguments}: exit {done.returncode}: {done.stderr.decode()}")
    used = after.ru_utime + after.ru_stime
    return seconds, used - before.ru_utime - before.ru_stime


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
