"""What people see on a terminal of 80 columns, and job files in the place of run directories."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.conftest import DEADLINE_S, ROOT, batchrun, environment, finish, wait_until
from tests.support.provider import Call, Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    WriteJob = Callable[..., Path]

COLUMNS = 80


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(folder: Path, *arguments: object) -> str:
    """Run the command on a terminal of 80 columns; return what it shows."""
    own, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "batchrun", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    shown = b""
    with os.fdopen(own, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(65_536):
                shown += part
        except OSError:
            pass  # Linux says so when the last writer has closed the terminal
    process.wait(DEADLINE_S)
    return _COLOUR.sub("", shown.decode()).replace("\r\n", "\n")


def too_wide(text: str) -> list[str]:
    lines = [line for part in text.split("\n") for line in part.split("\r")]
    return [line for line in lines if len(line) > COLUMNS]


def test_a_preview_is_laid_out_on_a_terminal_and_json_elsewhere(
    write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job("https://api.example.com", request='system = "Say a word. \\n\\nNo more."')
    shown = on_terminal(tmp_path, "preview", job, "-n", 2)
    assert too_wide(shown) == []
    assert shown.startswith("── r00000 ──\nPOST https://api.example.com/v1/messages\n")
    assert "x-api-key: ***\n" in shown
    assert "max_tokens = 50\n" in shown
    assert "user:\n  Say text 1\n" in shown
    lines = batchrun("preview", job, "-n", "2")[1].splitlines()
    assert [line[:13] for line in lines] == ['{"custom_id":'] * 2
    assert on_terminal(tmp_path, "preview", job, "-n", 1, "--json").startswith('{"custom_id":')
    assert "--concurrency" not in batchrun("preview", "--help")[1]


def test_a_run_fits_on_a_terminal(tmp_path: Path) -> None:
    job = ROOT / "jobs" / "ticket_triage.toml"
    shown = on_terminal(tmp_path, "run", job, "--simulate", "--limit", 60, "--output-dir", "out")
    paths = "  results "  # as long as the folder's name
    assert [line for line in too_wide(shown) if not line.startswith(paths)] == []
    assert "simulated: nothing was billed" in shown
    bar = shown.split("\r")[-1].splitlines()[0]
    assert re.search(r"60/60 .*, \$0\.\d{4}$", bar.rstrip()), bar


@pytest.fixture
def done(write_job: WriteJob) -> Path:
    """A job that was run."""
    job = write_job("https://api.example.com")
    assert batchrun("run", job, "--simulate", "--quiet")[0] == 0
    return job


def test_a_job_file_stands_for_its_run(done: Path, tmp_path: Path) -> None:
    code, stdout, _ = batchrun("status", done)
    assert (code, stdout.splitlines()[0].partition(",")[0]) == (0, "finished")
    assert batchrun("report", done)[1].endswith("out.simulated/report.html\n")
    other = tmp_path / "other.toml"
    other.write_text(done.read_text().replace('dir = "out"', 'dir = "other"'))
    code, _, stderr = batchrun("status", other)
    assert code == 2
    assert f"{other}: this job has no run yet" in stderr
    assert batchrun("run", other, "--simulate", "--quiet")[0] == 0
    page = tmp_path / "page.html"
    code, stdout, stderr = batchrun("compare", done, other, "--html", page)
    assert (code, stderr) == (0, f"wrote {page}\n")
    code, _, stderr = batchrun("status", tmp_path)
    assert code == 2
    assert "has runs in it" in stderr
    assert "name one of them" in stderr


def test_the_rows_of_the_last_execution_are_exported(done: Path, tmp_path: Path) -> None:
    table, new = tmp_path / "rows.csv", tmp_path / "new.csv"
    table.write_text(table.read_text() + "new1,more\nnew2,more\n")
    assert batchrun("run", done, "--simulate", "--quiet")[0] == 0
    assert batchrun("export", done, "--last", "--to", new)[0] == 0
    assert pl.read_csv(new)["custom_id"].to_list() == ["new1", "new2"]
    assert batchrun("export", done, "--since", "2001-01-01", "--to", new)[0] == 0
    assert pl.read_csv(new).height == 22
    # As `status` and the output files write it.
    assert batchrun("export", done, "--since", "2101-01-01T00:00:00+00:00", "--to", new)[0] == 0
    assert pl.read_csv(new).height == 0
    code, _, stderr = batchrun("export", done, "--last")
    assert code == 2
    assert "--last and --since need --to FILE" in stderr


def test_a_killed_run_is_interrupted(write_job: WriteJob) -> None:
    def decide(call: Call) -> Reply:
        return answer(call, delay_s=0 if call.number < 5 else 3_600)

    with serving(decide) as provider:
        job = write_job(provider.url, extra="[limits]\nconcurrency = 2")
        arguments = [sys.executable, "-m", "batchrun", "run", str(job), "--quiet"]
        process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True)
        wait_until(lambda: len(provider.calls) >= 6)
        process.send_signal(signal.SIGKILL)
        finish(process)
        stdout = batchrun("status", job)[1]
    assert stdout.startswith("interrupted, last started ")
    assert "ended           its process ended without a message; run the same" in stdout


def test_a_file_in_the_place_of_a_run_directory_is_named(
    write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job("https://api.example.com")
    (tmp_path / "file").touch()
    code, _, stderr = batchrun("run", job, "--output-dir", tmp_path / "file")
    assert code == 2
    assert f"{tmp_path / 'file'} is a file; " in stderr


def test_what_is_unknown_comes_before_what_is_missing(tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(
        '[input]\npath = "x.csv"\n[request]\nmodle = "m"\nprompt = "p"\nmax_tokens = 9\n'
    )
    lines = batchrun("preview", job)[2].splitlines()
    assert "modle: unknown key" in lines[0]
    assert "model" in lines[1]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("batchrun run job.toml --set request.temp", "plain,request.temperature="),
        ("batchrun run job.toml --set request.model=gpt-4o-min", "plain,request.model=gpt-4o-mini"),
        ("batchrun run job.toml --set max_to", "plain,max_tokens="),
        ("batchrun run job.toml --set max_at", "plain,max_attempts="),
        ("batchrun run job.toml --set model=gpt-4o-min", "plain,model=gpt-4o-mini"),
        ("batchrun run job.toml --model gpt-4o-min", "plain,gpt-4o-mini"),
        ("batchrun status jo", "plain,job.toml"),
    ],
)
def test_keys_models_and_jobs_are_completed(done: Path, words: str, found: str) -> None:
    asked = {"_BATCHRUN_COMPLETE": "bash_complete", "COMP_WORDS": words}
    count = {"COMP_CWORD": str(len(words.split()) - 1)}
    command = [sys.executable, "-c", "from batchrun.cli import cli; cli(prog_name='batchrun')"]
    shown = subprocess.run(
        command,
        cwd=done.parent,
        env={**environment(), **asked, **count},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert found in shown.stdout.splitlines()
