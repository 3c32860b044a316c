"""Nothing that is written takes the place of a file of the user's, and nothing of theirs is moved.

Every case goes through the command line: exit code 2 before anything is sent, and afterwards every
file is there with every byte.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from typing import TYPE_CHECKING

import polars as pl
import pytest

import batchrun as library
from tests.conftest import KEY, command
from tests.support.provider import answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.provider import Call, Provider, Reply

ROWS = 4


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as server:
        yield server


class Project:
    """A folder of the user's: `jobs/job.toml` over a table beside it, and a note."""

    def __init__(self, place: Path, provider: Provider) -> None:
        self.place = place
        self.provider = provider
        self.job = place / "jobs" / "job.toml"
        self.job.parent.mkdir(parents=True)
        (place / "note.txt").write_text("mine")
        self.table("in.csv")
        self.write()

    def table(self, name: str) -> Path:
        frame = pl.DataFrame({"text": [f"text {n}" for n in range(ROWS)]})
        path = self.place / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith(".parquet"):
            frame.write_parquet(path)
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(frame.write_csv().encode()))
        else:
            frame.write_csv(path)
        return path

    def write(
        self,
        table: str = "../in.csv",
        output: str = 'dir = "../out"\nfiles = ["results.csv"]',
        request: str = "",
        more: str = "",
    ) -> None:
        self.job.write_text(f"""
[input]
path = "{table}"
[request]
format = "messages"
base_url = "{self.provider.url}"
api_key_env = "TEST_KEY"
model = "claude-haiku-4-5-20251001"
max_tokens = 9
{request or 'prompt = "Say {{ text }}"'}
[output]
{output}
{more}
""")

    def contents(self) -> dict[str, bytes]:
        """Every file of the user's, and everything that lies around them."""
        files = sorted(path for path in self.place.parent.rglob("*") if path.is_file())
        # SQLite's own, which whoever reads a checkpoint may leave beside it.
        files = [path for path in files if not path.name.endswith(("-shm", "-wal"))]
        return {str(path): path.read_bytes() for path in files}

    def refused(self, *arguments: str | Path, code: int = 2) -> str:
        """Run a command that has to be refused without a trace; return what it said."""
        before, sent = self.contents(), len(self.provider.calls)
        found, _, stderr = command(*arguments)
        assert found == code, stderr
        assert len(self.provider.calls) == sent, "nothing was sent"
        assert self.contents() == before
        return stderr

    def run(self, *options: str | Path) -> None:
        code, _, stderr = command("run", self.job, *options)
        assert code == 0, stderr


@pytest.fixture
def project(tmp_path: Path, provider: Provider) -> Project:
    return Project(tmp_path / "home" / "project", provider)


# The directory


@pytest.mark.parametrize("new", [[], ["--new"]])
@pytest.mark.parametrize(
    ("table", "output"),
    [
        ("../in.csv", 'dir = ".."\nfiles = ["in.csv"]'),
        ("results.parquet", 'dir = "."'),
        ("../in.csv", 'dir = "."'),
        ("../in.csv", 'dir = "../"'),
        ("../in.csv", 'dir = "../../project/jobs/.."'),
        ("../data/*.csv.gz", 'dir = "../data"'),
        ("../in.csv", 'dir = "../../.."'),
    ],
)
def test_a_folder_with_files_of_the_user_is_no_run_directory(
    project: Project, table: str, output: str, new: list[str]
) -> None:
    if table == "results.parquet":
        project.table("jobs/results.parquet")
    project.table("data/one.csv.gz")
    project.write(table, output)
    stderr = project.refused("run", project.job, *new)
    assert "[output] dir: " in stderr
    assert "--output-dir" in stderr or "name a directory of its own" in stderr


@pytest.mark.parametrize("simulate", [[], ["--simulate"]])
def test_the_root_is_no_run_directory(project: Project, simulate: list[str]) -> None:
    project.write(output='dir = "/"')
    # `estimate` writes nothing, should this ever be allowed again.
    stderr = project.refused("estimate", project.job, *simulate)
    assert "[output] dir: / cannot be a run directory" in stderr


def test_the_directory_of_a_matrix_is_looked_at_too(project: Project) -> None:
    more = '[matrix]\nmodel = ["one", "two"]'
    project.write(output='dir = ".."', more=more)
    assert "contains files that are not from a run" in project.refused("run", project.job)
    project.write(more=more)
    project.run()
    found = [path for path in (project.place / "out").iterdir() if path.is_dir()]
    assert len(found) == 2
    shutil.rmtree(found[0])
    found[0].mkdir()
    (found[0] / "thesis.txt").write_text("mine")
    stderr = project.refused("run", project.job)
    assert f"{found[0]} contains files that are not from a run (thesis.txt)" in stderr


