"""A checkpoint opened by other programs: its views show what the outputs show."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import polars as pl
import pytest
from click.testing import CliRunner

from batchrun.checkpoint import DirectoryLock
from tests.conftest import ROOT, command
from tests.support.checkpoints import later_version
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    WriteJob = Callable[..., Path]


def troubled(call: Call) -> Reply:
    """Row 3 fails once, row 5 for good."""
    if call.prompt == "Say text 3" and not call.seen:
        return refusal(500, "api_error", retry_after="0")
    if call.prompt == "Say text 5":
        return refusal(400, "invalid_request_error", "not this")
    return answer(call, f"to {call.prompt}")


@pytest.fixture
def run(write_job: WriteJob, tmp_path: Path) -> Path:
    """The directory of a run with a retried, an errored and an unrenderable row, and scores."""
    with serving(troubled) as provider:
        job = write_job(
            provider.url,
            rows=8,
            extra="[score]\nexpected = 'to Say {{ text }}'",
        )
        prompt = "{% if text == 'text 6' %}{{ text[99] }}{% endif %}Say {{ text }}"
        assert command("run", job, "--set", f"prompt={prompt}")[0] == 3
    return tmp_path / "out"


def table(path: Path, query: str) -> pl.DataFrame:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        cursor = db.execute(query)
        names = [column[0] for column in cursor.description]
        return pl.DataFrame(cursor.fetchall(), schema=names, orient="row", infer_schema_length=None)


def test_results_are_those_of_the_outputs(run: Path) -> None:
    outputs = pl.read_parquet(run / "results.parquet").drop("responses")
    found = table(run / "checkpoint.db", 'SELECT * FROM result_rows ORDER BY "row"')
    assert found["row"].to_list() == list(range(1, 9))
    assert set(outputs.columns) - {"id", "text"} <= set(found.columns)
    # The view counts an attempt where there was none to count, and reads the same otherwise.
    names = [name for name in outputs.columns if name not in {"id", "text", "finished_at"}]
    assert found.select(names).to_dicts() == outputs.select(names).to_dicts()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["finished_at"][0])
    shown = outputs["finished_at"][0].strftime("%Y-%m-%dT%H:%M:%S")
    assert found["finished_at"][0].startswith(shown)


def test_attempts_are_those_of_the_usage_table(run: Path) -> None:
    usage = pl.read_parquet(run / "usage.parquet")
    found = table(run / "checkpoint.db", "SELECT * FROM attempt_rows ORDER BY custom_id, attempt")
    names = [name for name in usage.columns if name not in {"started_at", "maybe_billed"}]
    assert (
        found.select(names).to_dicts()
        == usage.sort("custom_id", "attempt").select(names).to_dicts()
    )
    assert found["started_at"].str.ends_with("Z").all()


def test_errors_are_the_rows_without_an_answer(run: Path) -> None:
    found = table(run / "checkpoint.db", 'SELECT * FROM errors ORDER BY "row"').to_dicts()
    assert [row["custom_id"] for row in found] == ["r00005", "r00006"]
    assert found[0]["error_type"] == "invalid_request_error"
    assert (found[0]["http_status"], found[0]["attempts"], found[0]["tried_again"]) == (400, 1, 0)
    assert (found[1]["error_type"], found[1]["attempts"]) == ("template_error", 0)


def test_samples_and_shared_answers(write_job: WriteJob, tmp_path: Path) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=2)
        assert command("run", job, "--set", "samples=3")[0] == 0
        found = table(tmp_path / "out" / "checkpoint.db", "SELECT * FROM result_rows ORDER BY 1, 2")
        assert found.select("row", "sample").rows() == [(r, s) for r in (1, 2) for s in (1, 2, 3)]
        assert found["cost_usd"].sum() == pytest.approx(6 * 46e-6)
        out = ("--output-dir", tmp_path / "shared")
        assert (
            command("run", job, *out, "--set", "dedupe=true", "--set", "prompt=Same{{ text[:0] }}")[
                0
            ]
            == 0
        )
    found = table(tmp_path / "shared" / "checkpoint.db", "SELECT * FROM result_rows ORDER BY 1")
    assert found["response"].to_list() == ["ok", "ok"]
    assert found["input_tokens"].to_list() == [11, 0]
    assert found["attempts"].to_list() == [1, 0]


def sqlite_utils(*arguments: str | Path) -> str:
    """Run the command of sqlite-utils; return what it prints."""
    from sqlite_utils.cli import cli

    done = CliRunner().invoke(cli, [str(word) for word in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_sqlite_utils_shows_them(run: Path) -> None:
    for view in ("result_rows", "attempt_rows", "errors"):
        rows = json.loads(sqlite_utils("rows", run / "checkpoint.db", view))
        assert "r00005" in {row["custom_id"] for row in rows}
    views = json.loads(sqlite_utils("views", run / "checkpoint.db"))
    assert {row["view"] for row in views} == {"result_rows", "attempt_rows", "errors"}


@pytest.fixture
def next_version(run: Path) -> Iterator[Path]:
    """The run's directory, looked at by a later version, whose checkpoints have one table more."""
    with later_version():
        yield run


