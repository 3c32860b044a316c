"""What each command loads: libraries that it does not use would be most of its time."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batchrun.cli import cli

if TYPE_CHECKING:
    from pathlib import Path

JOB = """
[input]
path = "rows.csv"
[request]
model = "claude-haiku-4-5"
prompt = "{{ text }}"
max_tokens = 20
[score]
expected = "{{ text }}"
match = "contains"
[output]
dir = "run"
"""
LIBRARIES = {
    *(
        "aiolimiter",
        "anyio",
        "asyncio",
        "fastexcel",
        "genai_prices.types",
        "h11",
        "httpx",
        "httpx2",
    ),
    *("jinja2", "jsonschema_rs", "multiprocessing", "numpy", "pandas", "polars"),
    *("pyarrow", "pydantic", "pyreqwest", "rapidfuzz", "ray", "re2", "sqlite_utils", "tqdm"),
    *("uvloop", "xlsxwriter"),
}
# Modules that send requests, limit them, simulate answers, or start workers.
SENDING = {
    *("batchrun.client", "batchrun.dispatch.batch", "batchrun.dispatch.live"),
    *("batchrun.limits.request_limits", "batchrun.run.execution", "batchrun.run.running"),
    *("batchrun.simulator.service", "batchrun.workers.owner"),
}
ROWS = {"polars"}
STORED = {"sqlite_utils"}
TEMPLATES = {"jinja2"}
PRICES = {"asyncio", "genai_prices.types", "httpx2", "pydantic"}
ESTIMATES = {
    *(ROWS | STORED | TEMPLATES | PRICES),
    *("aiolimiter", "anyio", "batchrun.dispatch.batch", "batchrun.dispatch.live"),
}
REHEARSES = {
    *ESTIMATES,
    *("batchrun.client", "batchrun.limits.request_limits", "batchrun.run.execution"),
    *("batchrun.run.running", "batchrun.simulator.service", "h11", "httpx", "jsonschema_rs"),
    *("multiprocessing", "pyreqwest", "tqdm", "uvloop"),
}
# Command → those of LIBRARIES and SENDING that it may load.
MAY_LOAD: dict[tuple[str, ...], set[str]] = {
    ("--version",): set(),
    ("--help",): set(),
    ("run", "--help"): set(),
    ("simulate", "--help"): set(),
    ("init", "rows.csv"): ROWS | TEMPLATES,
    ("preview", "job.toml"): ROWS | STORED | TEMPLATES | PRICES,
    ("estimate", "job.toml"): ESTIMATES,
    ("run", "job.toml", "--simulate"): REHEARSES,
    ("status", "run.simulated"): STORED,
    ("status", "run.simulated", "--json"): STORED,
    ("status", "job.toml"): STORED,
    ("cancel", "run.simulated"): STORED,
    ("export", "run.simulated"): ROWS | STORED | TEMPLATES,
    ("export", "run.simulated", "--to", "copy.jsonl"): ROWS | STORED | TEMPLATES,
    ("report", "run.simulated"): ROWS | STORED | TEMPLATES,
    ("score", "run.simulated"): ROWS | STORED | TEMPLATES,
    ("recost", "run.simulated"): ROWS | STORED | TEMPLATES | PRICES,
    ("compare", "run.simulated", "other.simulated"): ROWS | STORED | TEMPLATES,
    ("verify", "run.simulated"): ROWS | STORED | TEMPLATES,
}
MAIN = """
import sys
from batchrun.__main__ import main
try:
    main()
finally:
    sys.stdout.flush()
    print("\\nloaded", *sys.modules, file=sys.stderr)
"""


def loaded(folder: Path, *command: str) -> set[str]:
    """Run a command; return the names of the modules that it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("\nloaded ")[2].split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job, and two runs of it."""
    place = tmp_path_factory.mktemp("start")
    (place / "rows.csv").write_text("text\none\ntwo\n")
    (place / "job.toml").write_text(JOB)
    for name in ("run", "other"):
        loaded(place, "run", "job.toml", "--simulate", "--output-dir", name)
    return place


@pytest.mark.parametrize("command", MAY_LOAD, ids=" ".join)
def test_a_command_loads_nothing_that_it_does_not_need(
    folder: Path, command: tuple[str, ...]
) -> None:
    found = loaded(folder, *command) & (LIBRARIES | SENDING)
    assert found <= MAY_LOAD[command], sorted(found - MAY_LOAD[command])


def test_the_table_has_every_command() -> None:
    assert {command[0] for command in MAY_LOAD} >= set(cli.commands)
