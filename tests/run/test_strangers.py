"""Job files of strangers: what they can have read, and where they can have it sent."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import polars as pl
import pytest

from batchrun.errors import JobError
from batchrun.job import Job
from batchrun.render import Renderer
from tests.conftest import ROOT, command
from tests.support.provider import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write_job(folder: Path, request: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.toml"
    prompt = "" if "prompt_file" in request else 'prompt = "p"\n'
    path.write_text(
        f'[input]\npath = "rows.csv"\n[request]\nmodel = "m"\nmax_tokens = 9\n{prompt}{request}\n'
    )
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret" / "id_rsa"
    path.parent.mkdir()
    path.write_text("the private key")
    return path


@pytest.mark.parametrize("key", ["prompt_file", "system_file", "image_dir", "document_dir"])
@pytest.mark.parametrize("way", ["absolute", "up", "home", "link"])
def test_what_is_sent_comes_from_the_job_s_own_project(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, key: str, way: str
) -> None:
    monkeypatch.setenv("HOME", str(secret.parent))
    given = {
        "absolute": str(secret),
        "up": "texts/../../../secret/id_rsa",
        "home": "~/id_rsa",
        "link": "link",
    }[way]
    path = write_job(tmp_path / "project" / "mine", f'{key} = "{given}"')
    (path.parent / "link").symlink_to(secret)
    with pytest.raises(JobError) as caught:
        Job.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: [request] {key}: '{given}' is outside of {path.parent}")
    assert message.endswith(f"or allow it with --set request.{key}=…")
    assert "private" not in message


def test_a_job_in_a_jobs_folder_may_use_what_is_beside_it(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "project" / "prompts").mkdir(parents=True)
    (tmp_path / "project" / "prompts" / "p.md").write_text("Say {{ a }}")
    path = write_job(tmp_path / "project" / "jobs", 'prompt_file = "../prompts/p.md"')
    assert Job.load(path).request.turns == (("user", "Say {{ a }}"),)
    path = write_job(tmp_path / "project" / "jobs", f'prompt_file = "{secret}"')
    with pytest.raises(JobError, match=r"is outside of .*project; for security, a job file"):
        Job.load(path)


def test_the_command_line_can_allow_a_file(tmp_path: Path, secret: Path) -> None:
    path = write_job(tmp_path / "project", f'system_file = "{secret}"')
    for key in ("system_file", "request.system_file"):
        job = Job.load(path, {key: str(secret)})
        assert job.request.system == (("the private key", {}),)
    job = Job.load(path, {"request.system_file": str(secret), "request.image_dir": "/"})
    assert str(job.request.image_dir) == "/"
    # What the user allowed stays allowed for what reads the job of a run directory again.
    assert Job.from_document(job.document, job.base).request == job.request


def test_a_folder_of_images_may_begin_with_the_home_of_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_job(tmp_path / "project", 'image_dir = "~/project/pictures"')
    assert Job.load(path).request.image_dir == tmp_path / "project" / "pictures"


def test_no_other_variable_of_the_environment_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_SECRET", "canary")
    path = write_job(tmp_path, 'system = "$OTHER_SECRET ${OTHER_SECRET} %OTHER_SECRET%"')
    assert Job.load(path).request.system == (("$OTHER_SECRET ${OTHER_SECRET} %OTHER_SECRET%", {}),)
    for template in ("{{ environ }}", "{{ os.environ }}", "{{ env.OTHER_SECRET }}"):
        with pytest.raises(JobError, match="the input has no column"):
            Renderer(Job.load(path, {"prompt": template}), ["a"])


TOOLS = """
import pathlib
with (pathlib.Path(__file__).parent / "imported").open("a") as log:
    log.write("tools\\n")