@pytest.mark.parametrize("arguments", [("status",), ("export",)])
def test_a_checkpoint_of_an_earlier_version_is_brought_to_this_one(
    next_version: Path, arguments: tuple[str, ...]
) -> None:
    before = pl.read_parquet(next_version / "results.parquet")
    code, stdout, stderr = command(*arguments, next_version)
    assert code == 0, stderr
    assert table(next_version / "checkpoint.db", "SELECT * FROM next").height == 0
    assert table(next_version / "checkpoint.db", "SELECT * FROM result_rows").height == 8
    assert "6 of 8 rows succeeded" in stdout or "export" in arguments
    assert pl.read_parquet(next_version / "results.parquet").equals(before)


def test_a_run_goes_on_in_a_checkpoint_of_an_earlier_version(
    next_version: Path, tmp_path: Path
) -> None:
    with serving(answer) as provider:
        settings = (f"base_url={provider.url}", "prompt=Say {{ text }}")
        arguments = [word for setting in settings for word in ("--set", setting)]
        job = tmp_path / "job.toml"
        assert command("run", job, *arguments, "--yes", "--retry-errored")[0] == 0
    assert table(next_version / "checkpoint.db", "SELECT * FROM errors").height == 0
    assert table(next_version / "checkpoint.db", "SELECT * FROM next").height == 0


def test_columns_that_an_earlier_version_lacked_are_added(next_version: Path) -> None:
    before = pl.read_parquet(next_version / "results.parquet")
    assert before["server_tools"].null_count() == 8
    with closing(sqlite3.connect(next_version / "checkpoint.db")) as db, db:
        db.execute("DROP VIEW result_rows")
        db.execute("ALTER TABLE results DROP COLUMN server_tools")
        db.execute("ALTER TABLE attempts DROP COLUMN speed")
    assert command("export", next_version)[0] == 0
    assert pl.read_parquet(next_version / "results.parquet").equals(before)
    assert command("verify", next_version)[0] == 0
    shown = table(next_version / "checkpoint.db", "SELECT server_tools FROM result_rows")
    assert shown["server_tools"].null_count() == 8


def test_a_view_of_an_earlier_version_is_made_anew(run: Path) -> None:
    with closing(sqlite3.connect(run / "checkpoint.db")) as db, db:
        db.execute("DROP VIEW result_rows")
        db.execute("CREATE VIEW result_rows AS SELECT ordinal AS number FROM items")
    with serving(answer):
        assert command("score", run)[0] == 0
    assert "ending" in table(run / "checkpoint.db", "SELECT * FROM result_rows").columns


def test_one_that_an_earlier_version_works_on_is_left_alone(next_version: Path) -> None:
    content = (next_version / "checkpoint.db").read_bytes()
    with DirectoryLock(next_version):
        code, _, stderr = command("status", next_version)
    assert code == 5
    assert "an earlier version of batchrun is working on this run" in stderr
    assert (next_version / "checkpoint.db").read_bytes() == content


def test_the_page_names_every_column() -> None:
    page = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    from batchrun.checkpoint.schema import VIEWS

    for view in VIEWS.values():
        for name in re.findall(r"(?:AS |\b[ars]\.)\"?([a-z_]+)\"?,?\n", view):
            assert f"`{name}`" in page, name


def test_the_page_names_every_column_of_the_outputs() -> None:
    from batchrun.checkpoint.columns import ATTEMPT_KINDS, RESULTS
    from batchrun.evaluation import score_columns

    page = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    results, usage = (
        re.findall(r"^\| (.*?) \|", part, re.MULTILINE) for part in page.split("\n## ")[1:3]
    )
    wanted = {
        *(column.name for column in RESULTS),
        *(column.name for column in score_columns(("",), confident=True)),
        *(column.name for column in score_columns(("",), judged=("",))),
    }
    for cells, names in ((results, wanted), (usage, {*ATTEMPT_KINDS})):
        named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
        assert named == list(dict.fromkeys(named))
        assert set(named) == names


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    from tests.conftest import CONSOLE

    for name in ("jobs", "sample_data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    page = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    lines = [line.removeprefix("$ ") for b in CONSOLE.findall(page) for line in b.splitlines()]
    for line in lines:
        words = shlex.split(line)
        if words[0] == "batchrun":
            assert command(*words[1:], cwd=tmp_path)[0] == 0
        else:
            assert words[0] == "sqlite-utils"
            with contextlib.chdir(tmp_path):
                assert sqlite_utils(*words[1:])
    assert len(lines) == 4
