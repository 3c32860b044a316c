"""`batchrun verify`: a healthy run of each kind is whole; whatever is damaged is named."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import batchrun as library
from batchrun import checkpoint
from batchrun.inspection.verification import Verification
from tests.conftest import command, resume
from tests.support.checkpoints import later_version, seal_all
from tests.support.provider import Call, Provider, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

RunOf = Callable[..., Path]
ROWS = 12
FILES = ("results.parquet", "results.csv", "results.jsonl")
ALL_FILES = 'files = ["results.parquet", "results.csv", "results.jsonl"]'
TYPED = pl.DataFrame(
    {
        "text": ["a", "b", "=c"],
        "when": [dt.datetime(2025, 1, 31, 1, 2, 3, 4), None, dt.datetime(1970, 1, 1)],
        "day": [dt.date(2025, 1, 31), None, dt.date(1, 1, 1)],
        "raw": [b"\0\xff", b"", None],
        "exact": pl.Series([Decimal("1.10"), None, Decimal("-3.05")], dtype=pl.Decimal(9, 2)),
        "number": [float("nan"), 1e300, None],
        "nested": [{"a": [1, None]}, {"a": []}, None],
        "kind": pl.Series(["x", None, "y"], dtype=pl.Categorical),
        "long": pl.Series([dt.timedelta(days=1), None, dt.timedelta(microseconds=1)]),
        "odd \" ' , \n name": ["", 'two\nlines, "quoted"', None],
    }
)


def decide(call: Call) -> Reply:
    """The first request of some rows fails; what some rows ask is refused."""
    if call.prompt.endswith("3") and not call.seen:
        return refusal(500, "api_error")
    if call.prompt.endswith("7"):
        return refusal(400, "invalid_request_error")
    if "output_config" in call.json:
        return answer(call, json.dumps({"label": call.prompt[-1], "sure": [0.5]}))
    return answer(call, f"ok {call.prompt[-1]}")


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with serving(decide) as running:
        yield running


@pytest.fixture
def run_of(provider: Provider, tmp_path: Path) -> RunOf:
    """Run a job over a table; return the run directory."""

    def run(
        table: pl.DataFrame | None = None,
        *,
        input: str = "",  # noqa: A002 - as the job file's section
        request: str = "",
        output: str = ALL_FILES,
        rest: str = "",
        code: int | None = None,
    ) -> Path:
        if table is None:
            table = pl.DataFrame(
                {"id": [f"r{n}" for n in range(ROWS)], "text": list("0123456789ab")}
            )
        table.write_parquet(tmp_path / "rows.parquet")
        key = 'id = "id"' if "id" in table.columns else ""
        (tmp_path / "job.toml").write_text(
            f"""
