"""Job files of strangers: what they can have read, and where they can have it sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchrun.errors import JobError
from batchrun.job import Job
from batchrun.render import Renderer

if TYPE_CHECKING:
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


@pytest.mark.parametrize("key", ["prompt_file", "system_file", "image_dir"])
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
    assert message.endswith(f"or allow it yourself: --set request.{key}=…")
    assert "private" not in message


def test_a_job_in_a_jobs_folder_may_use_what_is_beside_it(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "project" / "prompts").mkdir(parents=True)
    (tmp_path / "project" / "prompts" / "p.md").write_text("Say {{ a }}")
    path = write_job(tmp_path / "project" / "jobs", 'prompt_file = "../prompts/p.md"')
    assert Job.load(path).request.turns == (("user", "Say {{ a }}"),)
    path = write_job(tmp_path / "project" / "jobs", f'prompt_file = "{secret}"')
    with pytest.raises(JobError, match=r"is outside of .*project; a job file"):
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
