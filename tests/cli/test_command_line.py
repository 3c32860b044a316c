"""The command line explains itself: help, completion, colours, names that are nearly right."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from batchrun.cli import cli
from tests.conftest import DEADLINE_S, ROOT, batchrun, command, environment, finish
from tests.support.provider import serving

WriteJob = Callable[..., Path]
RED = "\x1b[31m"


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_with_an_example(name: str) -> None:
    code, stdout, _ = command(name, "--help")
    assert code == 0
    _, _, after = stdout.partition("Examples:\n")
    examples = [line.strip() for line in after.split("\n\n")[0].splitlines()]
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert words[:2] == ["batchrun", name], example
        # Its options exist, and their values are right.
        with cli.commands[name].make_context(name, _existing(words[2:]), resilient_parsing=False):
            pass


def _existing(words: list[str]) -> list[str]:
    """The example's arguments, with files and folders that are there."""
    return [
        __file__
        if word.endswith((".toml", ".csv", ".parquet")) and "=" not in word
        else str(Path(__file__).parent)
        if word.startswith("runs/") or word == "runs"
        else word
        for word in words
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("triage.toml", "tickets.csv", "tickets.jsonl.gz", "notes.txt", ".hidden.toml"):
        (tmp_path / name).touch()
    for name in ("runs/one", "runs/two", "runs/empty", "tables"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / "runs" / name / "checkpoint.db").touch()
    return tmp_path


def completed(folder: Path, line: str) -> list[str]:
    _, *words, incomplete = line.split(" ")
    shell = BashComplete(cli, {}, "batchrun", "_BATCHRUN_COMPLETE")
    with contextlib.chdir(folder):
        return [shell.format_completion(c) for c in shell.get_completions(words, incomplete)]


def test_what_is_completed(folder: Path) -> None:
    assert completed(folder, "batchrun pre") == ["plain,preview"]
    jobs = ["plain,tables/", "plain,tickets.csv", "plain,tickets.jsonl.gz", "plain,triage.toml"]
    assert completed(folder, "batchrun run t") == jobs
    assert completed(folder, "batchrun init t") == jobs[:-1]
    assert completed(folder, "batchrun status runs/") == ["plain,runs/one", "plain,runs/two"]
    assert completed(folder, "batchrun compare runs/one runs/t") == ["plain,runs/two"]
    assert completed(folder, "batchrun run --simu") == ["plain,--simulate"]
    # The shell finds its own way to folders.
    assert completed(folder, "batchrun status ru") == ["file,ru"]
    assert completed(folder, "batchrun run nowhere/x") == ["file,nowhere/x"]


def test_bash_completes(folder: Path) -> None:
    script = f"""
        batchrun() {{ {shlex.quote(sys.executable)} -m batchrun "$@"; }}
        export -f batchrun
        eval "$(_BATCHRUN_COMPLETE=bash_source batchrun)"
        COMP_WORDS=(batchrun run tr) COMP_CWORD=2
        _batchrun_completion {shlex.quote(str(folder / "batchrun"))}
        echo "${{COMPREPLY[@]}}"
    """
    (folder / "batchrun").write_text(f'#!/bin/sh\nexec {sys.executable} -m batchrun "$@"\n')
    (folder / "batchrun").chmod(0o755)
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    code, stdout, stderr = finish(process)
    assert (code, stdout) == (0, "triage.toml\n"), stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    code, stdout, _ = batchrun(env=environment(_BATCHRUN_COMPLETE=f"{shell}_source"))
    assert code == 0
    assert "_BATCHRUN_COMPLETE" in stdout


@pytest.mark.parametrize(
    ("variables", "is_red"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": ""}, True),
    ],
)
def test_colours_where_there_is_no_terminal(variables: dict[str, str], *, is_red: bool) -> None:
    code, _, stderr = command("status", ROOT / "tests", env=environment(**variables))
    assert code == 5
    assert (RED in stderr) == is_red


@pytest.mark.parametrize(
    ("variables", "is_red"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_a_terminal(variables: dict[str, str], *, is_red: bool) -> None:
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "batchrun", "status", "tests"],
        env=environment(**variables),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    while chunk := _read(master):
        shown += chunk
    os.close(master)
    assert process.wait(DEADLINE_S) == 5
    assert (RED.encode() in shown) == is_red
    if variables["TERM"] == "dumb":
        assert b"\x1b" not in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # the other end has been closed
        return b""


def test_a_dumb_terminal_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from batchrun.run.progress import Progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for term, has_bar in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", term)
        with Progress("triage", 10):
            pass
        assert ("\r" in capsys.readouterr().err) == has_bar


# Names that are nearly right


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("rnu",), "Did you mean 'run'?"),
        (("run", "{job}", "--simmulate"), "Did you mean '--simulate'?"),
        (("run", "{job}", "--set", "request.temperatur=1"), 'did you mean "temperature"?'),
        (("run", "{job}", "--set", "requst.model=m"), "there is no section [requst] (did you mean"),
        (("run", "{job}", "--set", "input.id=idd"), 'did you mean "id"?'),
        (("run", "{job}", "--set", "prompt={{{{ txt }}}}"), 'did you mean "text"?'),
        (("run", "{job}", "--set", "format=mesages"), 'did you mean "messages"?'),
        (
            ("run", "{job}", "--set", "max_cost_usd=1", "--model", "claud-haiku-4-5"),
            'did you mean "claude-haiku-4-5"?',
        ),
    ],
)
def test_what_was_meant(write_job: WriteJob, arguments: tuple[str, ...], hint: str) -> None:
    job = write_job("http://127.0.0.1:9")
    code, _, stderr = command(*(word.format(job=job) for word in arguments))
    assert code == 2
    assert hint in stderr


