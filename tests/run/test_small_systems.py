"""Systems that allow little: an error with numbers and the way out, or a run within the limit."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.conftest import bound_by_permissions, command, environment
from tests.support.provider import answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    WriteJob = Callable[..., Path]


def limited(
    limit: str,
    *arguments: str | Path,
    user: Sequence[str] = (),
    env: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Run the command below a limit of the shell's; return its exit code and stderr."""
    line = shlex.join([sys.executable, "-m", "batchrun", *map(str, arguments)])
    done = subprocess.run(
        [*user, "bash", "-c", f"ulimit {limit}; exec {line}"],
        check=False,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=240,
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


# As another user, whose processes the system counts, but who may read this Python.
UNPRIVILEGED = ["setpriv", "--reuid", "61234", "--clear-groups"]
UNPRIVILEGED += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def counted_user() -> list[str]:
    """What a command begins with, so that the system counts its processes: root's it does not."""
    return UNPRIVILEGED if os.geteuid() == 0 else []


@pytest.mark.skipif(sys.platform != "linux", reason="setpriv is of Linux")
@pytest.mark.parametrize("threads", [1, 2, 4, 6, 8, 16])
def test_too_few_processes_or_threads(write_job: WriteJob, threads: int) -> None:
    if not counted_user():
        threads += processes_of_this_user()
    with serving() as provider:
        job = write_job(provider.url)
        code, stderr = limited(f"-u {threads}", "run", job, user=counted_user())
        assert code == 2, stderr
        needed = 16 + 4 * (os.cpu_count() or 1)
        assert re.search(rf"allows \d+ more threads, and batchrun needs {needed}", stderr)
        assert "(ulimit -u)" in stderr
        assert "raise the limit, for example: ulimit -u 4096" in stderr
        assert len(stderr.splitlines()) == 1, "and nothing that libraries say"
        assert provider.calls == []


@pytest.mark.skipif(sys.platform != "linux", reason="setpriv is of Linux")
def test_the_fewest_threads_are_enough(write_job: WriteJob, tmp_path: Path) -> None:
    needed = 16 + 4 * (os.cpu_count() or 1) + 1
    needed += 0 if counted_user() else processes_of_this_user()
    with serving(answer) as provider, TemporaryDirectory() as open_to_all:
        write_job(provider.url, rows=200)
        shutil.copytree(tmp_path, open_to_all, dirs_exist_ok=True)
        Path(open_to_all).chmod(0o777)
        job = Path(open_to_all) / "job.toml"
        code, stderr = limited(f"-u {needed}", "run", job, user=counted_user())
        assert code == 0, stderr
        assert len(provider.calls) == 200


def processes_of_this_user() -> int:
    """How many threads the system counts for this user already."""
    lines = subprocess.run(
        ["ps", "-L", "-u", str(os.getuid())], capture_output=True, text=True, check=True
    )
    return len(lines.stdout.splitlines()) - 1


@pytest.mark.parametrize("home", [None, "", "/nonexistent", "/proc"])
def test_no_home_is_needed(write_job: WriteJob, home: str | None) -> None:
    surroundings = environment(**({} if home is None else {"HOME": home}))
    if home is None:
        surroundings.pop("HOME", None)
    with serving(answer) as provider:
        code, _, stderr = command("run", write_job(provider.url, rows=3), env=surroundings)
    assert code == 0, stderr


@pytest.mark.parametrize("folder", ["/nonexistent", "/proc"])
def test_no_folder_of_temporary_files_is_needed_for_a_local_table(
    write_job: WriteJob, folder: str
) -> None:
    surroundings = environment(TMPDIR=folder)
    with serving(answer) as provider:
        job = write_job(provider.url, rows=3)
        for arguments in (("estimate", job), ("run", job), ("verify", job.parent / "out")):
            code, _, stderr = command(*arguments, env=surroundings)
            assert code == 0, stderr


def test_a_full_folder_of_temporary_files_is_named(write_job: WriteJob) -> None:
    # What is counted needs some megabytes beside the checkpoint, which is not there yet.
    with serving() as provider:
        job = write_job(provider.url, rows=60_000)
        code, stderr = limited("-f 2048", "estimate", job, env=environment(TMPDIR=str(job.parent)))
    assert code == 6, stderr
    assert f"error: {job.parent}: temporary files cannot be written there (" in stderr
    assert "name another folder in the environment variable TMPDIR" in stderr


def test_a_remote_table_without_a_folder_for_its_copy(write_job: WriteJob) -> None:
    job = write_job("http://127.0.0.1:9", rows=1)
    table = "http://127.0.0.1:9/rows.csv"
    # Where no file can be written, Python finds no folder for temporary files.
    code, stderr = limited("-f 0", "preview", job, "--set", f"input.path={table}")
    assert code == 2, stderr
    assert f"[input] path: {table} cannot be copied to this machine" in stderr
    assert "TMPDIR" in stderr


def test_a_current_folder_that_cannot_be_written(write_job: WriteJob, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir(mode=0o555)
    tmp_path.chmod(0o777)
    with serving(answer) as provider:
        job = write_job(provider.url, rows=3)
        for options, expected in (([], 0), (["--output-dir", "out"], 5)):
            done = subprocess.run(
                [
                    *bound_by_permissions(),
                    sys.executable,
                    "-m",
                    "batchrun",
                    "run",
                    str(job),
                    *options,
                ],
                check=False,
                cwd=here,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == expected, done.stderr
            assert len(provider.calls) == 3
    assert f"{here / 'out'}: cannot be used as run directory: " in done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_current_folder_that_was_removed(write_job: WriteJob, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with serving(answer) as provider:
        job = write_job(provider.url, rows=3)
        for name, expected in ((job, 0), (Path("job.toml"), 2)):
            gone.mkdir()
            run = shlex.join([sys.executable, "-m", "batchrun", "run", str(name)])
            done = subprocess.run(
                ["bash", "-c", f"cd {gone} && rmdir {gone} && exec {run}"],
                check=False,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == expected, done.stderr
    assert "Traceback" not in done.stderr
    assert "standard output" not in done.stderr
