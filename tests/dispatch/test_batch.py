"""Batches from end to end: against the simulator's endpoints, with its bills as the oracle."""

from __future__ import annotations

import json
import signal
import tomllib
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import BATCH, LIVE, BatchMode, Job, RunOptions, cancel, run_job
from batchrun.checkpoint import Checkpoint, batches
from batchrun.errors import JobError
from batchrun.simulator import SimulatorConfig
from tests.conftest import ROOT, command, finish, start_batchrun, wait_until
from tests.support.distorted import DistortingTransport
from tests.support.vendor import CANCELED, vendor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchrun import RunReport

FORMATS = pytest.mark.parametrize("wire_format", ["messages", "chat"])
QUICK = "[batch]\npoll_s = 0.05\ndoubt_s = 0.5\n"


def run(job: Path, *, wait: bool = True, live: bool = False, **settings: Any) -> RunReport:
    keys = {name.replace("__", "."): value for name, value in settings.items()}
    options = RunOptions(
        quiet=True,
        yes=True,
        dispatcher=LIVE if live else BATCH,
        batches=BatchMode.WAIT if wait else BatchMode.ONE_PASS,
    )
    return run_job(Job.load(job, keys), options)


def stages(job: Path) -> list[str]:
    store = Checkpoint(job.parent / "out", writable=False)
    try:
        return [batch.stage.value for batch in batches(store)]
    finally:
        store.close()