def test_an_empty_directory_and_one_that_a_run_made_are_used(project: Project) -> None:
    out = project.place / "out"
    out.mkdir()
    project.run()
    for name in ("checkpoint.db", "usage.parquet"):
        (out / name).unlink()
    project.run()  # what it left is known without its checkpoint
    assert len(project.provider.calls) == 2 * ROWS
    project.run("--new")
    assert (project.place / "out.1" / "results.csv").is_file()


def test_a_run_of_an_earlier_version_in_the_users_folder_goes_on_and_is_not_moved(
    project: Project,
) -> None:
    project.run()
    for path in (project.place / "out").iterdir():
        path.rename(project.place / path.name)
    (project.place / "out").rmdir()
    project.write(output='dir = ".."\nfiles = ["results.csv"]')
    project.run()
    assert len(project.provider.calls) == ROWS
    stderr = project.refused("run", project.job, "--new")
    assert "would be moved, and with it" in stderr
    assert "[input] path" in stderr


def test_new_moves_only_what_a_run_made(project: Project) -> None:
    log = project.place / "out" / "log.jsonl"
    project.write(output='dir = "../out"\nfiles = ["results.csv", "results.jsonl"]')
    log_file: list[str | Path] = ["--log-file", log]
    for options in ([], log_file):
        project.run(*options)
    assert command("report", project.place / "out")[0] == 0
    for name in (".results.csv.partial", ".DS_Store"):  # of a killed run, and of a file manager
        (log.parent / name).touch()
    project.write(output='dir = "../out"\nfiles = ["results.parquet"]')
    (log.parent / "thesis.txt").write_text("mine")
    (log.parent / "figures").mkdir()
    (log.parent / "figures" / "one.svg").write_text("mine")
    stderr = project.refused("run", project.job, "--new")
    assert "--new: " in stderr
    assert "contains files that are not from a run (figures, thesis.txt)" in stderr
    assert "Move them to another place first, or name another directory with --output-dir" in stderr
    assert not (project.place / "out.1").exists()
    shutil.rmtree(log.parent / "figures")
    (log.parent / "thesis.txt").unlink()
    project.run("--new")
    moved = {path.name for path in (project.place / "out.1").iterdir()}
    assert {"checkpoint.db", "results.csv", "results.jsonl", "report.html", "log.jsonl"} < moved


@pytest.mark.parametrize("place", ["thesis.txt", "model=one/thesis.txt", "another run"])
def test_new_moves_only_what_the_runs_of_a_matrix_made(project: Project, place: str) -> None:
    project.write(more='[matrix]\nmodel = ["one", "two"]')
    project.run()
    out = project.place / "out"
    if place == "another run":
        shutil.copytree(out / "model=one", out / place)
    else:
        (out / place).write_text("mine")
    stderr = project.refused("run", project.job, "--new")
    assert f"contains files that are not from a run ({place})" in stderr
    shutil.rmtree(out / place, ignore_errors=True)
    (out / place).unlink(missing_ok=True)
    project.run("--new")
    assert (project.place / "out.1" / "model=two" / "results.csv").is_file()


@pytest.mark.parametrize(
    ("output", "made"),
    [
        ('dir = "."', "project/jobs/job.simulated"),
        ('dir = ".."', "project/job.simulated"),
        ('dir = "../.."', "job.simulated"),
        ('dir = "../out"', "project/out.simulated"),
        ('dir = "job"', "project/jobs/job.simulated"),
    ],
)
def test_a_rehearsal_writes_into_one_folder_of_its_own(
    project: Project, output: str, made: str
) -> None:
    home = project.place.parent
    before = set(home.rglob("*"))
    project.write(output=output)
    mine = project.contents()
    for _ in range(2):
        project.run("--simulate")
    new = [path.relative_to(home) for path in set(home.rglob("*")) - before]
    assert {str(path) for path in new if path.suffix == ".simulated"} == {made}
    assert all(path.is_relative_to(made) for path in new)
    assert {name: project.contents()[name] for name in mine} == mine
    assert set(home.parent.iterdir()) == {home}
    assert command("report", home / made)[0] == 0
    assert "simulated answers" in (home / made / "report.html").read_text()


def test_a_rehearsal_of_the_current_folder_stays_in_it(project: Project) -> None:
    empty = project.place / "empty"
    empty.mkdir()
    code, _, stderr = command("run", project.job, "--simulate", "--output-dir", ".", cwd=empty)
    assert code == 0, stderr
    assert [path.name for path in empty.iterdir()] == ["job.simulated"]
    assert command("run", project.job, "--output-dir", ".", cwd=empty)[0] == 0
    assert (empty / "results.csv").is_file()
    assert "(job.simulated)" in project.refused("run", project.job, "--new", "--output-dir", empty)


