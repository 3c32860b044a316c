"""Systems that allow little: an error with numbers and the way out, or a run within the limit."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import environment
from tests.provider import answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    WriteJob = Callable[..., Path]


def limited(limit: str, *arguments: str | Path) -> tuple[int, str]:
    """Run the command below a limit of the shell's; return its exit code and stderr."""
    command = shlex.join([sys.executable, "-m", "batchrun", *map(str, arguments)])
    done = subprocess.run(
        ["bash", "-c", f"ulimit {limit}; exec {command}"],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("files", [10, 14, 20, 26, 40])
def test_too_few_open_files(write_job: WriteJob, files: int) -> None:
    with serving() as provider:
        code, stderr = limited(f"-n {files}", "run", write_job(provider.url))
        assert code == 2
        assert f"allows {files} open files per process" in stderr
        assert "needs at least 50; raise the limit, for example: ulimit -n 1024" in stderr
        assert provider.calls == []


@pytest.mark.parametrize("kilobytes", [300_000, 600_000, 2_000_000, 2_900_000])
def test_too_little_address_space(write_job: WriteJob, kilobytes: int) -> None:
    with serving() as provider:
        code, stderr = limited(f"-v {kilobytes}", "run", write_job(provider.url))
        assert code == 2
        assert f"allows {kilobytes:,} KB of address space" in stderr
        assert "needs at least 3,000,000 KB" in stderr
        assert provider.calls == []


def test_the_least_address_space_is_enough(write_job: WriteJob) -> None:
    with serving(answer) as provider:
        code, stderr = limited("-v 3000000", "run", write_job(provider.url, rows=20))
        assert code == 0, stderr
        assert len(provider.calls) == 20


def test_help_is_there_on_any_system() -> None:
    assert limited("-n 20", "run", "--help")[0] == 0


@pytest.mark.parametrize("simulate", [[], ["--simulate"]])
@pytest.mark.parametrize("files", [50, 64, 256])
def test_few_open_files_bound_what_is_in_flight_and_that_is_said(
    write_job: WriteJob, files: int, simulate: list[str]
) -> None:
    with serving(lambda call: answer(call, delay_s=0.02)) as provider:
        code, stderr = limited(f"-n {files}", "run", write_job(provider.url, rows=60), *simulate)
    assert code == 0, stderr
    assert re.search(r"at most [1-9]\d* requests in flight, because of the limit on open", stderr)


def test_the_concurrency_that_is_proposed_works(write_job: WriteJob) -> None:
    with serving(answer) as provider:
        job = write_job(provider.url, rows=60)
        code, stderr = limited("-n 64", "run", job, "--concurrency", "100")
        assert code == 2
        assert "100 needs 328 open files, and this system allows 64 to a process" in stderr
        found = re.search(r"set \[limits\] concurrency = (\d+) or raise the limit", stderr)
        assert found is not None, stderr
        assert provider.calls == []
        assert limited("-n 64", "run", job, "--concurrency", found[1])[0] == 0
