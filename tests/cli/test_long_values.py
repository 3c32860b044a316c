"""Values of users in messages: however long they are, the message stays readable."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.conftest import command

if TYPE_CHECKING:
    from pathlib import Path

WriteJob = Callable[..., "Path"]
LONG = "x" * 3_000


def refusal(job: Path, *options: str) -> str:
    """Run a job that is refused, and return the message, which must be short."""
    code, _, stderr = command("run", job, "--simulate", "--quiet", *options)
    assert code == 2, stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(line) < 600, line[:600]
    return line


def test_a_long_id_that_occurs_twice(write_job: WriteJob, tmp_path: Path) -> None:
    job = write_job("http://127.0.0.1:9")
    pl.DataFrame({"id": [LONG, LONG], "text": ["a", "b"]}).write_csv(tmp_path / "rows.csv")
    assert "xxx… in the column" in refusal(job)


@pytest.mark.parametrize(
    "request_keys",
    [
        f"{LONG} = 1",
        f'extra_headers = {{ "{LONG}" = "a", "{LONG.upper()}" = "b" }}',
        f'tools = [{{ name = "{LONG}" }}]',
        f'json_schema = {{ type = "{LONG}" }}',
        f'system = "{{{{ text | {LONG} }}}}"',
        f'system = "{{{{ {LONG} }}}}"',
    ],
)
def test_a_long_value_of_the_request(write_job: WriteJob, request_keys: str) -> None:
    assert "…" in refusal(write_job("http://127.0.0.1:9", request=request_keys))


@pytest.mark.parametrize(
    "sections",
    [
        f"[{LONG}]\nkey = 1",
        f'[price."{LONG}"]\ninput = "x"\noutput = 1',
        f'[matrix]\n{LONG} = ["a", "b"]',
        f'[score]\nexpected = "a"\nanswer = "({LONG}"',
        f'[score]\nfunction = "{LONG}.py:f"',
        f'[score]\nfunction = "scores.py:{LONG}"',
    ],
)
def test_a_long_value_of_another_section(
    write_job: WriteJob, tmp_path: Path, sections: str
) -> None:
    (tmp_path / "scores.py").write_text("")
    assert "…" in refusal(write_job("http://127.0.0.1:9", extra=sections))


@pytest.mark.parametrize(
    "setting",
    [f"name={LONG}", f"output.dir={LONG}", f"model={LONG}", f"{LONG}=1", f"base_url=http://{LONG}"],
)
def test_a_long_value_of_the_command_line(write_job: WriteJob, setting: str) -> None:
    job = write_job("http://127.0.0.1:9", extra="[limits]\nmax_cost_usd = 1")
    assert "…" in refusal(job, "--set", setting)


def test_a_long_path_of_the_command_line() -> None:
    code, _, stderr = command("status", LONG)
    assert code == 2
    assert "too long" in stderr
    assert len(stderr) < 600


def test_a_long_name_of_a_variable(write_job: WriteJob) -> None:
    job = write_job("http://127.0.0.1:9")
    code, _, stderr = command("run", job, "--set", f"api_key_env={LONG}")
    assert code == 2
    assert "xxx… is not set" in stderr
    assert len(stderr) < 600
