"""Shared fixtures: a job over a small table, and the command as a real process."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import polars as pl
import pytest
from hypothesis import HealthCheck, settings

import batchrun as library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

KEY = "sk-test-canary-0123456789"
ROOT = Path(__file__).parent.parent
# On a machine with much else to do, an example may take long to make and to try.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("patient")

CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """Write a table and a job over it; return the job file."""

    def write(
        base_url: str,
        *,
        rows: int = 20,
        wire_format: str = "messages",
        request: str = "",
        extra: str = "",
        provider: str | None = "anthropic",
    ) -> Path:
        table = tmp_path / "rows.csv"
        pl.DataFrame(
            {"id": [f"r{n:05d}" for n in range(rows)], "text": [f"text {n}" for n in range(rows)]}
        ).write_csv(table)
        # A server on this machine has nobody's prices, unless the job says whose it is.
        named = "" if provider is None else f'provider = "{provider}"'
        job = tmp_path / "job.toml"
        job.write_text(
            f"""
[input]
path = "rows.csv"
id = "id"
[request]
format = "{wire_format}"
base_url = "{base_url}"
api_key_env = "TEST_KEY"
model = "claude-haiku-4-5-20251001"
prompt = "Say {{{{ text }}}}"
max_tokens = 50
{named}
{request}
[output]
dir = "out"
{extra}
""",
            encoding="utf-8",
        )
        return job

    return write


@pytest.fixture
def results(tmp_path: Path) -> Callable[[], pl.DataFrame]:
    """Read the results of the job that `write_job` wrote."""
    return lambda: pl.read_parquet(tmp_path / "out" / "results.parquet")


# Under `nohup`, or in the background of a script, these are ignored, and so they would be by every
# command that a test starts. Whatever handles them here, a command begins with the defaults.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Most tests need this environment: to set it once is to change it seldom, see `_surroundings`.
for _name in [name for name in os.environ if "proxy" in name.lower() or name.endswith("_API_KEY")]:
    del os.environ[_name]
os.environ["TEST_KEY"] = KEY


def environment(**changes: str) -> dict[str, str]:
    """The environment of a child process: a key, and no proxy between it and loopback."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    kept.pop("ANTHROPIC_API_KEY", None)
    kept.pop("OPENAI_API_KEY", None)
    return {**kept, "TEST_KEY": KEY, **changes}


def start_batchrun(
    *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start the command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "batchrun", *map(str, arguments)],
        cwd=cwd,
        env=environment() if env is None else env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 240) -> tuple[int, str, str]:
    """Wait for a process; return its exit code, stdout and stderr. Kills it when it hangs."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, stdout, stderr


DEADLINE_S = 120.0


def wait_until(
    holds: Callable[[], object],
    process: subprocess.Popen[str] | None = None,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Wait for something to come true, as long as a process, if one is named, goes on."""
    deadline = time.monotonic() + deadline_s
    while not holds():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for_line(process: subprocess.Popen[str], part: str) -> None:
    """Wait until a process writes this to stderr."""
    assert process.stderr is not None
    for line in process.stderr:
        assert "Traceback" not in line
        if part in line:
            return
    pytest.fail(f"ended without saying {part!r}")


def batchrun(
    *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run the command to its end."""
    return finish(start_batchrun(*arguments, cwd=cwd, env=env))


@contextlib.contextmanager
def _surroundings(wanted: Mapping[str, str]) -> Iterator[None]:
    """Make this process's environment so, by as few changes as possible.

    Native threads (of polars, of the HTTP transport) read it at any time, and the C library lets
    them crash when an entry is added or removed meanwhile.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - wanted.keys() - {"PYTEST_CURRENT_TEST"}:
            patch.delenv(name)
        for name, value in wanted.items():
            if os.environ.get(name) != value:
                patch.setenv(name, value)
        yield


def command(
    *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run the command in this process, which is ten times faster; any exception is the test's."""
    from batchrun import cli

    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        _surroundings(environment() if env is None else env),
        mock.patch.object(sys, "argv", ["batchrun", *map(str, arguments)]),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as caught,
    ):
        cli.main()
    return int(caught.value.code or 0), stdout.getvalue(), stderr.getvalue()


def resume(job: Path, **overrides: str) -> int:
    """Run a job to its end in this process, which is quicker; return its exit code."""
    settings = {name.replace("__", "."): value for name, value in overrides.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_KEY", KEY)
        return library.run_job(
            library.load_job(job, settings), library.RunOptions(quiet=True)
        ).exit_code


def bound_by_permissions() -> list[str]:
    """Return what makes a command obey permissions that do not bind root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