@FORMATS
def test_every_row_is_answered_once_at_half_the_price(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor() as server:
        job = write_job(server.url, rows=120, wire_format=wire_format, extra=QUICK)
        report = run(job, batch__max_rows=50)
        assert (report.exit_code, report.error) == (0, None)
        usage = server.usage()
        assert (usage["billed"], usage["billed_in_batches"], usage["extra_bills"]) == (120, 120, 0)
        table = report.results.collect()
        assert table["id"].to_list() == [f"r{n:05d}" for n in range(120)]
        assert set(table["status"]) == {"succeeded"}
        assert stages(job) == ["collected"] * 3
        tokens = usage["batch_tokens"]
        # Half of 1 and 5 USD per million tokens.
        assert report.totals.cost.total == tokens[0] * 500_000 + tokens[1] * 2_500_000
        tiers = report.usage.collect()["service_tier"].to_list()
        assert tiers == ["batch"] * 120


@FORMATS
def test_live_after_batch_and_batch_after_live_send_nothing(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor() as server:
        job = write_job(server.url, rows=30, wire_format=wire_format, extra=QUICK)
        assert run(job).exit_code == 0
        asked = server.usage()["requests"]
        assert run(job, live=True).exit_code == 0
        assert server.usage()["requests"] == asked
        assert run(job, live=True, output__dir="other").exit_code == 0
        asked = server.usage()["requests"]
        assert run(job, output__dir="other").exit_code == 0
        assert server.usage()["requests"] == asked


@FORMATS
def test_one_pass_submits_and_a_later_one_collects(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=30, wire_format=wire_format, extra=QUICK)
        report = run(job, wait=False)
        assert report.exit_code == 7
        assert "1 batch with 30 rows is being worked on" in str(report.error)
        assert "run the same command again" in str(report.error)
        assert report.totals.pending == 30
        # Meanwhile the rows are neither sent live nor in another batch.
        assert run(job, live=True).exit_code == 7
        assert run(job, wait=False, input__limit=40).exit_code == 7
        server.pass_time(1_000)
        report = run(job)
        assert report.exit_code == 0
        assert server.usage()["billed"] == 30
        last = report.totals.last_execution
        assert last is not None
        assert last.succeeded == 30


@FORMATS
def test_lost_answers_of_create_are_found_again(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor(lost_create_rate=0.5, seed=3) as server:
        job = write_job(server.url, rows=60, wire_format=wire_format, extra=QUICK)
        report = run(job, batch__max_rows=7)
        assert report.exit_code == 0, report.error
        usage = server.usage()
        assert (usage["billed"], usage["extra_bills"]) == (60, 0)
        assert report.totals.maybe_billed == 0


@FORMATS
def test_torn_downloads_are_downloaded_again(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor(torn_download_rate=0.5, seed=1) as server:
        job = write_job(server.url, rows=60, wire_format=wire_format, extra=QUICK)
        report = run(job, batch__max_rows=10)
        assert report.exit_code == 0, report.error
        usage = server.usage()
        assert (usage["billed"], usage["extra_bills"]) == (60, 0)
        assert report.totals.attempts == 60


@FORMATS
@pytest.mark.parametrize("then", ["batch", "live"])
def test_expired_rows_are_sent_again(
    write_job: Callable[..., Path], wire_format: str, then: str
) -> None:
    # Which batches expire is drawn from the ids in them, which are new in each run: with few
    # batches and a low rate now and then none does.
    rate = 1.0 if then == "live" else 0.6
    with vendor(batch_expiry_rate=rate, seed=2) as server:
        job = write_job(server.url, rows=60, wire_format=wire_format, extra=QUICK)
        report = run(job, batch__max_rows=5, batch__then=then)
        assert report.exit_code == 0, report.error
        usage = server.usage()
        assert (usage["billed"], usage["extra_bills"]) == (60, 0)
        is_live = usage["billed_in_batches"] < 60
        assert is_live == (then == "live")
        assert report.totals.attempts > 60


def test_then_stop_ends_the_run_when_rows_expire(write_job: Callable[..., Path]) -> None:
    with vendor(batch_expiry_rate=1.0) as server:
        job = write_job(server.url, rows=20, extra=QUICK)
        report = run(job, batch__then="stop")
        assert report.exit_code == 4
        assert 'expired, and [batch] then = "stop"' in str(report.error)


@FORMATS
def test_errored_rows_are_tried_again_in_the_next_batch(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor(error_rate=0.2, seed=5) as server:
        job = write_job(server.url, rows=60, wire_format=wire_format, extra=QUICK)
        report = run(job)
        assert report.exit_code == 0, report.error
        usage = server.usage()
        assert (usage["billed"], usage["extra_bills"]) == (60, 0)
        assert report.totals.retries_by_cause


def test_the_queue_of_the_vendor_is_learned(write_job: Callable[..., Path]) -> None:
    with vendor(enqueued_tokens=3_000, batch_s=1.0) as server:
        job = write_job(server.url, rows=100, wire_format="chat", extra=QUICK)
        report = run(job, batch__max_rows=30)
        assert report.exit_code == 0, report.error
        usage = server.usage()
        assert (usage["billed"], usage["extra_bills"]) == (100, 0)
        assert usage["batches"] > 4


@FORMATS
def test_the_cost_limit_cuts_batches(write_job: Callable[..., Path], wire_format: str) -> None:
    with vendor() as server:
        job = write_job(server.url, rows=100, wire_format=wire_format, extra=QUICK)
        report = run(job, limits__max_cost_usd=0.005)
        assert report.exit_code == 4
        assert "max_cost_usd = 0.005 is reached" in str(report.error)
        assert 0 < report.totals.succeeded < 100
        assert report.totals.cost.total <= 0.005 * 10**12
        assert server.usage()["billed"] == report.totals.succeeded


def test_another_key_is_a_clear_message(
    write_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with vendor(batch_s=600, api_key="sk-first-key-000000") as server:
        job = write_job(server.url, rows=10, extra=QUICK)
        monkeypatch.setenv("TEST_KEY", "sk-first-key-000000")
        assert run(job, wait=False).exit_code == 7
        monkeypatch.setenv("TEST_KEY", "sk-other-key-000000")
        report = run(job, wait=False)
        assert report.exit_code == 2
        assert "with another API key or address" in str(report.error)
        monkeypatch.setenv("TEST_KEY", "sk-first-key-000000")
        assert run(job, wait=False).exit_code == 7
        assert stages(job) == ["sent"]


def test_no_batch_endpoint_is_an_error_before_anything_is_sent(
    write_job: Callable[..., Path],
) -> None:
    from tests.support.provider import refusal, serving

    with serving(lambda _: refusal(404, "not_found_error")) as server:
        job = write_job(server.url, rows=3, extra=QUICK)
        report = run(job)
        assert report.exit_code == 2
        assert "there is no batch endpoint at" in str(report.error)
        assert [call.path for call in server.calls] == ["/v1/messages/batches?limit=1"]


def test_invalid_json_goes_to_the_next_batch(write_job: Callable[..., Path]) -> None:
    schema = '{ type = "object", properties = { a = { type = "string" } }, required = ["a"] }'
    with vendor(invalid_json_rate=0.3, seed=4) as server:
        job = write_job(
            server.url, rows=40, request=f"json_schema = {schema}", extra=QUICK, wire_format="chat"
        )
        report = run(job, request__max_tokens=500)
        assert report.exit_code == 0, report.error
        assert report.totals.retries_by_cause["invalid_answer"] > 0
        for text in report.results.collect()["response"]:
            assert "a" in json.loads(text)


def test_samples_and_duplicates(write_job: Callable[..., Path]) -> None:
    with vendor() as server:
        job = write_job(server.url, rows=10, extra=QUICK)
        table = job.parent / "rows.csv"
        pl.DataFrame({"id": [f"r{n}" for n in range(10)], "text": ["same"] * 10}).write_csv(table)
        report = run(job, request__dedupe=True)
        assert report.exit_code == 0
        assert server.usage()["billed"] == 1
        report = run(job, request__samples=3, output__dir="samples")
        assert report.exit_code == 0
        assert server.usage()["billed"] == 31


def test_priming_lets_the_others_read_the_cache(write_job: Callable[..., Path]) -> None:
    system = "You are a careful translator. " * 400
    # The same body, whose cache batchrun knows of, and where it is the provider's own key.
    block = f'{{ type = "text", text = "{system}", cache_control = {{ type = "ephemeral" }} }}'
    arms = {
        "primed": f'system = "{system}"\ncache_system = true',
        "not primed": f"extra_body = {{ system = [{block}] }}",
    }
    wrote, cost = {}, {}
    for name, request in arms.items():
        with vendor() as server:
            job = write_job(server.url, rows=200, request=request, extra=QUICK)
            report = run(job, output__dir=name)
            assert report.exit_code == 0, report.error
            assert server.usage()["batches"] == (2 if name == "primed" else 1)
            writes = report.results.collect()["cache_write_tokens"].fill_null(0)
            wrote[name], cost[name] = (writes > 0).sum(), report.totals.cost.total
    assert wrote["primed"] == 1
    # The earlier half of a batch writes; that its ids are new in each run moves this by a few.
    assert 60 < wrote["not primed"] < 140
    assert cost["primed"] < 0.5 * cost["not primed"]


_MARKED_TURN = (
    '{ role = "user", content = "Hi", cache = true }, { role = "assistant", content = "Yes" }'
)


@pytest.mark.parametrize(
    ("request_lines", "sent"),
    [
        ('system = [{ text = "Be kind.", cache = true }]', [1, 11]),
        (
            'tools = [{ name = "look", input_schema = { type = "object" }, cache = true }]',
            [1, 11],
        ),
        (f'messages = [{_MARKED_TURN}, {{ role = "user", content = "{{{{ text }}}}" }}]', [1, 11]),
        # Nothing that others can read.
        ('messages = [{ role = "user", content = "{{ text }}", cache = true }]', [12]),
        ('system = "Be kind."', [12]),
    ],
)
def test_every_mark_for_the_cache_that_rows_share_starts_a_primer(
    write_job: Callable[..., Path], request_lines: str, sent: list[int]
) -> None:
    with vendor(batch_s=0) as server:
        job = write_job(server.url, rows=12, request=request_lines, extra=QUICK)
        if "messages" in request_lines:
            lines = job.read_text().splitlines(keepends=True)
            job.write_text("".join(line for line in lines if not line.startswith("prompt")))
        assert run(job).exit_code == 0
        store = Checkpoint(job.parent / "out", writable=False)
        assert [batch.rows for batch in batches(store)] == sent
        store.close()


def test_images_cut_batches_by_their_bytes(write_job: Callable[..., Path]) -> None:
    with vendor() as server:
        job = write_job(
            server.url, rows=10, request='images = ["{{ id }}.png"]', extra=QUICK + "max_mb = 0.5\n"
        )
        for n in range(10):
            (job.parent / f"r{n:05d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([n]) * 120_000)
        report = run(job)
        assert (report.exit_code, report.totals.succeeded) == (0, 10), report.error
        # An image has 160 KB as base64: three fit.
        assert server.usage()["batches"] == 4
        store = Checkpoint(job.parent / "out", writable=False)
        assert sorted(batch.rows for batch in batches(store)) == [1, 3, 3, 3]
        store.close()
        assert run(job, output__dir="small", batch__max_mb=0.1).exit_code == 0
        assert server.usage()["batches"] == 14, "what is larger than max_mb goes alone"


@FORMATS
def test_status_warns_before_results_are_deleted(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor(batch_s=10**7, age_s=26 * 86_400) as server:
        job = write_job(server.url, rows=3, wire_format=wire_format, extra=QUICK)
        assert run(job, wait=False).exit_code == 7
        code, stdout, _ = command("status", job.parent / "out")
        assert code == 0
        # Only Claude says how long results are kept.
        warning = "the provider deletes the results of 1 batch from"
        assert (warning in stdout) == (wire_format == "messages")


@FORMATS
def test_cancel_collects_what_was_answered(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor(**CANCELED) as server:
        job = write_job(server.url, rows=60, wire_format=wire_format, extra=QUICK)
        assert run(job, wait=False, batch__max_rows=20).exit_code == 7
        (canceled,) = cancel(job.parent / "out", RunOptions(quiet=True))
        assert canceled.exit_code == 0
        assert len(canceled.batches) == 3
        report = canceled.report
        assert report is not None
        assert report.totals.succeeded == server.usage()["billed"]
        assert report.totals.succeeded + report.totals.pending == 60
        assert stages(job) == ["collected"] * 3
        (again,) = cancel(job.parent / "out", RunOptions(quiet=True))
        assert "no batches are open" in again.text()
        assert run(job, live=True).exit_code == 0
        assert server.usage()["extra_bills"] == 0


@FORMATS
def test_cancel_counts_what_it_collected_and_what_is_still_open(
    write_job: Callable[..., Path], wire_format: str
) -> None:
    with vendor(**CANCELED) as server:
        job = write_job(server.url, rows=30, wire_format=wire_format, extra=QUICK)
        # Most rows are in no batch: the cost limit has no room for them.
        assert run(job, wait=False, limits__max_cost_usd=0.0015).exit_code == 7
        store = Checkpoint(job.parent / "out", writable=False)
        (batch,) = batches(store)
        store.close()
        assert batch.rows < 15
        (canceled,) = cancel(
            job.parent / "out", RunOptions(quiet=True, transport=DistortingTransport(_refused))
        )
        assert canceled.exit_code == 4
        assert "0 of 1 batch closed, 1 still open; 0 answers collected" in canceled.text()
        (canceled,) = cancel(job.parent / "out", RunOptions(quiet=True))
        billed = server.usage()["billed"]
        assert canceled.answered == billed
        text = f"1 batch with {batch.rows} rows closed; {billed} answer"
        assert text in canceled.text()


def _refused(kind: str, status: int, body: bytes) -> tuple[int, bytes]:
    return (403, b"{}") if kind == "list" else (status, body)


def test_rows_without_room_are_counted_with_the_reason(write_job: Callable[..., Path]) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=60, extra=QUICK)
        limit = ("--set", "limits.max_cost_usd=0.0015")
        for _ in range(2):
            code, _, stderr = command("run", job, "--batch", "--no-wait", *limit)
            assert code == 7
            store = Checkpoint(job.parent / "out", writable=False)
            (batch,) = batches(store)
            store.close()
            rest = f"{60 - batch.rows} rows are not submitted yet: of max_cost_usd = 0.0015, the open batches"
            assert f"1 batch with {batch.rows} rows is being worked on" in stderr
            assert rest in stderr
        # Once there is room for all, nothing waits.
        code, _, stderr = command("run", job, "--batch", "--no-wait")
        assert code == 7
        assert "2 batches with 60 rows are being worked on" in stderr
        assert "not submitted" not in stderr


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_live_run_ends_when_open_batches_reserve_all_money(
    write_job: Callable[..., Path], workers: tuple[str, ...]
) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=60, extra=QUICK)
        limit = ("--set", "limits.max_cost_usd=0.0015")
        assert command("run", job, "--batch", "--no-wait", *limit)[0] == 7
        code, _, stderr = finish(start_batchrun("run", job, *limit, *workers))
        assert code == 7
        assert "being worked on" in stderr
        assert "of max_cost_usd = 0.0015, the open batches reserve" in stderr
        assert "--batch to wait for them" in stderr
        assert "batchrun cancel" in stderr
        # With more money the other rows are sent live, and the batch stays where it is.
        code, _, stderr = command("run", job, "--set", "limits.max_cost_usd=1")
        assert code == 7
        assert "not submitted" not in stderr
        assert server.usage()["billed_in_batches"] == 0
        assert server.usage()["billed"] > 0


def test_rows_that_a_full_queue_holds_back_are_counted(write_job: Callable[..., Path]) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=100, wire_format="chat", extra=QUICK)
        report = run(job, wait=False, batch__enqueued_tokens=600)
        out = sum(batch.out for batch in report.totals.open_batches)
        assert report.exit_code == 7
        assert 0 < out < 100
        text = f"{100 - out} rows are not submitted yet: the open batches fill the provider's queue"
        assert text in str(report.error)


def test_a_queue_without_room_for_the_first_batch_does_not_finish_the_run(
    write_job: Callable[..., Path],
) -> None:
    with vendor() as server:
        job = Job.load(write_job(server.url, rows=30, wire_format="chat", extra=QUICK))
        report = run_job(
            job,
            RunOptions(
                quiet=True,
                dispatcher=BATCH,
                batches=BatchMode.ONE_PASS,
                transport=DistortingTransport(_queue_is_full),
            ),
        )
        assert report.totals.open_batches == ()
        assert report.exit_code == 7
        text = "30 rows are not submitted yet: the provider's queue of batches for"
        assert str(report.error).startswith(text)
        assert "run the same command again to submit them" in str(report.error)


def test_a_queue_that_was_full_at_once_is_remembered_by_the_next_execution(
    write_job: Callable[..., Path],
) -> None:
    with vendor(batch_s=600, enqueued_tokens=1_500) as server:
        job = write_job(server.url, rows=60, extra=QUICK)  # with 1,560 tokens
        open_rows = []
        for _ in range(3):
            report = run(job, wait=False)
            assert report.exit_code == 7
            open_rows.append([batch.rows for batch in report.totals.open_batches])
        assert open_rows == [[], [30], [30]]


def _queue_is_full(kind: str, status: int, body: bytes) -> tuple[int, bytes]:
    full = b'{"error": {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}}'
    return (400, full) if kind == "create" else (status, body)


def test_batches_of_an_unreachable_provider_are_said_to_be_unchecked(
    write_job: Callable[..., Path],
) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=10, extra=QUICK)
        assert run(job, wait=False).exit_code == 7
    code, _, stderr = command("run", job)
    assert code == 7
    assert "1 batch with 10 rows could not be checked (" in stderr
    assert "being worked on" not in stderr


def test_ctrl_c_leaves_batches_running_and_says_so(write_job: Callable[..., Path]) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=30, extra=QUICK)
        process = start_batchrun("run", job, "--batch")
        wait_until(lambda: server.usage()["batches"], process)
        wait_until(lambda: "sent" in stages(job), process)
        process.send_signal(signal.SIGINT)
        code, _, stderr = finish(process)
        assert code == 130, stderr
        assert "1 batch with 30 rows keeps running at the provider" in stderr
        assert "0 requests" not in stderr
        assert f"batchrun cancel {job.parent / 'out'}" in stderr
        server.pass_time(1_000)
        assert run(job).exit_code == 0
        assert server.usage()["billed"] == 30


def test_the_command_line_of_batches(write_job: Callable[..., Path]) -> None:
    with vendor(**CANCELED) as server:
        job = write_job(server.url, rows=10, extra=QUICK)
        code, _, stderr = command("run", job, "--no-wait")
        assert code == 2
        assert "--no-wait needs --batch" in stderr
        code, _, stderr = command("run", job, "--batch", "--no-wait")
        assert code == 7
        last = stderr.strip().splitlines()[-1]
        assert last.startswith("1 batch with 10 rows is being worked on (at the latest by")
        code, stdout, _ = command("status", job.parent / "out", "--json")
        facts = json.loads(stdout)
        (batch,) = facts["batches"]
        assert (batch["stage"], batch["rows"], batch["rows_out"]) == ("sent", 10, 10)
        assert batch["id"].startswith("msgbatch_")
        assert batch["reserved_usd"] > 0
        assert (facts["rows_in_batches"], facts["in_flight"]) == (10, 0)
        code, stdout, _ = command("status", job.parent / "out")
        assert batch["id"] in stdout
        assert "expires" in stdout
        code, stdout, stderr = command("cancel", job.parent / "out")
        assert code == 0, stderr
        assert "1 batch with 10 rows closed" in stdout


def test_tools_are_refused_at_load(write_job: Callable[..., Path]) -> None:
    job = write_job("http://127.0.0.1:9", rows=1)
    (job.parent / "tools.py").write_text("def look(a: str) -> str:\n    return a\n")
    tools = '[{ name = "look", input_schema = { type = "object" } }]'
    with pytest.raises(JobError, match="several requests for a row"):
        run(job, request__tools=tomllib.loads(f"t = {tools}")["t"], tools__module="tools.py")


def test_a_simulated_job_runs_in_batches_within_seconds(tmp_path: Path) -> None:
    code, _, stderr = command(
        *("run", ROOT / "jobs" / "nightly.toml", "--simulate", "--batch"),
        *("--output-dir", tmp_path / "out"),
    )
    assert code == 0, stderr
    assert "batches saved $" in stderr


def test_simulated_batches_are_kept_until_nobody_needs_them(write_job: Callable[..., Path]) -> None:
    job = write_job("http://127.0.0.1:9", rows=4, extra=QUICK)
    out = job.parent / "out.simulated"
    slow = RunOptions(
        quiet=True,
        simulate=SimulatorConfig(batch_s=40),
        dispatcher=BATCH,
        batches=BatchMode.ONE_PASS,
    )
    assert run_job(Job.load(job), slow).exit_code == 7
    assert list((out / "simulated_batches").iterdir())
    (canceled,) = cancel(out, RunOptions(quiet=True))
    assert canceled.exit_code == 0
    assert not (out / "simulated_batches").exists()
    assert command("run", job, "--simulate", "--batch", "--quiet")[0] == 0
    assert not (out / "simulated_batches").exists()


def test_estimate_shows_live_and_batch_side_by_side(write_job: Callable[..., Path]) -> None:
    job = write_job("http://127.0.0.1:9", rows=50)
    code, stdout, stderr = command("estimate", job, "--json")
    assert code == 0, stderr
    facts = json.loads(stdout)
    live, batch = facts["cost_usd"], facts["batch_cost_usd"]
    assert batch["expected"] == pytest.approx(live["expected"] / 2, rel=0.01)
    assert facts["batch_saves_usd"] == pytest.approx(live["expected"] - batch["expected"])
    code, stdout, _ = command("estimate", job)
    assert "in batches  $" in stdout
    assert "--batch saves $" in stdout


def test_estimate_says_when_the_prices_of_the_job_apply_to_batches(
    write_job: Callable[..., Path],
) -> None:
    job = write_job("http://127.0.0.1:9", rows=50, extra="[price]\ninput = 1\noutput = 2\n")
    stdout = command("estimate", job)[1]
    assert "by the same prices; if batches cost less, set [price] batch, such as 0.5" in stdout
    flex = ("--set", "request.service_tier=flex", "--set", "request.model=gpt-5-mini")
    chat = write_job("http://127.0.0.1:9", rows=50, wire_format="chat", provider="openai")
    stdout = command("estimate", chat, *flex)[1]
    assert "no less than with service_tier = 'flex'" in stdout
    job = write_job("http://127.0.0.1:9", rows=50, extra="[price]\ninput = 1\noutput = 2\n")
    half = json.loads(command("estimate", job, "--set", "price.batch=0.5", "--json")[1])
    assert half["batch_saves_usd"] == pytest.approx(half["cost_usd"]["expected"] / 2)
    code, _, stderr = command("estimate", job, "--set", "price.batch=50")
    assert code == 2
    assert "[price] batch: must be above 0 and at most 1" in stderr


def test_new_does_not_leave_open_batches_unless_asked(write_job: Callable[..., Path]) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=4, extra=QUICK)
        assert run(job, wait=False).exit_code == 7
        code, _, stderr = command("run", job, "--batch", "--no-wait", "--new")
        assert code == 2
        assert "1 batch with 4 rows of the previous run" in stderr
        assert server.usage()["batches"] == 1
        assert command("run", job, "--batch", "--no-wait", "--new", "--yes")[0] == 7
        assert server.usage()["batches"] == 2


def test_a_change_that_leaves_rows_in_batches_behind_takes_a_yes(
    write_job: Callable[..., Path],
) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=8, extra=QUICK)
        assert run(job, wait=False).exit_code == 7
        again = ("run", job, "--batch", "--no-wait")
        code, _, stderr = command(*again, "--set", "request.temperature=0.5")
        assert code == 2
        assert "8 of 8 answers that are paid or in batches would no longer be used" in stderr
        assert (
            f"8 are in batches at the provider, and will be billed. To cancel these: batchrun cancel {job.parent / 'out'}"
            in stderr
        )
        assert "8 requests would be sent" in stderr
        assert server.usage()["batches"] == 1
        assert command(*again)[0] == 7, "the same job asks nothing"
        code, _, stderr = command(*again, "--set", "request.temperature=0.5", "--yes")
        assert code == 7
        assert "0 answers reused, 8 no longer used, 8 requests to send" in stderr
        assert server.usage()["batches"] == 2


def test_a_matrix_says_how_many_batches_are_out_and_new_moves_its_simulated_ones(
    write_job: Callable[..., Path],
) -> None:
    matrix = '[matrix]\nmodel = ["claude-haiku-4-5", "claude-sonnet-4-5"]\n'
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=4, extra=QUICK + matrix)
        code, _, stderr = command("run", job, "--batch", "--no-wait")
        assert code == 7
        assert "2 batches with 8 rows are being worked on" in stderr
        status = command("status", job.parent / "out")[1]
        assert status.count("msgbatch_") == 2
        assert "model=claude-sonnet-4-5: msgbatch_" in status
        assert (
            "2 batches with 8 rows of the previous run"
            in (command("run", job, "--batch", "--new")[2])
        )
    for _ in range(2):
        code, _, stderr = command("run", job, "--simulate", "--batch", "--new")
        assert code == 0, stderr


def test_verify_finds_nothing_wrong_while_batches_are_out(write_job: Callable[..., Path]) -> None:
    with vendor(batch_s=600) as server:
        job = write_job(server.url, rows=4, extra=QUICK)
        assert run(job, wait=False).exit_code == 7
        summary = job.parent / "out" / "summary.json"
        facts = json.loads(summary.read_bytes())
        facts["batches"][0]["age_s"] -= 5  # as if it had been written five seconds ago
        summary.write_text(json.dumps(facts))
        code, stdout, stderr = command("verify", job.parent / "out")
        assert code == 0, stdout + stderr


def test_headers_that_differ_by_row_are_refused(write_job: Callable[..., Path]) -> None:
    request = 'extra_headers = { "x-row" = "{{ id }}" }'
    job = write_job("http://127.0.0.1:9", rows=3, request=request, extra=QUICK)
    code, _, stderr = command("run", job, "--batch")
    assert code == 2
    assert "--batch: [request] extra_headers.x-row is a template" in stderr
