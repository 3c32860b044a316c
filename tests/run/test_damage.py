"""Bits that flip in a checkpoint on the disk, where SQLite sees nothing wrong.

The outputs that were written before are the right copy: no command may replace them, and each says so.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import polars as pl
import pytest

from batchrun.checkpoint import FILE_NAME, encoding
from tests.conftest import command
from tests.support.provider import answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.provider import Call, Provider, Reply

ROWS = 6
FILES = 'files = ["results.parquet", "results.csv", "results.jsonl"]'


def said(call: Call) -> Reply:
    return answer(call, f"the answer to {call.prompt} ☃")


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving(said) as server:
        yield server


@pytest.fixture
def job(write_job: Callable[..., Path], provider: Provider) -> Path:
    path = write_job(provider.url, rows=ROWS, extra=FILES)
    assert command("run", path)[0] == 0
    return path


def flip(out: Path, text: str, bit: int = 1) -> None:
    """Flip a bit of the last letter of a text, wherever the file has it."""
    path = out / FILE_NAME
    content = bytearray(path.read_bytes())
    at = content.find(text.encode())
    assert at > 0
    while at > 0:
        content[at + len(text.encode()) - 1] ^= bit
        at = content.find(text.encode())
    path.write_bytes(content)


def change(out: Path, statement: str) -> None:
    with closing(sqlite3.connect(out / FILE_NAME)) as connection:
        assert connection.execute(statement).rowcount == 1
        connection.commit()


def outputs(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if not p.name.startswith(FILE_NAME)}


@pytest.fixture
def long_job(write_job: Callable[..., Path]) -> Iterator[tuple[Path, Provider]]:
    """A finished run whose answers are in pieces."""
    with serving(
        lambda call: answer(call, f"the answer to {call.prompt} ☃" + " more" * 999)
    ) as server:
        path = write_job(server.url, rows=ROWS, extra=FILES)
        assert command("run", path)[0] == 0
        yield path, server


OF_ROW_4 = "WHERE id = (SELECT max(id) FROM pieces WHERE request_id = 4)"
LONG_TEXTS = {
    "another letter": f"UPDATE pieces SET text = replace(text, 'more', 'mode') {OF_ROW_4}",
    "no piece": f"DELETE FROM pieces {OF_ROW_4}",
    "no UTF-8": f"UPDATE pieces SET text = CAST(x'ff' AS TEXT) {OF_ROW_4}",
    "the id of another": "UPDATE results SET response = response + 64 WHERE request_id = 4",
    "the id of none": "UPDATE results SET response = 1 << 40 WHERE request_id = 4",
}


@pytest.mark.parametrize("name", LONG_TEXTS)
@pytest.mark.parametrize("is_copied", [True, False])
def test_a_damaged_long_answer_is_restored_or_asked_again_and_no_other(
    long_job: tuple[Path, Provider],
    results: Callable[[], pl.DataFrame],
    name: str,
    is_copied: bool,
) -> None:
    job, provider = long_job
    out, right = job.parent / "out", results()["response"].to_list()
    change(out, LONG_TEXTS[name])
    for arguments in (("export", out), ("verify", out)):
        code, stdout, stderr = command(*arguments)
        assert code == 5
        assert "row r00003: the stored answer is damaged" in stdout + stderr
        assert "more)" not in stdout + stderr
    if not is_copied:
        for file in outputs(out):
            (out / file).unlink()
    code, _, stderr = command("run", job, "--retry-errored")
    assert code == 0, stderr
    assert [call.prompt for call in provider.calls[ROWS:]] == ["Say text 3"] * (not is_copied)
    assert results()["response"].to_list() == right
    assert command("verify", out)[0] == 0


@pytest.mark.parametrize("bit", [1, 0x80])  # 0x80: no longer UTF-8
def test_a_flipped_bit_in_an_answer_is_noticed_by_everything_that_reads_it(
    job: Path, provider: Provider, bit: int
) -> None:
    out = job.parent / "out"
    shutil.copytree(out, job.parent / "other")
    flip(out, "the answer to Say text 4", bit)
    before = outputs(out)
    score = job.parent / "score.toml"
    score.write_text(job.read_text() + '[score]\nexpected = "{{ text }}"\n')
    for arguments in (
        ("run", job),
        ("export", out),
        ("export", out, "--to", job.parent / "elsewhere.csv"),
        ("score", out, "--job", score),
        ("report", out),
    ):
        code, _, stderr = command(*arguments)
        assert code == 5, (arguments, stderr)
        assert "row r00004: the stored answer is damaged: it does not match its checksum" in stderr
        assert "results.parquet has the right copy" in stderr
        assert "batchrun run JOB --retry-errored" in stderr
        assert outputs(out) == before
    for reading in (["compare", str(out), str(job.parent / "other")], ["verify", str(out)]):
        code, stdout, stderr = command(*reading)
        assert code == 5
        assert "row r00004: the stored answer is damaged" in stdout + stderr
    code, stdout, _ = command("status", out)
    assert code == 0
    assert "1 stored records do not match their checksums: batchrun verify" in stdout
    assert json.loads(command("status", out, "--json")[1])["damaged"] == 1
    assert len(provider.calls) == ROWS
    assert not (job.parent / "elsewhere.csv").exists()


def test_a_value_of_another_type_ends_status_with_an_error_of_ours(job: Path) -> None:
    out = job.parent / "out"
    strict = "UPDATE sqlite_master SET sql = {} WHERE name IN ('attempts', 'results')"
    for statement in (
        strict.format("replace(sql, 'STRICT, WITHOUT', 'WITHOUT')"),
        "UPDATE attempts SET error_type = x'07' WHERE request_id = 3",
        "UPDATE results SET status = 'errored' WHERE request_id = 3",
        strict.format("replace(sql, 'WITHOUT', 'STRICT, WITHOUT')"),
    ):
        with closing(sqlite3.connect(out / FILE_NAME)) as connection, connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(statement)
    code, stdout, stderr = command("status", out)
    assert code == 5, (stdout, stderr)
    assert f"do not match their checksums: batchrun verify {out}" in stderr


def test_verify_says_which_copy_is_right(job: Path) -> None:
    out = job.parent / "out"
    flip(out, "the answer to Say text 4")
    code, stdout, _ = command("verify", out)
    assert code == 5
    (finding,) = [line for line in stdout.splitlines() if line.startswith("checkpoint.db: ")]
    assert "results.parquet has the right copy" in finding
    assert "keep the outputs as they are" in finding
    assert "batchrun export" not in stdout
    assert "not checked: the outputs and all else, because records of the checkpoint are" in stdout


def test_verify_says_that_the_checkpoint_is_right_when_it_is(job: Path) -> None:
    out = job.parent / "out"
    found = pl.read_csv(out / "results.csv", infer_schema=False)
    found.with_columns(response=pl.lit("edited")).write_csv(out / "results.csv")
    code, stdout, _ = command("verify", out)
    assert code == 5
    assert "the checkpoint matches its checksums; write it again from there with: " in stdout
    assert "batchrun export" in stdout


@pytest.mark.parametrize("name", ["results.parquet", "results.csv", "results.jsonl"])
def test_the_right_copy_is_found_in_every_format(
    write_job: Callable[..., Path], provider: Provider, name: str
) -> None:
    job = write_job(provider.url, rows=ROWS, extra=f'files = ["{name}"]\nprefix = "llm_"')
    table = pl.read_csv(job.parent / "rows.csv").with_columns(response=pl.lit("of the table"))
    table.write_csv(job.parent / "rows.csv")
    assert command("run", job)[0] == 0
    out = job.parent / "out"
    flip(out, "the answer to Say text 2")
    assert f"{name} has the right copy" in command("export", out)[2]
    (out / name).unlink()
    assert f"{name} does not have it either" in command("export", out)[2]


def test_the_right_copy_of_a_whole_body_is_found(
    write_job: Callable[..., Path], provider: Provider
) -> None:
    job = write_job(provider.url, rows=ROWS)
    assert command("run", job, "--set", "request.keep_raw=true")[0] == 0
    out = job.parent / "out"
    change(out, "UPDATE results SET raw = x'78' WHERE request_id = 3")
    code, stdout, _ = command("verify", out)
    assert code == 5
    assert "results.parquet has the right copy" in stdout


def test_an_answer_of_several_samples_is_found_among_its_texts(
    write_job: Callable[..., Path], provider: Provider
) -> None:
    job = write_job(provider.url, rows=2, request="samples = 3")
    assert command("run", job)[0] == 0
    flip(job.parent / "out", "the answer to Say text 1")
    stderr = command("export", job.parent / "out")[2]
    assert "(and 2 more)" in stderr or stderr.count("row r00001") == 3
    assert "results.parquet has the right copy" in stderr


STARTS = {
    "its time": "started_us = started_us + 64",
    "a time that cannot be": "started_us = 1 << 62",
    "its execution": "execution = 0",
    "a reserved cost": "reserved = 1 << 60",
    "the checksum": "start_checksum = NULL",
}


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("is_copied", [True, False])
def test_a_damaged_start_of_an_attempt_is_told_and_sends_nothing(
    job: Path, provider: Provider, name: str, is_copied: bool
) -> None:
    out = job.parent / "out"
    usage = pl.read_parquet(out / "usage.parquet")
    change(out, f"UPDATE attempts SET {STARTS[name]} WHERE request_id = 3")
    before = outputs(out)
    for arguments in (("run", job), ("export", out), ("verify", out), ("recost", out)):
        code, stdout, stderr = command(*arguments)
        assert code == 5, (arguments, stdout, stderr)
        assert "the stored start of attempt 1 is damaged" in stdout + stderr
        assert outputs(out) == before
    if not is_copied:
        (out / "usage.parquet").unlink()
    code, _, stderr = command("run", job, "--retry-errored")
    assert code == 0, stderr
    assert len(provider.calls) == ROWS
    assert command("verify", out)[0] == 0
    after = pl.read_parquet(out / "usage.parquet")
    assert after.drop("started_at").equals(usage.drop("started_at"))
    moved = zip(after["started_at"], usage["started_at"], strict=True)
    assert all(abs((now - then).total_seconds()) < 60 for now, then in moved)
    assert after.equals(usage) or not is_copied


def test_a_damaged_row_is_asked_again_on_request_and_only_that(
    job: Path, provider: Provider, results: Callable[[], pl.DataFrame]
) -> None:
    out = job.parent / "out"
    right = results()["response"].to_list()
    flip(out, "the answer to Say text 4")
    change(out, "UPDATE attempts SET output_tokens = output_tokens + 64 WHERE request_id = 2")
    for file in ("results.parquet", "results.csv", "results.jsonl", "usage.parquet"):
        (out / file).unlink()
    code, _, stderr = command("run", job, "--retry-errored")
    assert code == 0, stderr
    assert "2 records of the checkpoint did not match their checksums" in stderr
    assert sorted(call.prompt for call in provider.calls[ROWS:]) == ["Say text 1", "Say text 4"]
    assert results()["response"].to_list() == right
    assert command("verify", out)[0] == 0
    summary = pl.read_json(out / "summary.json").row(0, named=True)
    assert summary["possibly_double_billed"] == 1, "the attempt whose tokens were damaged"
    assert summary["attempts"] == ROWS + 2


def test_a_damaged_row_is_restored_from_the_outputs_and_not_asked_again(
    job: Path, provider: Provider, results: Callable[[], pl.DataFrame]
) -> None:
    out, right = job.parent / "out", results()
    usage = pl.read_parquet(out / "usage.parquet")
    flip(out, "the answer to Say text 4")
    change(out, "UPDATE results SET ending = 'length' WHERE request_id = 3")
    change(out, "UPDATE attempts SET output_tokens = output_tokens + 64 WHERE request_id = 2")
    (out / "results.parquet").unlink()
    code, _, stderr = command("run", job, "--retry-errored")
    assert code == 0, stderr
    assert (
        "3 records of the checkpoint did not match their checksums and were restored from" in stderr
    )
    assert len(provider.calls) == ROWS
    assert results().equals(right)
    assert pl.read_parquet(out / "usage.parquet").equals(usage)
    assert command("verify", out)[0] == 0


def test_a_damaged_cost_is_counted_again_and_nothing_is_sent(job: Path, provider: Provider) -> None:
    out = job.parent / "out"
    before = json.loads((out / "summary.json").read_text())["cost_usd"]
    change(out, "UPDATE attempts SET cost_output = cost_output + 1 WHERE request_id = 3")
    change(out, "UPDATE prices SET rates = replace(rates, '1', '2') WHERE id = 1")
    for arguments in (("run", job), ("export", out)):
        code, _, stderr = command(*arguments)
        assert code == 5
        assert f"count the costs again with: batchrun recost {out}" in stderr
    assert command("recost", out)[0] == 0
    assert json.loads((out / "summary.json").read_text())["cost_usd"] == before
    assert command("verify", out)[0] == 0
    assert command("run", job)[0] == 0
    assert len(provider.calls) == ROWS


def test_damaged_costs_are_unknown_until_they_are_counted_again(
    job: Path, provider: Provider
) -> None:
    out = job.parent / "out"
    change(out, "UPDATE attempts SET cost_output = cost_output + 1 WHERE request_id = 3")
    code, _, stderr = command("run", job, "--retry-errored")
    assert code == 0
    assert "are unknown; to count them again: batchrun recost" in stderr
    assert command("verify", out)[0] == 0
    assert len(provider.calls) == ROWS


DESCRIPTIONS = {
    "the job": "UPDATE run SET job = replace(job, 'Say', 'Saz')",
    "a job that cannot be read": "UPDATE run SET job = 'x'",
    "the plan": "UPDATE run SET plan_signature = 'x'",
    "the mark of the plan": "UPDATE run SET planned = 'x'",
    "the number of rows": "UPDATE run SET total = 3",
    "the samples": "UPDATE run SET samples = 2",
    "no samples": "UPDATE run SET samples = 0",
    "no number of rows": "UPDATE run SET total = NULL",
    "the folder": "UPDATE run SET base = '/x'",
    "the price given": "UPDATE run SET given_price = 'x'",
    "the start": "UPDATE executions SET started_us = 7",
    "the outcome": "UPDATE executions SET outcome = 'x'",
    "the waits": "UPDATE executions SET waits = 'x'",
    "the provider": "UPDATE executions SET base_url = 'x'",
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_damaged_description_of_the_run_is_restored_and_nothing_is_sent(
    job: Path, provider: Provider, results: Callable[[], pl.DataFrame], name: str
) -> None:
    out, right = job.parent / "out", results()
    change(out, DESCRIPTIONS[name])
    before = outputs(out)
    for arguments in (("run", job), ("export", out), ("verify", out), ("recost", out)):
        code, stdout, stderr = command(*arguments)
        assert code == 5, (arguments, stdout, stderr)
        assert "is damaged: it does not match its checksum" in stdout + stderr
        assert "batchrun run JOB --retry-errored" in stdout + stderr
        assert outputs(out) == before
    code, stdout, stderr = command("status", out)
    assert "batchrun verify" in stdout if code == 0 else code == 5, (stdout, stderr)
    code, _, stderr = command("run", job, "--retry-errored")
    assert code == 0, stderr
    assert len(provider.calls) == ROWS
    assert results().equals(right)
    assert command("verify", out)[0] == 0


@pytest.mark.parametrize("column", encoding.ANSWERS.columns)
def test_every_column_of_an_answer_counts(job: Path, column: str) -> None:
    value = "7" if column in {"attempts", "finished_us"} else "'x'"
    value = "x'78'" if column in {"raw", "logprobs"} else value
    if column == "request_id":
        value = "99"
    change(job.parent / "out", f"UPDATE results SET {column} = {value} WHERE request_id = 3")
    code, _, stderr = command("export", job.parent / "out")
    assert code == 5
    assert "the stored answer is damaged" in stderr


@pytest.mark.parametrize("change_of", ["status = 'succeedee'", "retryable = 3"])
def test_a_status_that_cannot_be_is_damage(job: Path, change_of: str) -> None:
    change(job.parent / "out", f"UPDATE results SET {change_of} WHERE request_id = 3")
    assert "the stored status is damaged" in command("export", job.parent / "out")[2]


SENDS_NOTHING = {
    "an id of a row": "UPDATE items SET custom_id = 'r00009' WHERE ordinal = 2",
    "an id that is not UTF-8": "UPDATE items SET custom_id = CAST(x'7280' AS TEXT) WHERE ordinal = 2",
    "a place": "UPDATE items SET ordinal = 99 WHERE ordinal = 2",
    "the request of a row": "UPDATE items SET request_id = 1 WHERE ordinal = 2",
    "a request that is not there": "UPDATE items SET request_id = 99 WHERE ordinal = 2",
    "an error of a row": "UPDATE items SET error_message = 'x' WHERE ordinal = 2",
    "an id of a request": "UPDATE requests SET custom_id = 'r00009' WHERE id = 3",
    "a fingerprint": "UPDATE requests SET fingerprint = x'00' WHERE id = 3",
    "the fingerprint of another": "UPDATE requests SET fingerprint = "
    "(SELECT fingerprint FROM requests WHERE id = 2), occurrence = 2 WHERE id = 3",
    "an occurrence": "UPDATE requests SET occurrence = 7 WHERE id = 3",
    "the checksum of a request": "UPDATE requests SET checksum = checksum + 1 WHERE id = 3",
    "no checksum of a request": "UPDATE requests SET checksum = NULL WHERE id = 3",
    "the number of an attempt": "UPDATE attempts SET number = 3 WHERE request_id = 3",
    "a status": "UPDATE results SET status = 'errored' WHERE request_id = 3",
    "a status that cannot be": "UPDATE results SET status = 'succeedee' WHERE request_id = 3",
    "retryable": "UPDATE results SET status = 'errored', retryable = 1 WHERE request_id = 3",
    "attempts": "UPDATE results SET attempts = 2 WHERE request_id = 3",
    "the attempts of none": "UPDATE results SET attempts = 0 WHERE request_id = 3",
}


@pytest.mark.parametrize("name", SENDS_NOTHING)
def test_what_follows_from_other_records_is_restored_and_nothing_is_sent_for_it(
    job: Path, provider: Provider, results: Callable[[], pl.DataFrame], name: str
) -> None:
    out, right = job.parent / "out", results().drop("finished_at")
    change(out, SENDS_NOTHING[name])
    before = outputs(out)
    for arguments in (("run", job), ("export", out), ("verify", out)):
        code, stdout, stderr = command(*arguments)
        assert code == 5, (arguments, stdout, stderr)
        assert "is damaged: it does not match its checksum" in stdout + stderr
        assert "batchrun run JOB --retry-errored" in stdout + stderr
        assert "--new" not in stdout + stderr
        assert "batchrun export" not in stdout + stderr
        assert outputs(out) == before
    code, _, stderr = command("run", job, "--retry-errored")
    assert code == 0, stderr
    assert "of the checkpoint did not match their checksums and were restored" in stderr
    assert len(provider.calls) == ROWS
    assert results().drop("finished_at").equals(right)
    assert command("verify", out)[0] == 0


def test_a_damaged_status_sends_nothing_before_it_is_noticed(
    write_job: Callable[..., Path], provider: Provider
) -> None:
    job = write_job(provider.url, rows=ROWS)
    assert command("run", job, "--limit", "3")[0] == 0
    change(
        job.parent / "out", "UPDATE results SET status = 'errored', retryable = 1 WHERE rowid = 2"
    )
    code, _, stderr = command("run", job)
    assert code == 5
    assert "row r00001: the stored status is damaged" in stderr
    assert "Nothing was sent" in stderr
    assert len(provider.calls) == 3


def test_a_request_that_no_row_asks_any_more_is_given_up(
    job: Path, provider: Provider, results: Callable[[], pl.DataFrame]
) -> None:
    out = job.parent / "out"
    change(out, "UPDATE requests SET fingerprint = x'00' WHERE id = 3")
    change(out, "UPDATE items SET request_id = 99 WHERE ordinal = 2")
    code, _, stderr = command("run", job, "--retry-errored")
    assert code == 0, stderr
    assert [call.prompt for call in provider.calls[ROWS:]] == ["Say text 2"]
    assert results()["response"].to_list() == [f"the answer to Say text {n} ☃" for n in range(ROWS)]
    assert command("verify", out)[0] == 0


def test_answers_that_were_judged_after_damage_stay_damaged(job: Path, provider: Provider) -> None:
    change(job.parent / "out", "UPDATE results SET ending = 'length' WHERE request_id = 3")
    change(job.parent / "out", "UPDATE results SET status = 'errored' WHERE request_id = 3")
    for options in (["--set", 'request.reject=["length"]'], []):
        code, _, stderr = command("run", job, *options)
        assert code == 5
        assert "row r00002: the stored status is damaged" in stderr
    assert len(provider.calls) == ROWS


@pytest.mark.parametrize("column", sorted({*encoding.SENT.columns} - {"request_id", "number"}))
def test_every_column_of_an_attempt_counts(job: Path, column: str) -> None:
    value = f"coalesce({column}, '') || 1"
    if column == "latency_s":
        value = "latency_s + 0.000002"
    change(job.parent / "out", f"UPDATE attempts SET {column} = {value} WHERE request_id = 3")
    code, _, stderr = command("export", job.parent / "out")
    assert code == 5
    assert "row r00002: the stored attempt 1 is damaged" in stderr


@pytest.mark.parametrize(
    "column", ["input_tokens", "output_tokens", "model", "provider_request_id", "latency_s"]
)
def test_an_attempt_that_changed_is_noticed_and_has_its_right_copy(job: Path, column: str) -> None:
    out = job.parent / "out"
    value = "7.5" if column == "latency_s" else f"coalesce({column}, '') || 1"
    change(out, f"UPDATE attempts SET {column} = {value} WHERE request_id = 3")
    for arguments in (("export", out), ("run", job), ("report", out)):
        code, _, stderr = command(*arguments)
        assert code == 5
        assert "row r00002: the stored attempt 1 is damaged" in stderr
        assert "usage.parquet has the right copy" in stderr


def test_answers_that_are_judged_again_are_not_damaged(job: Path, provider: Provider) -> None:
    for options in (["--set", 'request.reject=["refusal"]'], []):
        assert command("run", job, *options)[0] == 0
    assert command("verify", job.parent / "out")[0] == 0
    assert len(provider.calls) == ROWS


def test_recost_leaves_a_damaged_attempt_damaged(job: Path) -> None:
    out = job.parent / "out"
    change(out, "UPDATE attempts SET output_tokens = output_tokens + 64 WHERE request_id = 3")
    for arguments in (("recost", out), ("verify", out)):
        code, stdout, stderr = command(*arguments)
        assert code == 5
        assert "the stored attempt 1 is damaged" in stdout + stderr


def test_costs_that_are_counted_again_are_not_damaged(job: Path) -> None:
    assert command("recost", job.parent / "out")[0] == 0
    assert command("verify", job.parent / "out")[0] == 0


def test_a_record_without_its_checksum_is_damaged(job: Path) -> None:
    out = job.parent / "out"
    tables = ("results", "attempts", "items", "requests", "run", "executions", "prices")
    for table in tables:
        with closing(sqlite3.connect(out / FILE_NAME)) as connection:
            connection.execute(f"UPDATE {table} SET checksum = NULL")
            connection.commit()
    code, stdout, _ = command("verify", out, "--json")
    assert code == 5
    assert len(json.loads(stdout)["findings"]) >= 4 * ROWS // 2
    assert "(7 more than are listed)" in stdout
