"""docs/nightly.md is true: its commands run, its script acts on every code, its units hold together."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest

from batchrun.cli import cli
from batchrun.run.run_options import GRACE_S
from tests.conftest import CONSOLE, ROOT, batchrun, command, environment
from tests.support.provider import answer, serving

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "nightly.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("jobs", "sample_data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def test_its_commands_run(project: Path) -> None:
    lines = [line.removeprefix("$ ") for b in CONSOLE.findall(PAGE) for line in b.splitlines()]
    for line in lines:
        words = shlex.split(line)
        if words[0] == "batchrun":
            code, _, stderr = command(*words[1:], cwd=project)
            assert code == 0, f"{line}\n{stderr}"
            if "language = 'fr'" in line:
                found = pl.read_csv(project / "runs/nightly.simulated/results.csv")
                assert set(found["language"]) == {"fr"}
        else:
            subprocess.run(words, cwd=project, check=True, capture_output=True)
    assert len(lines) == 8
    events = [json.loads(line) for line in (project / "nightly.jsonl").read_text().splitlines()]
    assert [e["exit_code"] for e in events if e["event"] == "end"] == [0, 0]
    assert "nothing to send" in str(events)
    assert (project / "runs" / "2026-11-20.simulated").is_dir()


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 129, 130, 143])
def test_the_script_acts_on_every_exit_code(tmp_path: Path, code: int) -> None:
    script = tmp_path / "nightly.sh"
    script.write_text(blocks("sh")[0])
    fake = tmp_path / "bin" / "batchrun"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" > arguments\nexit {code}\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["sh", str(script)],
        env={"PATH": f"{fake.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == (0 if code > 128 else code)
    assert bool(done.stdout) == (0 < code < 128), "cron mails what somebody has to read"
    words = shlex.split((tmp_path / "arguments").read_text())
    with cli.commands["run"].make_context("run", [str(ROOT / words[1]), *words[2:]]):
        pass


def test_the_script_runs_the_real_command(project: Path) -> None:
    script = project / "nightly.sh"
    # Python's own folder stands in for the PATH that the crontab sets.
    (project / "bin").mkdir()
    (project / "bin" / "batchrun").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m batchrun "$@"\n'
    )
    (project / "bin" / "batchrun").chmod(0o755)
    with serving(answer) as provider:
        extra = f"--base-url {provider.url} --set provider=anthropic --set api_key_env=TEST_KEY --set limit=5"
        script.write_text(blocks("sh")[0].replace("--quiet", f"--quiet {extra}"))
        env = environment(PATH=f"{project / 'bin'}:/usr/bin:/bin")
        done = subprocess.run(["sh", str(script)], env=env, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert len(provider.calls) == 5
    assert (project / "runs" / "nightly" / "results.parquet").exists()


def unit(number: int) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(blocks("ini")[number])
    return parser


def test_the_service_and_its_timer() -> None:
    service, timer = unit(0), unit(1)
    words = shlex.split(service["Service"]["ExecStart"])
    assert words[0].endswith("/batchrun")
    with cli.commands["run"].make_context("run", [str(ROOT / words[2]), *words[3:]]):
        pass
    # Some rows errored; interrupted by HUP, INT or TERM: the next night goes on from there.
    assert service["Service"]["SuccessExitStatus"] == "3 129 130 143"
    assert set(service["Service"]["RestartPreventExitStatus"].split()) == {"2", "4", "5"}
    assert float(service["Service"]["TimeoutStopSec"]) > GRACE_S
    assert f"up to {GRACE_S:g} s" in PAGE
    assert timer["Timer"]["Persistent"] == "true"
    if (analyze := shutil.which("systemd-analyze")) is not None:
        done = subprocess.run(
            [analyze, "calendar", timer["Timer"]["OnCalendar"]], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_nothing_in_it_agrees_to_lose_paid_answers() -> None:
    commands = [*blocks("sh"), *blocks("ini")]
    words = {word for text in commands for line in text.splitlines() for word in line.split()}
    assert not words & {"--yes", "-y", "--new", "--retry-errored"}


def test_a_second_run_ends_at_once(project: Path) -> None:
    """Why flock is not needed."""
    from batchrun.checkpoint import DirectoryLock

    (project / "runs" / "nightly.simulated").mkdir(parents=True)
    with DirectoryLock(project / "runs" / "nightly.simulated"):
        # Another process, as the lock is one of processes.
        code, _, stderr = batchrun("run", "jobs/nightly.toml", "--simulate", cwd=project)
    assert code == 5
    assert "another batchrun process is working on this run" in stderr


def test_the_table_of_dates() -> None:
    from batchrun.job.overrides import NAMES, with_dates

    day = datetime(2026, 11, 21, tzinfo=UTC).date()
    table = PAGE[PAGE.index("on Saturday") :]
    for name in NAMES:
        assert f"{{{{ {name} }}}}" in table
        assert f"`{with_dates(f'{{{{ {name} }}}}', day)}`" in table
    assert f"{day:%A}" == "Saturday"


def test_the_table_of_events_and_exit_codes(project: Path) -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    modules = sorted((ROOT / "batchrun" / "run").glob("*.py"))
    source = "".join(path.read_text(encoding="utf-8") for path in modules)
    written = set(re.findall(r"write\(\s*\"(\w+)\"", source))
    assert named == written
    commands = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    codes = re.compile(r"^\| ([\d, ]+) \|", re.MULTILINE)
    script = PAGE.split("\n## ")
    in_page = {code for part in script for code in codes.findall(part)} - {"0, 3"}
    assert in_page == {*codes.findall(commands)}