def test_new_leaves_what_another_program_calls_checkpoint_db(project: Project) -> None:
    out = project.place / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    (out / "checkpoint.db").write_text("of something else")
    stderr = project.refused("run", project.job, "--new", code=5)
    assert "is not the checkpoint of a run, so --new leaves" in stderr


# The files in it


@pytest.mark.parametrize("link", [os.link, os.symlink, shutil.copy])
def test_a_result_file_that_is_the_input_by_another_name(
    project: Project, link: Callable[[Path, Path], object]
) -> None:
    project.run()
    results = project.place / "out" / "results.csv"
    results.unlink()
    link(project.place / "in.csv", results)
    for arguments in (("run", project.job), ("export", project.place / "out")):
        stderr = project.refused(*arguments)
        assert "[output] files: " in stderr
        assert "results.csv" in stderr


def test_an_input_that_an_earlier_run_made(project: Project) -> None:
    project.run()
    shutil.copytree(project.place / "out", project.place / "first")
    project.write(
        "../first/results.csv",
        'dir = "../first"\nfiles = ["results.csv"]\nprefix = "second_"',
    )
    stderr = project.refused("run", project.job)
    assert "would overwrite" in stderr
    assert "([input] path)" in stderr


@pytest.mark.parametrize("key", ["prompt_file", "system_file"])
def test_a_text_that_the_job_names(project: Project, key: str) -> None:
    project.run()
    plain = 'prompt = "Say {{ text }}"\n' if key == "system_file" else ""
    project.write(request=f'{plain}{key} = "../out/summary.json"')
    stderr = project.refused(
        "run", project.job, "--yes", "--set", f"request.{key}=../out/summary.json"
    )
    assert "summary.json would overwrite" in stderr
    assert f"([request] {key})" in stderr


@pytest.mark.parametrize(
    ("request_keys", "more", "named"),
    [
        ('images = "{{ text }}"\nimage_dir = "../out/pictures"', "", "image_dir"),
        ("", '[score]\nfunction = "../out/marks.py:mark"', "function"),
        (
            'tools = [{ name = "look", input_schema = { type = "object" } }]',
            '[tools]\nmodule = "../out/my_tools.py"',
            "module",
        ),
    ],
)
def test_new_does_not_move_files_that_the_job_names(
    project: Project, request_keys: str, more: str, named: str
) -> None:
    project.run()
    out = project.place / "out"
    (out / "pictures").mkdir()
    (out / "marks.py").write_text("def mark(row, response):\n    return 1.0\n")
    (out / "my_tools.py").write_text("def look():\n    return 1\n")
    request = f'prompt = "Say {{{{ text }}}}"\n{request_keys}'
    project.write(request=request, more=more)
    allowed = ["--set", "request.image_dir=../out/pictures"] if named == "image_dir" else []
    stderr = project.refused("run", project.job, "--new", *allowed)
    assert "would be moved, and with it" in stderr
    assert named in stderr


def test_temporary_files_never_write_through_a_link(project: Project) -> None:
    project.run()
    table = project.place / "in.csv"
    before = table.read_bytes()
    partial = project.place / "out" / ".results.csv.partial"
    os.link(table, partial)
    assert "would overwrite" in project.refused("run", project.job)
    partial.unlink()
    note = project.place / "note.txt"
    os.link(note, partial)
    project.run()
    assert note.read_text() == "mine"
    assert table.read_bytes() == before


def test_outputs_are_for_their_owner_alone_in_a_directory_that_others_read(
    project: Project,
) -> None:
    out = project.place / "out"
    out.mkdir(mode=0o755)
    project.write(output='dir = "../out"\nfiles = ["results.csv", "a.parquet", "b.jsonl"]')
    project.run()
    for arguments in (
        ("report", out),
        ("export", out, "--to", project.place / "elsewhere.csv"),
    ):
        assert command(*arguments)[0] == 0
    made = [*out.iterdir(), project.place / "elsewhere.csv"]
    assert {oct(path.stat().st_mode & 0o777) for path in made} == {"0o600"}
    assert {"results.csv", "usage.parquet", "summary.json", "report.html", "checkpoint.db"} < {
        path.name for path in made
    }


# Files that are named on the command line


def test_export_replaces_its_own_files_alone(project: Project) -> None:
    project.run()
    out, place = project.place / "out", project.place
    os.link(place / "in.csv", place / "hard.csv")
    (place / "soft.csv").symlink_to("in.csv")
    project.table("other.csv")
    (place / "broken.parquet").write_text("PAR1")
    for name in ("in.csv", "hard.csv", "soft.csv", "other.csv", "broken.parquet"):
        stderr = project.refused("export", out, "--to", place / name)
        assert f"--to: {place / name}" in stderr
    assert "not a table of results" in project.refused("export", out, "--to", out / "usage.parquet")
    (place / ".new.csv.partial").write_text("mine")
    (place / "empty.csv").touch()
    for name in ("new.csv", "new.csv", "empty.csv", "new.jsonl", "new.jsonl", "out/results.csv"):
        assert command("export", out, "--to", place / name)[0] == 0
    assert pl.read_csv(place / "new.csv").height == ROWS
    assert (place / ".new.csv.partial").read_text() == "mine"
    assert sorted(path.name for path in place.glob(".*")) == [".new.csv.partial"]


