"""Batches whose results are not as they should be, against the simulator's bills."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchrun import BATCH, BatchMode, Job, RunOptions, run_job, verify
from tests.conftest import command
from tests.support.distorted import DistortingTransport
from tests.support.vendor import vendor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchrun import RunReport

    Change = Callable[[str, int, bytes], tuple[int, bytes]]

FORMATS = pytest.mark.parametrize("wire_format", ["messages", "chat"])
QUICK = "[batch]\npoll_s = 0.05\ndoubt_s = 0.5\nmax_rows = 4\n"
ROWS = 6
NOT_FOUND = b'{"error": {"type": "not_found_error", "message": "no such batch"}}'


def results_are(change: Callable[[bytes], bytes], *, downloads: int = 10**6) -> Change:
    """Change the first downloads of results."""
    seen = 0

    def changed(kind: str, status: int, body: bytes) -> tuple[int, bytes]:
        nonlocal seen
        seen += kind == "results"
        return status, change(body) if kind == "results" and seen <= downloads else body

    return changed


def every_batch(change: Callable[[dict[str, Any]], None]) -> Change:
    """Change what is said about each batch."""

    def changed(kind: str, status: int, body: bytes) -> tuple[int, bytes]:
        if kind not in {"list", "create", "get"}:
            return status, body
        payload = json.loads(body)
        for batch in payload.get("data", [payload]):
            change(batch)
        return status, json.dumps(payload).encode()

    return changed


def without_the_first_line(body: bytes) -> bytes:
    return b"".join(body.splitlines(keepends=True)[1:])


def with_strangers(body: bytes) -> bytes:
    """Lines of requests that nobody sent, of this batch and of others."""
    lines = body.splitlines(keepends=True)
    return b"".join(
        [*lines, *(line.replace(b"-", b"-9", 1) for line in lines), *(b"{}\n" for _ in lines)]
    )


def enormous(body: bytes) -> bytes:
    """The first answer has 40 MB."""
    first, *rest = body.splitlines(keepends=True)
    line = json.loads(first)
    text = "x" * 40_000_000
    if "result" in line:
        line["result"]["message"]["content"][0]["text"] = text
    else:
        line["response"]["body"]["choices"][0]["message"]["content"] = text
    return b"".join([json.dumps(line).encode(), b"\n", *rest])


def run(job: Path, change: Change, *, wait: bool = True, quiet: bool = True) -> RunReport:
    options = RunOptions(
        quiet=quiet,
        yes=True,
        dispatcher=BATCH,
        batches=BatchMode.WAIT if wait else BatchMode.ONE_PASS,
        transport=DistortingTransport(change),
    )
    return run_job(Job.load(job), options)


HARMLESS: dict[str, Change] = {
    "each line twice": results_are(lambda body: body + body),
    "the first download ends too early": results_are(without_the_first_line, downloads=1),
    "the first download is empty": results_are(lambda _: b"", downloads=1),
    "the first download ends within a line": results_are(lambda body: body[:-40], downloads=1),
    "counts that cannot be": every_batch(
        lambda batch: batch.update(request_counts=dict.fromkeys(batch["request_counts"], 10**9))
    ),
    "no counts": every_batch(lambda batch: batch.pop("request_counts", None)),
}


@FORMATS
@pytest.mark.parametrize("name", HARMLESS)
def test_odd_results_cost_nothing_and_lose_nothing(
    write_job: Callable[..., Path], wire_format: str, name: str
) -> None:
    with vendor() as server:
        job = write_job(server.url, rows=ROWS, wire_format=wire_format, extra=QUICK)
        report = run(job, HARMLESS[name])
        assert (report.exit_code, report.totals.succeeded) == (0, ROWS), report.error
        assert report.totals.maybe_billed == 0
        usage = server.usage()
        assert (usage["billed"], usage["batches"]) == (ROWS, 2)
        assert verify(job.parent / "out").exit_code == 0


@FORMATS
def test_lines_of_strangers_are_passed_over(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor() as server:
        job = write_job(server.url, rows=ROWS, wire_format=wire_format, extra=QUICK)
        report = run(job, results_are(with_strangers))
        assert (report.exit_code, report.totals.succeeded) == (0, ROWS), report.error
        assert server.usage()["billed"] == ROWS


@FORMATS
def test_an_enormous_answer_is_an_error_of_its_row(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor() as server:
        job = write_job(server.url, rows=ROWS, wire_format=wire_format, extra=QUICK)
        report = run(job, results_are(enormous, downloads=1))
        assert (report.exit_code, report.totals.errored) == (3, 1), report.error
        (error,) = report.results.collect()["error_type"].drop_nulls()
        assert error == "response_too_large"
        assert server.usage()["billed"] == ROWS


@FORMATS
def test_an_answer_that_is_never_in_the_results_is_paid_for_max_attempts_times(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor() as server:
        extra = QUICK + "[retry]\nmax_attempts = 2\n"
        job = write_job(server.url, rows=3, wire_format=wire_format, extra=extra)
        report = run(job, results_are(without_the_first_line))
        assert report.exit_code == 3, report.error
        (error,) = report.results.collect()["error_type"].drop_nulls()
        assert error == "batch_missing"
        usage = server.usage()
        assert (usage["billed"], usage["batches"]) == (4, 2)
        assert report.totals.maybe_billed == 2
        assert verify(job.parent / "out").exit_code == 0


def test_one_pass_closes_a_batch_whose_results_are_not_whole(
    write_job: Callable[..., Path],
) -> None:
    with vendor(batch_s=0) as server:
        job = write_job(server.url, rows=4, extra=QUICK)
        report = run(job, results_are(without_the_first_line), wait=False)
        # As before the end of the pass it was collected, its row waits for the next one.
        assert (report.totals.succeeded, report.totals.pending) == (3, 1), report.error
        assert report.totals.open_batches == ()


def test_a_batch_that_is_refused_as_a_whole_ends_the_run(write_job: Callable[..., Path]) -> None:
    error = {"code": "model_not_found", "message": "The model 'x' has no batches.", "line": 2}

    def refused(batch: dict[str, Any]) -> None:
        batch.update(status="failed", output_file_id=None, errors={"data": [error]})

    with vendor(batch_s=30) as server:
        job = write_job(server.url, rows=3, wire_format="chat", extra=QUICK)
        report = run(job, every_batch(refused))
        assert report.exit_code == 4
        text = (
            "the provider refused a batch (line 2, row r00001): model_not_found: "
            "The model 'x' has no batches."
        )
        assert text in str(report.error)
        assert (report.totals.pending, report.totals.attempts, report.totals.maybe_billed) == (
            3,
            0,
            0,
        )
        assert verify(job.parent / "out").exit_code == 0
        # A row that is new, and the first one.
        table = job.parent / "rows.csv"
        header, *rows = table.read_text().splitlines()
        table.write_text("\n".join([header, "new,text", *rows]))
        report = run(job, every_batch(refused))
        assert "(line 2, row r00000)" in str(report.error)
        error["line"] = 9
        assert "refused a batch (line 9): model_not_found" in str(
            run(job, every_batch(refused)).error
        )


@FORMATS
def test_a_refused_download_is_said_with_its_address(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    body = b'{"error": {"type": "permission_error", "message": "this key may not read files"}}'

    def refused(kind: str, status: int, content: bytes) -> tuple[int, bytes]:
        return (403, body) if kind == "results" else (status, content)

    with vendor(batch_s=0) as server:
        job = write_job(server.url, rows=3, wire_format=wire_format, extra=QUICK)
        report = run(job, refused)
        assert report.exit_code == 4
        end = "/results" if wire_format == "messages" else "/content"
        said = str(report.error)
        assert f"{server.url}/v1/" in said
        assert f"{end} refused the request: HTTP 403 permission_error" in said
        assert "may use batches and their files" in said
        assert report.totals.pending == 3
        assert run(job, lambda _, *same: same).exit_code == 0
        assert server.usage()["extra_bills"] == 0


@FORMATS
@pytest.mark.parametrize("status", [404, 410])
def test_a_batch_that_the_provider_has_lost_is_sent_again_and_said(
    write_job: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    wire_format: str,
    status: int,
) -> None:
    def lost(kind: str, before: int, body: bytes) -> tuple[int, bytes]:
        if kind == "list":
            return before, json.dumps({**json.loads(body), "data": []}).encode()
        return (status, NOT_FOUND) if kind == "get" else (before, body)

    with vendor(batch_s=0) as server:
        job = write_job(server.url, rows=4, wire_format=wire_format, extra=QUICK)
        report = run(job, lost, wait=False, quiet=False)
        said = capsys.readouterr().err
        assert "the provider no longer has the results of the batch; 4 rows may have been" in said
        assert report.totals.maybe_billed == 4
        assert report.totals.open_batches == ()
        code, _, stderr = command("run", job, "--batch")
        assert code == 0, stderr
        assert server.usage()["extra_bills"] == 4
        summary = json.loads((job.parent / "out" / "summary.json").read_bytes())
        assert summary["possibly_double_billed"] == 4