[input]
path = "rows.parquet"
{key}
{input}
[request]
base_url = "{provider.url}"
provider = "anthropic"
api_key_env = "TEST_KEY"
model = "claude-haiku-4-5-20251001"
prompt = "Say {{{{ text }}}}"
max_tokens = 50
{request}
[output]
dir = "out"
{output}
{rest}
"""
        )
        codes = {0, 3} if code is None else {code}
        assert command("run", tmp_path / "job.toml", "--quiet")[0] in codes
        return tmp_path / "out"

    return run


def wrong(directory: Path) -> list[str]:
    """What `verify` finds wrong, file by file."""
    verdict = library.verify(directory)
    assert verdict.exit_code == (5 if verdict.findings else 0)
    return [str(finding) for finding in verdict.findings]


def content(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in directory.iterdir()}


SCORED = '[score]\nexpected = "ok {{ text }}"\nmatch = "exact"'
SCHEMA = """
[request.json_schema]
type = "object"
additionalProperties = false
required = ["label", "sure"]
properties = { label = { type = "string" }, sure = { type = "array", items = { type = "number" } } }
"""


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"request": "samples = 3"},
        {"request": "samples = 2", "rest": SCORED},
        {"table": pl.DataFrame({"text": list("aabbabc3373")}), "request": "dedupe = true"},
        {"table": pl.DataFrame({"text": list("aabbabc3373")})},
        {"rest": SCORED},
        {"input": "where = \"text <> '3'\""},
        {"request": SCHEMA, "output": f"{ALL_FILES}\nunnest = true"},
        {"table": TYPED, "output": f"{ALL_FILES}\nescape_formulas = true"},
        {"table": TYPED.rename({"raw": "status"}), "output": f'{ALL_FILES}\nprefix = "=x_"'},
        {"table": TYPED.head(0)},
        {"table": pl.DataFrame({"text": ["a", None, "c"]})},
    ],
    ids=lambda kind: ", ".join(kind) or "plain",
)
def test_a_run_is_whole_and_looking_leaves_no_trace(run_of: RunOf, kind: dict[str, Any]) -> None:
    directory = run_of(**kind)
    before = content(directory)
    verdict = library.verify(directory)
    assert (verdict.findings, verdict.notes) == ((), ())
    files = [*FILES, "usage.parquet", "summary.json"]
    scores = ["scores"] if "rest" in kind else []
    assert list(verdict.checked) == ["checkpoint.db", "fingerprints", *scores, *files]
    (directory.parent / "rows.parquet").unlink()
    verdict = library.verify(directory)
    assert (verdict.findings, len(verdict.notes)) == ((), 1)
    assert list(verdict.checked) == ["checkpoint.db", *files]
    assert content(directory) == before


def test_the_cells_of_a_matrix_are_verified_each(run_of: RunOf) -> None:
    directory = run_of(rest="[matrix]\ntemperature = [0.0, 1.0]")
    verdict = library.verify(directory)
    assert (verdict.findings, verdict.notes, len(verdict.checked)) == ((), (), 14)
    cell = min(path for path in directory.iterdir() if path.is_dir())
    assert f"{cell.name}/results.csv" in verdict.checked
    (cell / "results.csv").unlink()
    assert [line.partition(";")[0] for line in wrong(directory)] == [
        f"{cell.name}/results.csv: is not there"
    ]
    with checkpoint.open_directory(cell, new=False):
        assert command("verify", directory)[0] == 5


def test_a_run_that_was_stopped_and_resumed_is_whole_each_time(run_of: RunOf) -> None:
    directory = run_of(rest="[limits]\nmax_cost_usd = 0.0006\nconcurrency = 1", code=4)
    assert library.verify(directory).exit_code == 0
    job = directory.parent / "job.toml"
    job.write_text(job.read_text().replace("0.0006", "1"))
    assert resume(job) == 3
    assert library.verify(directory).exit_code == 0


def test_a_file_that_was_saved_again_by_another_program_is_whole(run_of: RunOf) -> None:
    directory = run_of(TYPED)
    pl.read_parquet(directory / "results.parquet").write_parquet(
        directory / "results.parquet", row_group_size=1, compression="uncompressed"
    )
    rows = pl.read_csv(directory / "results.csv", infer_schema=False, empty_string_is_null=False)
    rows = rows.rename(lambda name: name.replace('""', '"'))
    rows.write_csv(directory / "results.csv", quote_style="non_numeric")
    lines = (directory / "results.jsonl").read_text().splitlines()
    spaced = [json.dumps(json.loads(line)) for line in lines]
    (directory / "results.jsonl").write_text("\n".join(spaced) + "\n")
    assert wrong(directory) == []


def test_chunks_are_compared_in_step(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrun.output.frames.FIRST_ROWS", 5)
    monkeypatch.setattr("batchrun.output.frames.CHUNK_ROWS", 7)
    directory = run_of(pl.DataFrame({"text": [f"{n}" for n in range(40)]}))
    assert wrong(directory) == []
    edit_parquet(directory / "results.parquet", 33, "response", "x")
    assert [line[:30] for line in wrong(directory)] == ["results.parquet: row 34: respo"]


# What is damaged, once each


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored run with errored rows; tests damage copies of its directory."""
    place = tmp_path_factory.mktemp("finished")
    text = [*"0123456789ab", *("x" * 40 for _ in range(30))]
    pl.DataFrame({"id": [f"r{n}" for n in range(len(text))], "text": text}).write_csv(
        place / "rows.csv"
    )
    with serving(decide) as provider:
        (place / "job.toml").write_text(
            '[input]\npath = "rows.csv"\nid = "id"\n'
            f'[request]\nbase_url = "{provider.url}"\nprovider = "anthropic"\napi_key_env = "TEST_KEY"\n'
            'model = "claude-haiku-4-5-20251001"\nprompt = "Say {{ text }}"\nmax_tokens = 50\n'
            f'[output]\ndir = "out"\n{ALL_FILES}\n{SCORED}\n'
        )
        assert resume(place / "job.toml") == 3
    return place / "out"