@pytest.mark.parametrize(
    "name",
    [
        "in.csv",
        "hard.csv",
        "soft.csv",
        "jobs/job.toml",
        "note.txt",
        "out/checkpoint.db",
        "out/results.csv",
        "out/usage.parquet",
        "out/summary.json",
    ],
)
def test_the_log_is_appended_to_logs_alone(project: Project, name: str) -> None:
    project.run()
    os.link(project.place / "in.csv", project.place / "hard.csv")
    (project.place / "soft.csv").symlink_to("in.csv")
    stderr = project.refused("run", project.job, "--log-file", project.place / name)
    assert f"--log-file{':' if 'overwrite' in stderr else ''} {project.place / name}" in stderr
    assert "name another" in stderr


def test_a_log_that_is_the_input_is_not_appended_to(project: Project) -> None:
    log = project.place / "log.jsonl"
    project.run("--log-file", log)
    project.write("../log.jsonl", request='prompt = "Say {{ event }}"')
    stderr = project.refused("run", project.job, "--log-file", log, "--yes")
    assert "would overwrite" in stderr
    assert "([input] path)" in stderr


@pytest.mark.parametrize("is_there", [False, True])
def test_the_log_may_lie_in_the_run_directory(project: Project, *, is_there: bool) -> None:
    out = project.place / "out"
    out.mkdir()
    log = out / "log.jsonl"
    if is_there:
        shutil.copy(project.place / "in.csv", out)
        assert "contains files that are not from a run (in.csv)" in project.refused(
            "run", project.job, "--log-file", log
        )
        (out / "in.csv").unlink()
    for options in ([], [], ["--new"]):
        project.run("--log-file", log, *options)
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "end"


def test_pages_replace_pages_alone(project: Project) -> None:
    project.run()
    out, place = project.place / "out", project.place
    shutil.copytree(out, place / "second")
    runs = [out, place / "second"]
    for name in ("in.csv", "note.txt", "out/checkpoint.db", "out/results.csv", "jobs/job.toml"):
        stderr = project.refused("compare", *runs, "--html", place / name)
        assert f"--html: {place / name} exists and is not a page" in stderr
    for _ in range(2):
        assert command("compare", *runs, "--html", place / "page.html")[0] == 0
        assert command("report", out)[0] == 0
    assert oct((place / "page.html").stat().st_mode & 0o777) == "0o600"
    (out / "report.html").write_text("<h1>mine</h1>")
    assert "report.html exists and is not a page" in project.refused("report", out)


def test_init_writes_over_nothing(project: Project) -> None:
    table = project.place / "in.csv"
    (project.place / "gone.toml").symlink_to("nowhere")
    for name in ("jobs/job.toml", "gone.toml"):
        stderr = project.refused("init", table, "--output", project.place / name)
        assert "already exists" in stderr


def test_complete_writes_into_no_folder_of_the_users(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    project.table("input-mine.parquet")
    before = project.contents()
    frame = pl.DataFrame({"text": ["a", "b"]})
    with pytest.raises(library.JobError, match="contains files that are not from a run"):
        library.complete(
            frame,
            prompt="Say {{ text }}",
            model="m",
            directory=project.place,
            base_url=project.provider.url,
            api_key_env="TEST_KEY",
            quiet=True,
        )
    assert project.contents() == before
    assert project.provider.calls == []


def test_a_file_of_the_users_that_looks_like_an_input_of_ours_is_kept(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    folder = project.place / "kept"
    for _ in range(2):
        library.complete(
            pl.DataFrame({"text": ["a", "b"]}),
            prompt="Say {{ text }}",
            model="m",
            directory=folder,
            base_url=project.provider.url,
            api_key_env="TEST_KEY",
            quiet=True,
        )
        project.table("kept/input-mine.parquet")
    assert (folder / "input-mine.parquet").is_file()


def test_a_table_that_appears_while_the_run_goes_on_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "home" / "project"
    table, results = place / "in.csv", place / "out" / "results.csv"

    def putting(call: Call) -> Reply:
        shutil.copy(table, results)
        return answer(call)

    with serving(putting) as provider:
        project = Project(place, provider)
        code, _, stderr = command("run", project.job)
        assert code == 6, stderr
        assert "not a table of results" in stderr
        assert results.read_bytes() == table.read_bytes()