@pytest.mark.parametrize(
    ("owner", "model", "near"),
    [
        ("anthropic", "claud-haiku-4-5", "claude-haiku-4-5"),
        ("openai", "gpt-4o-mni", "gpt-4o-mini"),
        ("anthropic", "our-own-model", None),
        ("anthropic", "claude-haiku-4-5-20251001", None),
        (None, "claud-haiku-4-5", None),  # a server on this machine has names of its own
    ],
)
def test_an_unknown_model_gives_a_hint_and_no_error(
    write_job: WriteJob, owner: str | None, model: str, near: str | None
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=2, provider=owner)
        for name in ("preview", "run"):
            code, _, stderr = command(name, job, "--model", model)
            assert code == 0
            assert ("did you mean" in stderr) == (near is not None)
            if near is not None:
                assert f'the price list has no {model} (did you mean "{near}"?)' in stderr


def test_a_provider_that_the_list_calls_otherwise_gives_a_hint(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=2, provider="bedrock")
        code, _, stderr = command("run", job)
    assert code == 0
    assert '[request] provider: the price list has no bedrock (did you mean "aws"?)' in stderr


def test_a_price_of_the_job_needs_no_hint(write_job: WriteJob) -> None:
    job = write_job("http://127.0.0.1:9", extra="[price]\ninput = 1\noutput = 1")
    assert "did you mean" not in command("preview", job, "--model", "gpt-4o-mni")[2]


def test_the_completion_of_a_process(folder: Path) -> None:
    env = environment(
        _BATCHRUN_COMPLETE="zsh_complete", COMP_WORDS="batchrun run tr", COMP_CWORD="2"
    )
    code, stdout, _ = batchrun(cwd=folder, env=env)
    assert (code, stdout.split()) == (0, ["plain", "triage.toml", "_"])


def test_help_loads_no_library_that_it_does_not_need() -> None:
    code = "import sys, batchrun.cli; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.startswith("batchrun.") and ".cli" not in name}
    assert ours == {"batchrun.errors"}
    assert not loaded & {"anyio", "httpx", "jinja2", "orjson", "polars", "sqlite_utils"}
