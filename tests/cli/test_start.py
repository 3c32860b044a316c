"""What each command loads: libraries that it does not use would be most of its time."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batchrun.cli import cli
from batchrun.limits import memory

if TYPE_CHECKING:
    from pathlib import Path

JOB = """
[input]
path = "rows.csv"
[request]
model = "claude-haiku-4-5"
prompt = "{{ text }}"
max_tokens = 20
[output]
dir = "run"
"""
SCORE = """
[score]
expected = "{{ text }}"
match = "contains"
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
# Modules that read jobs, render templates, score answers, or prepare a run.
PARTS = {
    *("batchrun.formats.wire_format", "batchrun.render", "batchrun.run.scoring"),
    *("batchrun.evaluation.scorer", "batchrun.run.judging", "batchrun.run.preparation"),
    "batchrun.simulator.provider",
}
WATCHED = LIBRARIES | SENDING | PARTS
ROWS = {"polars"}
JOBS = {"batchrun.formats.wire_format"}
TEMPLATES = {"batchrun.render", "jinja2"}
PRICES = {"asyncio", "genai_prices.types", "httpx2", "pydantic"}
SCORES = {"batchrun.evaluation.scorer", "batchrun.run.scoring", *TEMPLATES}
ESTIMATES = {*ROWS, *JOBS, *TEMPLATES, *PRICES, "anyio", "batchrun.run.preparation"}
REHEARSES = {
    *ESTIMATES,
    *SENDING,
    *("aiolimiter", "batchrun.simulator.provider", "h11", "httpx", "jsonschema_rs"),
    *("multiprocessing", "pyreqwest", "sqlite_utils", "tqdm", "uvloop"),
}
# Command for a job without `[score]` → those of WATCHED that it may load.
MAY_LOAD: dict[tuple[str, ...], set[str]] = {
    ("--version",): set(),
    ("--help",): set(),
    ("run", "--help"): JOBS,
    ("simulate", "--help"): set(),
    ("init", "rows.csv"): ROWS | JOBS | TEMPLATES,
    ("preview", "job.toml"): ROWS | JOBS | TEMPLATES | PRICES,
    ("estimate", "job.toml"): ESTIMATES,
    ("run", "job.toml", "--simulate"): REHEARSES,
    ("status", "run.simulated"): set(),
    ("status", "run.simulated", "--json"): set(),
    ("status", "job.toml"): JOBS,
    ("cancel", "run.simulated"): JOBS,
    ("export", "run.simulated"): ROWS | JOBS,
    ("export", "run.simulated", "--to", "copy.jsonl"): ROWS | JOBS,
    ("report", "run.simulated"): ROWS | JOBS | TEMPLATES,
    ("recost", "run.simulated"): ROWS | JOBS | PRICES,
    ("compare", "run.simulated", "other.simulated"): set(),
    ("verify", "run.simulated"): ROWS | JOBS | TEMPLATES,
}
# The same for a job with `[score]`, where that makes a difference.
WITH_SCORES: dict[tuple[str, ...], set[str]] = {
    command: MAY_LOAD[command] | SCORES
    for command in MAY_LOAD
    if command[0] in {"preview", "estimate", "run", "export", "report", "recost", "verify"}
    and "--help" not in command
} | {("score", "run.simulated"): ROWS | JOBS | SCORES}
MAIN = """
import sys
from batchrun.__main__ import main
try:
    main()
finally:
    sys.stdout.flush()
    print("\\nloaded", *sys.modules, file=sys.stderr)
"""
# Prints how often garbage is looked for, and how many objects are left alone when Python ends.
END = """
import atexit
import gc
from batchrun.__main__ import main
atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count()))
main()
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


def with_runs(place: Path, job: str) -> Path:
    """Write a job into a folder, and run it twice."""
    (place / "rows.csv").write_text("text\none\ntwo\n")
    (place / "job.toml").write_text(job)
    for name in ("run", "other"):
        loaded(place, "run", "job.toml", "--simulate", "--output-dir", name)
    return place


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job without `[score]`, and two runs of it."""
    return with_runs(tmp_path_factory.mktemp("plain"), JOB)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job with `[score]`, and two runs of it."""
    return with_runs(tmp_path_factory.mktemp("scored"), JOB + SCORE)


@pytest.mark.parametrize("command", MAY_LOAD, ids=" ".join)
def test_a_command_loads_nothing_that_it_does_not_need(
    plain: Path, command: tuple[str, ...]
) -> None:
    found = loaded(plain, *command) & WATCHED
    assert found <= MAY_LOAD[command], sorted(found - MAY_LOAD[command])


@pytest.mark.parametrize("command", WITH_SCORES, ids=" ".join)
def test_a_job_with_scores_loads_what_scores(scored: Path, command: tuple[str, ...]) -> None:
    found = loaded(scored, *command) & WATCHED
    assert found <= WITH_SCORES[command], sorted(found - WITH_SCORES[command])


@pytest.mark.parametrize("command", [("preview", "job.toml"), ("run", "job.toml", "--simulate")])
def test_a_job_with_its_own_price_loads_no_price_list(
    plain: Path, command: tuple[str, ...]
) -> None:
    price = ("--set", "price.input=1", "--set", "price.output=5")
    assert not loaded(plain, *command, *price) & {"genai_prices.types", "pydantic"}


def test_a_command_looks_for_garbage_rarely_and_not_at_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", END, "--version"], capture_output=True, text=True, check=True
    )
    threshold, frozen = map(int, done.stdout.split()[-2:])
    assert threshold == memory.COLLECTED_EVERY
    assert frozen > 10_000


def test_the_table_has_every_command() -> None:
    assert {command[0] for command in MAY_LOAD | WITH_SCORES} >= set(cli.commands)