@pytest.fixture
def directory(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def sql(*statements: str) -> Callable[[Path], None]:
    """Change the checkpoint behind batchrun's back."""

    def change(directory: Path) -> None:
        with closing(sqlite3.connect(directory / "checkpoint.db")) as db, db:
            for statement in statements:
                assert db.execute(statement).rowcount != 0, statement
            db.commit()
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    return change


def resealed(*statements: str) -> Callable[[Path], None]:
    """Change the checkpoint as a mistake of batchrun would: with checksums that match."""

    def change(directory: Path) -> None:
        with closing(sqlite3.connect(directory / "checkpoint.db")) as db, db:
            for statement in statements:
                assert db.execute(statement).rowcount != 0, statement
            seal_all(db)
            db.commit()
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    return change


def edit_parquet(file: Path, row: int, column: str, value: object) -> None:
    frame = pl.read_parquet(file)
    values = frame.get_column(column).to_list()
    values[row] = value
    kind = frame.schema[column]
    frame.with_columns(pl.Series(column, values, dtype=kind)).write_parquet(file)


def cell(name: str, row: int, column: str, value: object) -> Callable[[Path], None]:
    return lambda directory: edit_parquet(directory / name, row, column, value)


def text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        before = (directory / name).read_text(encoding="utf-8")
        assert old in before
        (directory / name).write_text(before.replace(old, new, 1), encoding="utf-8")

    return change


def without_row(name: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        lines = (directory / name).read_text().splitlines(keepends=True)
        (directory / name).write_text("".join([*lines[:5], *lines[6:]]))

    return change


def reordered(directory: Path) -> None:
    frame = pl.read_parquet(directory / "results.parquet")
    frame.select(reversed(frame.columns)).write_parquet(directory / "results.parquet")


def flipped(directory: Path) -> None:
    """Flip bits in the middle of a page of an index."""
    with closing(sqlite3.connect(directory / "checkpoint.db")) as db:
        name = "requests_by_fingerprint"
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)
        ).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    file = directory / "checkpoint.db"
    found = bytearray(file.read_bytes())
    found[(page - 1) * size + 3] ^= 0x3F  # how many entries the page has
    file.write_bytes(found)


ANSWERED = "(SELECT request_id FROM items WHERE custom_id = 'r1')"
REFUSED = "(SELECT request_id FROM items WHERE custom_id = 'r7')"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bits of a page": (flipped, "checkpoint.db: is damaged "),
    "a row of results deleted": (
        sql(f"DELETE FROM results WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: was answered, and the answer is not there; keep the outputs as",
    ),
    "an errored result deleted": (
        sql(f"DELETE FROM results WHERE request_id = {REFUSED}"),
        "results.csv: row r7: status is 'errored', and the checkpoint gives 'pending'; the checkpoint",
    ),
    "an attempt deleted": (
        sql(f"DELETE FROM attempts WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: succeeded, and its last attempt is not the one that was answered",
    ),
    "the attempt of an error deleted": (
        sql(f"DELETE FROM attempts WHERE request_id = {REFUSED}"),
        "checkpoint.db: row r7: errored, and the attempt that failed is not there",
    ),
    "a first attempt deleted": (
        sql("DELETE FROM attempts WHERE number = 1 AND error_type = 'api_error'"),
        "checkpoint.db: row r3: has attempts that are not numbered from 1 without a gap",
    ),
    "an attempt moved": (
        resealed(f"UPDATE attempts SET number = 2 WHERE request_id = {REFUSED}"),
        "checkpoint.db: row r7: has attempts that are not numbered from 1",
    ),
    "a row of the input deleted": (
        sql("DELETE FROM items WHERE custom_id = 'r5'"),
        "fingerprints: row r5: has no request; restore",
    ),
    "rows of the input counted": (
        sql("DELETE FROM items WHERE ordinal > 3"),
        "checkpoint.db: holds 4 rows or samples of rows, and the input has 42",
    ),
    "a request deleted": (
        sql(f"DELETE FROM requests WHERE id = {ANSWERED}"),
        "checkpoint.db: items refers to a row of requests that is not there",
    ),
    "a fingerprint": (
        sql(f"UPDATE requests SET fingerprint = x'00' WHERE id = {ANSWERED}"),
        "checkpoint.db: row r1: the stored request is damaged: it does not match its checksum; it can",
    ),
    "another fingerprint": (
        resealed(f"UPDATE requests SET fingerprint = x'00' WHERE id = {ANSWERED}"),
        "fingerprints: row r1: has a different request from the one that was sent: its fingerprint differs",
    ),
    "an id": (
        sql("UPDATE items SET custom_id = 'other' WHERE custom_id = 'r2'"),
        "checkpoint.db: row other: the stored row (number 3 in the input) is damaged: it does not match",
    ),
    "another id": (
        resealed("UPDATE items SET custom_id = 'other' WHERE custom_id = 'r2'"),
        "fingerprints: row r2: is kept under another id",
    ),
    "two rows with one request": (
        resealed(f"UPDATE items SET request_id = {ANSWERED} WHERE custom_id = 'r2'"),
        "checkpoint.db: row r1: has the same request as another row",
    ),
    "a row with neither request nor error": (
        resealed("UPDATE items SET request_id = NULL WHERE custom_id = 'r2'"),
        "checkpoint.db: row r2: must have either a request or an error",
    ),
    "a status": (
        sql(f"UPDATE results SET status = 'fine' WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: the stored status is damaged: it does not match its checksum; it can",
    ),
    "a status that cannot be": (
        resealed(f"UPDATE results SET retryable = 1 WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: the stored status is damaged",
    ),
    "a success that is an error": (
        resealed(f"UPDATE results SET status = 'errored' WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: errored, and the attempt that failed is not there",
    ),
    "a response in the checkpoint": (
        sql(f"UPDATE results SET response = 'no' WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: the stored answer is damaged: it does not match its checksum; results.",
    ),
    "answers that are no list": (
        resealed(f"UPDATE results SET responses = '{{}}' WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: has answers that are not a list of texts",
    ),
    "tokens in the checkpoint": (
        sql(f"UPDATE attempts SET output_tokens = 8 WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: the stored attempt 1 is damaged: it does not match its checksum; usage",
    ),
    "tokens below zero": (
        resealed(f"UPDATE attempts SET output_tokens = -7 WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: has an attempt with impossible tokens or costs",
    ),
    "a part of a cost": (
        resealed(f"UPDATE attempts SET cost_output = NULL WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: has an attempt with impossible tokens or costs",
    ),
    "a cost in the checkpoint": (
        resealed(f"UPDATE attempts SET cost_output = 1 WHERE request_id = {ANSWERED}"),
        "summary.json: cost_usd.total is ",
    ),
    "a cost that changed": (
        sql(f"UPDATE attempts SET cost_output = 1 WHERE request_id = {ANSWERED}"),
        "stored tokens; count the costs again with: batchrun recost ",
    ),
    "a score in the checkpoint": (
        sql("UPDATE scores SET score = 0 WHERE ordinal = 1"),
        "scores: row r1: has another score than its answer gives; calculate them again with",
    ),
    "the job in the checkpoint": (
        sql("UPDATE run SET job = replace(job, 'Say', 'Tell')"),
        "checkpoint.db: the stored description of the run is damaged: it does not match its checksum",
    ),
    "another job in the checkpoint": (
        resealed("UPDATE run SET job = replace(job, 'Say', 'Tell')"),
        "fingerprints: the stored job is not the one that was run",
    ),
    "another number of rows": (
        resealed("UPDATE run SET total = total + 1"),
        "rows are counted, and the input has ",
    ),
    "the job is no JSON": (
        sql("UPDATE run SET job = 'x'"),
        "checkpoint.db: the stored description of the run is damaged",
    ),
    "another job that is no JSON": (
        resealed("UPDATE run SET job = 'x'"),
        "is damaged or not a SQLite file",
    ),
    "the end of an execution": (
        sql("UPDATE executions SET finished_us = finished_us + 1"),
        "checkpoint.db: the stored execution 1 is damaged: it does not match its checksum; no answer",
    ),
    "a price": (
        sql("UPDATE prices SET matched = 'other' WHERE id = 1"),
        "it can be looked up again; count the costs again with: batchrun recost ",
    ),
    "a checksum gone": (
        sql(f"UPDATE results SET checksum = NULL WHERE request_id = {ANSWERED}"),
        "checkpoint.db: row r1: the stored answer is damaged",
    ),
    "a cell of results.parquet": (
        cell("results.parquet", 8, "response", "no"),
        "results.parquet: row r8: response is 'no', and the checkpoint gives 'ok 8'",
    ),
    "a cell of the input in results.parquet": (
        cell("results.parquet", 8, "text", None),
        "results.parquet: row r8: text is empty, and the checkpoint gives '8'",
    ),
    "a cell of results.csv": (
        text("results.csv", "ok 8", "ok 9"),
        "results.csv: row r8: response is 'ok 9', and the checkpoint gives 'ok 8'",
    ),
    "a quote of results.csv": (text("results.csv", "r8,", 'r8","'), "results.csv: "),
    "a cell of results.jsonl": (
        text("results.jsonl", '"ok 8"', "null"),
        'results.jsonl: row r8: response is null, and the checkpoint gives "ok 8"',
    ),
    "a key of results.jsonl": (
        text("results.jsonl", '"stop_reason"', '"stopped"'),
        "results.jsonl: cannot be read: has columns that do not belong there: stopped",
    ),
    "a line of results.jsonl": (text("results.jsonl", "{", "["), "results.jsonl: cannot be read"),
    "a row gone from results.csv": (
        without_row("results.csv"),
        "results.csv: has 41 rows, and there should be 42; the first that differs is row 5 (r4)",
    ),
    "a row gone from results.jsonl": (
        without_row("results.jsonl"),
        "results.jsonl: has 41 rows, and there should be 42; the first that differs is row 6 (r5)",
    ),
    "a row too many in results.csv": (
        text("results.csv", "\nr0,", "\nr0,\nr0,"),
        "results.csv: has 43 rows, and there should be 42",
    ),
    "columns in another order": (reordered, "results.parquet: has its columns in another order"),
    "a column gone": (
        lambda d: (
            pl.read_parquet(d / "results.parquet")
            .drop("cost_usd")
            .write_parquet(d / "results.parquet")
        ),
        "results.parquet: lacks the columns cost_usd",
    ),
    "a type": (
        lambda d: (
            pl.read_parquet(d / "results.parquet")
            .with_columns(pl.col("attempts").cast(pl.String))
            .write_parquet(d / "results.parquet")
        ),
        "results.parquet: has columns of another type: attempts",
    ),
    "a cell of usage.parquet": (
        cell("usage.parquet", 3, "input_tokens", 12),
        "usage.parquet: row r3, attempt 1: input_tokens is 12, and the checkpoint gives empty",
    ),
    "a file cut short": (
        lambda d: (d / "usage.parquet").write_bytes((d / "usage.parquet").read_bytes()[:-9]),
        "usage.parquet: cannot be read: ",
    ),
    "a file gone": (
        lambda d: (d / "results.csv").unlink(),
        "results.csv: is not there; the checkpoint",
    ),
    "a number of the summary": (
        text("summary.json", '"succeeded": 41', '"succeeded": 42'),
        "summary.json: counts.succeeded is 42, and the checkpoint gives 41; the checkpoint matches",
    ),
    "a score of the summary": (text("summary.json", '"mean"', '"means"'), "summary.json: score."),
    "a summary that is none": (text("summary.json", "{", ""), "summary.json: cannot be read"),
    "an execution since": (
        resealed(
            "INSERT INTO executions (started_us, version) SELECT started_us, version FROM executions"
        ),
        "summary.json: executions.1.execution is None, and the checkpoint gives 2",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_named(directory: Path, name: str) -> None:
    change, expected = DAMAGE[name]
    change(directory)
    before = content(directory)
    found = wrong(directory)
    assert [line for line in found if expected in line], "\n".join(found)
    assert content(directory) == before
    assert command("status", directory)[0] in {0, 5}  # which is never a traceback


def test_export_and_score_are_the_way_out_that_they_are_said_to_be(directory: Path) -> None:
    resealed(
        "UPDATE scores SET score = 0 WHERE ordinal = 1",
        f"UPDATE results SET response = 'no' WHERE request_id = {ANSWERED}",
    )(directory)
    assert {line.partition(":")[0] for line in wrong(directory)} == {
        *("scores", "results.parquet", "results.csv", "results.jsonl", "summary.json")
    }
    library.export(directory, None)
    assert [line.partition(":")[0] for line in wrong(directory)] == ["scores"]
    library.score(directory)
    assert wrong(directory) == []


def test_of_an_input_that_changed_the_rest_is_checked(run_of: RunOf) -> None:
    directory = run_of(rest=SCORED)
    edit_parquet(directory.parent / "rows.parquet", 0, "text", "other")
    verdict = library.verify(directory)
    assert verdict.exit_code == 0
    assert verdict.checked == ("checkpoint.db", *FILES, "usage.parquet", "summary.json")
    assert "rows.parquet has changed since the run" in verdict.notes[0]
    assert verdict.text().splitlines()[-1].startswith(f"{directory}: no problems found in what was")
    edit_parquet(directory / "results.parquet", 2, "text", "an input's cell")
    edit_parquet(directory / "results.parquet", 3, "response", "no")
    without_row("results.csv")(directory)
    text("results.jsonl", '"ok 8"', '"ok 9"')(directory)
    edit_parquet(directory / "usage.parquet", 0, "attempt", 2)
    assert [line.partition(" is ")[0] for line in wrong(directory)] == [
        "results.parquet: row r3: response",
        "results.csv: has 11 rows, and there should be 12; the first that differs",
        "results.jsonl: row r8: response",
        "usage.parquet: row r0, attempt 1: attempt",
    ]
    (directory.parent / "rows.parquet").unlink()
    assert "file not found" in library.verify(directory).notes[0]


def test_before_the_first_execution_has_ended_there_are_no_outputs(directory: Path) -> None:
    resealed("UPDATE executions SET outcome = NULL, finished_us = NULL")(directory)
    for file in set(directory.iterdir()) - {directory / "checkpoint.db"}:
        file.unlink()
    verdict = library.verify(directory)
    assert verdict.exit_code == 0
    assert len([note for note in verdict.notes if "no execution has finished yet" in note]) == 5


def test_a_run_that_was_killed_while_planning_anew_is_not_called_wrong(directory: Path) -> None:
    with closing(checkpoint.Checkpoint(directory, writable=True)) as store:
        document, base, _ = store.job()
        store.start_execution(
            checkpoint.NewExecution(
                name="job",
                job=document,
                base=Path(base),
                signature="other:input",
                total=50,
                version="0",
            )
        )
    found = {line.partition(":")[0] for line in wrong(directory)}
    assert not found & {"checkpoint.db", "fingerprints", "scores"}
    assert "results.csv" not in found  # its rows are not known


def test_a_killed_run_is_read_with_its_write_ahead_log(directory: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(directory / "checkpoint.db")) as db, db:
        db.execute(f"UPDATE results SET response = 'newer' WHERE request_id = {ANSWERED}")
        seal_all(db)
        db.commit()
        copy = Path(shutil.copytree(directory, tmp_path / "as after a crash"))
    assert (copy / "checkpoint.db-wal").stat().st_size > 0
    assert any("the checkpoint gives 'newer'" in line for line in wrong(copy))


def test_requests_of_another_version_are_not_called_wrong(directory: Path) -> None:
    resealed(
        "UPDATE executions SET version = '0.0.1'",
        f"UPDATE requests SET fingerprint = x'00' WHERE id = {ANSWERED}",
    )(directory)
    verdict = library.verify(directory)
    assert "they were created by batchrun 0.0.1" in verdict.notes[0]
    assert not [finding for finding in verdict.findings if finding.file == "fingerprints"]


def test_the_command_prints_lines_or_json(directory: Path, tmp_path: Path) -> None:
    code, stdout, stderr = command("verify", directory)
    assert (code, stderr) == (0, "")
    assert stdout.startswith(f"{directory}: no problems found; checked checkpoint.db, fingerprints")
    text("results.csv", "ok 8", "\x1b[2J")(directory)
    code, stdout, stderr = command("verify", directory)
    assert (code, stderr) == (5, "")
    first, last = stdout.splitlines()
    assert first.startswith("results.csv: row r8: response is '\\x1b[2J', and the checkpoint gives")
    assert last.startswith(f"{directory}: 1 problem found")
    code, stdout, _ = command("verify", directory, "--json")
    facts = json.loads(stdout)
    assert (code, facts["ok"], facts["not_checked"]) == (5, False, [])
    assert facts["findings"][0]["file"] == "results.csv"
    assert facts["findings"][0]["row"] == "r8"
    assert "batchrun export" in facts["findings"][0]["remedy"]


def test_a_live_run_is_left_alone(directory: Path) -> None:
    with checkpoint.open_directory(directory, new=False):
        code, stdout, stderr = command("verify", directory)
    assert (code, stdout) == (5, "")
    assert "another batchrun process is working on this run" in stderr


def test_while_it_is_looked_at_nobody_runs_it(directory: Path) -> None:
    refused = pytest.raises(library.errors.CheckpointError, match="another batchrun process")
    with checkpoint.shared_lock(directory), checkpoint.shared_lock(directory), refused:
        checkpoint.open_directory(directory, new=False)
    checkpoint.open_directory(directory, new=False).release()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: (d / "checkpoint.db").unlink(), "has no checkpoint.db"),
        (lambda d: (d / "checkpoint.db").write_bytes(b"x" * 9_000), "not a SQLite file"),
        (lambda d: (d / "checkpoint.db").write_bytes(b""), "contains no run yet"),
        (
            sql("UPDATE _sqlite_migrations SET name = 'm999' WHERE name = 'm001_checkpoint'"),
            "newer version",
        ),
        (
            sql(
                "UPDATE _sqlite_migrations SET name = 'm001_schema' WHERE name = 'm001_checkpoint'"
            ),
            "development version",
        ),
    ],
)
def test_what_is_no_checkpoint_of_this_version_is_refused(
    directory: Path, change: Callable[[Path], Any], reason: str
) -> None:
    change(directory)
    before = content(directory)
    with pytest.raises(library.errors.CheckpointError, match=reason):
        library.verify(directory)
    assert content(directory) == before


def test_a_checkpoint_of_an_earlier_version_is_not_changed(directory: Path) -> None:
    before = content(directory)
    refused = pytest.raises(library.errors.CheckpointError, match="earlier version")
    with later_version(), refused:
        library.verify(directory)
    assert content(directory) == before


def test_a_verdict_counts_what_else_is_wrong() -> None:
    assert Verification(Path("x"), (), (), ()).text() == "x: no problems found; checked nothing"