def look(): return "seen"
"""
SCORES = TOOLS.replace("tools", "scores").replace("def look():", "def score(row, answer):")


@pytest.fixture
def stranger(write_job: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """Write a job that names two Python files, which note that they are imported."""

    def write(base_url: str) -> Path:
        (tmp_path / "my_tools.py").write_text(TOOLS)
        (tmp_path / "my_scores.py").write_text(SCORES.replace('"seen"', "float(row['id'][1:])"))
        return write_job(
            base_url,
            rows=4,
            request='tools = [{name = "look", input_schema = {type = "object"}}]',
            extra='[tools]\nmodule = "my_tools.py"\n[score]\nfunction = "my_scores.py:score"\n',
        )

    return write


@pytest.fixture
def imported(tmp_path: Path) -> Callable[[], list[str]]:
    """Return which Python files of the job have been imported since this was asked last."""

    def look() -> list[str]:
        log = tmp_path / "imported"
        found = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    return look


def test_python_files_of_a_job_are_imported_only_where_they_are_needed(
    stranger: Callable[[str], Path], imported: Callable[[], list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with serving() as provider:
        job = stranger(provider.url)
        for name in ("preview", "estimate"):
            assert command(name, job)[0] == 0
            assert imported() == []
        assert command("estimate", job, "--sample", "2", "--yes")[0] == 0
        assert imported() == ["tools"]
        assert command("run", job)[0] == 0
        assert sorted(imported()) == ["scores", "tools"]
    written = pl.read_parquet(out / "results.parquet")
    assert written["score"].to_list() == [0, 1, 2, 3]
    looks: list[list[str | Path]] = [
        ["status", out],
        ["status", out, "--json"],
        ["export", out],
        ["export", out, "--to", tmp_path / "copy.parquet"],
        ["report", out],
        ["verify", out],
        ["compare", out, shutil.copytree(out, tmp_path / "other")],
        ["preview", job],
        ["estimate", job],
    ]
    for arguments in looks:
        code, stdout, stderr = command(*arguments)
        assert (arguments, code, imported()) == (arguments, 0, []), stderr
        if arguments[0] == "verify":
            assert "scores: verify does not run the [score] function" in stdout
    assert pl.read_parquet(out / "results.parquet").equals(written)
    assert pl.read_parquet(tmp_path / "copy.parquet").equals(written)
    assert command("score", out)[0] == 0
    assert imported() == ["scores"]


def test_an_export_runs_the_function_over_answers_that_it_has_not_scored(
    stranger: Callable[[str], Path], imported: Callable[[], list[str]], tmp_path: Path
) -> None:
    """Such as after `estimate --sample`, a kill before the outputs, or an edited `[score]`."""
    out, copy = tmp_path / "out", tmp_path / "copy.parquet"
    with serving() as provider:
        job = stranger(provider.url)
        assert command("run", job)[0] == 0
        assert command("estimate", job, "--sample", "2", "--yes")[0] == 0
        imported()
        assert command("export", out, "--to", copy)[0] == 0
        assert imported() == ["scores"], "an execution may have changed the answers"
        assert command("score", out)[0] == 0
        imported()
        assert command("export", out, "--to", copy)[0] == 0
        assert imported() == []
        text = job.read_text().replace('my_scores.py:score"', 'my_scores.py:other"')
        job.write_text(text)
        (tmp_path / "my_scores.py").write_text(
            SCORES.replace("score(", "other(").replace('"seen"', "5")
        )
        assert command("score", out, "--job", job)[0] == 0
    assert pl.read_parquet(out / "results.parquet")["score"].to_list() == [5] * 4
    assert command("report", out)[0] == 0
    assert imported() == ["scores"]


@pytest.mark.parametrize("name", ["run", "score", "export", "report", "verify", "preview"])
def test_help_says_which_code_runs(name: str) -> None:
    said = " ".join(command(name, "--help")[1].split())
    assert "[score] function" in said or "Runs no Python file" in said or "runs no Python" in said


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/job.md"])
def test_what_is_said_of_one_python_file_is_said_of_the_other(page: str) -> None:
    """Wherever a page warns of `[tools] module`, it warns of `[score] function`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "permissions" in text
    for paragraph in text.split("\n\n"):
        if "permissions" in paragraph and "[tools] module" in paragraph:
            assert "[score] function" in paragraph
