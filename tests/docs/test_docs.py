"""The documentation is true: its commands run, its job files load, its tables name what exists."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from batchrun import job
from batchrun.cli import cli
from batchrun.run.scoring import Evaluation
from tests.conftest import CONSOLE, ROOT, command, environment, finish, start_batchrun
from tests.support.provider import serving

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def console_commands(text: str) -> list[str]:
    return [
        line.removeprefix("$ ") for block in CONSOLE.findall(text) for line in block.splitlines()
    ]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the README's commands work on, and a prompts.csv as it describes."""
    for name in ("jobs", "sample_data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "prompts.csv").write_text("prompt,system\nHello,\nBye,Be brief\n")
    return tmp_path


def test_every_readme_command_runs(project: Path) -> None:
    env = environment(ANTHROPIC_API_KEY="sk-a", OPENAI_API_KEY="sk-o")
    ran = []
    with serving() as provider:
        for line in console_commands(README):
            words = shlex.split(line)
            if words[0] != "batchrun":
                continue
            if words[1] == "run" and "--simulate" not in words:
                words += ["--base-url", provider.url, "--set", "provider=anthropic"]
            code, _, stderr = command(*words[1:], cwd=project, env=env)
            assert code == 0, f"{line}\n{stderr}"
            ran.append(line)
    assert len(ran) == 9
    assert len(provider.calls) == 343 + 2
    assert (project / "tickets.jsonl").exists()


def test_who_has_only_rehearsed_learns_where_that_run_is(project: Path) -> None:
    assert (
        command("run", "jobs/ticket_triage.toml", "--simulate", "--limit", "2", cwd=project)[0] == 0
    )
    for words in (["status"], ["report"], ["export"], ["verify"], ["recost"]):
        code, _, stderr = command(*words, "runs/ticket_triage", cwd=project)
        assert code == 2
        assert "only a simulated one: runs/ticket_triage.simulated" in stderr


def test_a_bare_table_says_what_it_needs(project: Path) -> None:
    bare = ("run", "prompts.csv", "--simulate")
    code, _, stderr = command(*bare, cwd=project)
    assert (code, "--model" in stderr) == (2, True)
    code, _, stderr = command(*bare, "--model", "claude-haiku-4-5-20251001", cwd=project)
    assert (code, "--set max_tokens=1000" in stderr) == (2, True)
    model = ("--model", "claude-haiku-4-5-20251001")
    assert command(*bare, *model, "--set", "max_tokens=1000", cwd=project)[0] == 0
    assert command(*bare, *model, "--format", "chat", "--new", cwd=project)[0] == 0


def test_every_command_about_evaluating_runs(project: Path) -> None:
    page = (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")
    commands = [line.removeprefix("$ ") for b in CONSOLE.findall(page) for line in b.splitlines()]
    for line in commands:
        code, _, stderr = command(*shlex.split(line)[1:], cwd=project)
        assert code == 0, f"{line}\n{stderr}"
    assert len(commands) == 22
    changed = json.loads((project / "runs/ticket_examples.simulated/summary.json").read_text())
    assert changed["score"]["by"]["language"]["de"]["scored"] > 10
    assert "scored by match" in (project / "runs/leaderboard.html").read_text()
    judged = pl.read_parquet(project / "runs/judged_tickets.simulated/results.parquet")
    assert judged["predicted"].is_in(["good", "usable", "bad"]).all()
    asked = pl.read_parquet(project / "runs/samples.simulated/results.parquet")
    assert max(len(set(texts)) for texts in asked["responses"]) > 1


def test_the_settings_on_the_page_about_evaluating_load(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_scores.py").write_text(code)
    for section in re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        request = '[input]\npath = "x.csv"\n[request]\nmodel = "m"\nprompt = "p"\nmax_tokens = 9\n'
        path = tmp_path / "job.toml"
        path.write_text(request + section, encoding="utf-8")
        configs = job.Job.load(path).scores
        assert configs
        Evaluation(configs, ("label", "answer"))  # raises when something is wrong


def test_the_simulator_serves_as_documented(tmp_path: Path) -> None:
    (line,) = [c for c in console_commands(COMMANDS) if c.startswith("batchrun simulate")]
    words = shlex.split(line)
    words[words.index("8123")] = "0"  # any free port: 8123 may be taken here
    process = start_batchrun(*words[1:], cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.terminate()
    assert finish(process)[0] == 0


def test_the_readme_job_file_loads(tmp_path: Path) -> None:
    parts = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    path = tmp_path / "tickets.toml"
    path.write_text("\n".join(parts), encoding="utf-8")
    loaded = job.Job.load(path)
    assert loaded.request.format == "messages"
    assert loaded.output.dir == tmp_path / "runs" / "tickets"
    (score,) = loaded.scores
    assert score.match == "choice"


def test_make_demo_shows_the_results(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    shutil.copy(ROOT / "Makefile", tmp_path)
    # The virtual environment that runs the tests stands in for the one that make would set up.
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "ready").touch()
    done = subprocess.run(
        ["make", "demo", f"BIN={Path(sys.executable).parent}", "READY=ready", "DEMO=ready"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "343 of 343 rows succeeded" in done.stderr
    assert "T-0001" in done.stdout


@pytest.mark.parametrize(
    "picture", sorted((ROOT / "docs" / "images").iterdir()), ids=lambda p: p.name
)
def test_pictures_are_small_and_shown(picture: Path) -> None:
    assert picture.stat().st_size < 150_000
    assert f"](docs/images/{picture.name})" in README


def test_every_command_is_in_the_table_of_commands() -> None:
    listed = re.findall(r"^\| `batchrun (\w+)\b", COMMANDS, re.MULTILINE)
    assert sorted(listed) == sorted(cli.commands)


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(document: Path) -> None:
    for text, base in ((README, ROOT), (document.read_text(encoding="utf-8"), document.parent)):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (base / target).exists(), target


# What other tests run: pages with commands that need more than the sample tables.
ELSEWHERE = {"batches.md", "evaluating.md", "nightly.md", "outputs.md"}
PAGES = sorted(
    path
    for path in (ROOT / "docs").glob("*.md")
    if path.name not in ELSEWHERE and CONSOLE.search(path.read_text(encoding="utf-8"))
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_every_page_runs(project: Path, page: Path) -> None:
    env = environment(ANTHROPIC_API_KEY="sk-a", OPENAI_API_KEY="sk-o")
    text = page.read_text(encoding="utf-8")
    with serving() as provider:
        for line in console_commands(text):
            words = shlex.split(line)
            if words[0] == "export" or words[1] == "simulate":
                continue
            if words[0] != "batchrun":
                assert words[0] == "python", line
                subprocess.run(
                    [sys.executable, *words[1:]], cwd=project, check=True, capture_output=True
                )
                continue
            if words[1] == "run" and "--simulate" not in words:
                words += ["--base-url", provider.url, "--set", "provider=anthropic"]
            code, _, stderr = command(*words[1:], cwd=project, env=env)
            assert code == 0, f"{line}\n{stderr}"


def test_the_tutorial_shows_what_init_writes(project: Path) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert command("init", "sample_data/tickets.csv", cwd=project)[0] == 0
    written = (project / "tickets.toml").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in shown.splitlines():
        assert line in written, line
    first = text[: text.index("## Use a real model")]
    assert len(CONSOLE.findall(first)) == 4, "four commands"


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (ROOT / "jobs").glob("*.toml")), ids=lambda name: name
)
def test_every_sample_job_runs(project: Path, name: str) -> None:
    arguments = ["--simulate", "--quiet", "--limit", "10"]
    code, _, stderr = command("run", f"jobs/{name}", *arguments, cwd=project)
    assert code == 0, stderr


def test_every_page_is_in_the_index() -> None:
    index = README[README.index("## Documentation") :]
    tutorial = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{path.name})" in index, path.name
        assert path.name == "tutorial.md" or f"({path.name})" in tutorial, path.name


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) < 150
    assert max(map(len, lines)) < 120


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    text = re.sub(
        r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_anchors_of_links_exist(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        linked = page.parent / target if target else page
        assert anchor in anchors(linked), f"{target}#{anchor}"


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / ".ci" / "run"]
    pages += (ROOT / ".github").rglob("*.yml")
    named = {
        target
        for page in pages
        for words in re.findall(
            r"(?:`|\$ |run: |^)make ((?:[a-z]+ ?)+)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        for target in words.split()
    }
    assert {"check", "test", "demo", "dist", "bench"} <= named <= targets
    phony = makefile.partition(".PHONY:")[2].partition("\n")[0].split()
    assert set(phony) == targets


def test_what_the_makefile_runs_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    modules = set(re.findall(r"-m ((?:benchmarks|tests)[.\w]*)", makefile))
    assert {"benchmarks.throughput", "tests.support.chaos"} <= modules
    for module in modules:
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    files = re.findall(r"\btests/[\w/]+\.py\b", makefile)
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []
