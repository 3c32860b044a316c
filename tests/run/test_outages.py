"""Providers that refuse, fall silent, die and come back while a run goes on."""

from __future__ import annotations

import itertools
import json
import socketserver
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from tests.conftest import DEADLINE_S, command, environment, start_batchrun
from tests.support.provider import Call, Provider, Reply, answer, kept_port, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import polars as pl

    WriteJob = Callable[..., Path]
    Results = Callable[[], pl.DataFrame]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "summary.json").read_text())  # type: ignore[no-any-return]


def test_a_storm_of_429_is_ridden_out(write_job: WriteJob, tmp_path: Path) -> None:
    begun: list[float] = []

    def decide(call: Call) -> Reply:
        begun.append(time.monotonic())
        if begun[-1] - begun[0] < 1.5:
            return refusal(429, "rate_limit_error", retry_after="0.5")
        return answer(call)

    with serving(decide) as provider:
        code, _, stderr = command("run", write_job(provider.url, rows=60))
    assert code == 0, stderr
    assert set(provider.billed.values()) == {1}
    assert len(provider.billed) == 60
    # One pause for all, not sixty requests that each knock again.
    assert len(provider.calls) < 2 * 60
    assert summary(tmp_path)["counts"]["succeeded"] == 60


def test_429_without_end_ends_by_the_longest_wait_and_can_be_resumed(write_job: WriteJob) -> None:
    with serving(lambda _: refusal(429, "rate_limit_error", retry_after="0.2")) as provider:
        job = write_job(provider.url, rows=8, extra="[retry]\nmax_wait_s = 1")
        start = time.monotonic()
        code, _, stderr = command("run", job)
        assert code == 4, stderr
        assert time.monotonic() - start < 20
        provider.decide = answer
        assert command("run", job)[0] == 0
    assert sorted(provider.billed.values()) == [1] * 8


def test_an_outage_and_a_recovery(write_job: WriteJob, results: Results) -> None:
    begun: list[float] = []

    def decide(call: Call) -> Reply:
        begun.append(time.monotonic())
        if 0.2 < begun[-1] - begun[0] < 1.5:
            return refusal(503, "api_error", "down")
        return answer(call, delay_s=0.05)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=40, extra="[retry]\nmax_attempts = 15")
        code, _, stderr = command("run", job)
    assert code == 0, stderr
    assert results()["status"].to_list() == ["succeeded"] * 40
    assert sorted(provider.billed.values()) == [1] * 40


def test_an_outage_longer_than_the_patience_of_a_run(write_job: WriteJob, results: Results) -> None:
    with serving(lambda _: refusal(503, "api_error", "down")) as provider:
        # An outage uses up no attempts, so that there are only two does not matter.
        job = write_job(provider.url, rows=6, extra="[retry]\nmax_attempts = 2\nmax_wait_s = 2")
        code, _, stderr = command("run", job)
        assert (code, "no request succeeded within [retry] max_wait_s = 2 s" in stderr) == (
            4,
            True,
        ), stderr
        assert "api_error: down" in stderr
        assert results()["status"].to_list() == ["pending"] * 6
        provider.decide = answer
        assert command("run", job)[0] == 0
    assert sorted(provider.billed.values()) == [1] * 6


def test_the_cause_of_an_outage_is_shown_while_it_lasts(
    write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job("http://127.0.0.1:9", rows=500, extra="[retry]\nmax_wait_s = 3")
    log = tmp_path / "log.jsonl"
    code, _, stderr = command("run", job, "--log-file", log)
    assert code == 4, stderr
    reasons = [
        event["reason"]
        for event in map(json.loads, log.read_text().splitlines())
        if event["event"] == "waiting" and event["reason"]
    ]
    # Before the first failure is known, it waits for the server.
    reasons = [reason for reason in reasons if "in flight" not in reason]
    assert reasons
    assert all("connection refused (127.0.0.1:9)" in reason for reason in reasons), reasons
    # The pauses are ours: no provider asked for one.
    assert "asks to wait" not in stderr


def test_a_server_that_dies_and_comes_back_on_the_same_port(
    write_job: WriteJob, results: Results, tmp_path: Path
) -> None:
    """It drops what is in flight, refuses connections for a while, and comes back without memory."""
    down = threading.Event()

    def decide(call: Call) -> Reply:
        if call.number > 15:
            down.set()
            return Reply(delay_s=60)
        return answer(call)

    with ExitStack() as stack:
        port = stack.enter_context(kept_port())
        first = Provider(decide, port)
        first.start()
        job = write_job(first.url, rows=40, extra="[limits]\nconcurrency = 8")
        returned: list[Provider] = []

        def restart() -> None:
            assert down.wait(DEADLINE_S)
            first.stop()
            time.sleep(0.7)
            returned.append(stack.enter_context(serving(port=port)))

        restarting = threading.Thread(target=restart)
        restarting.start()
        code, _, stderr = command("run", job)
        restarting.join(DEADLINE_S)
    assert code == 0, stderr
    assert results()["status"].to_list() == ["succeeded"] * 40
    # What the first had billed and not delivered was asked for again, and is counted so.
    twice = first.billed.keys() & returned[0].billed.keys()
    assert len(twice) <= summary(tmp_path)["possibly_double_billed"] <= 8
    assert len(first.billed.keys() | returned[0].billed.keys()) == 40


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT", "date": "Thu, 31 Dec 2099 23:59:59 GMT"},
        {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"retry-after": "0.1", "date": "Mon, 01 Jan 1900 00:00:00 GMT"},
        {"retry-after": "-5"},
        {"retry-after": "nan"},
        {"retry-after": "0.1", "anthropic-ratelimit-requests-reset": "1970-01-01T00:00:00Z"},
    ],
)
def test_a_provider_whose_clock_is_wrong(write_job: WriteJob, headers: dict[str, str]) -> None:
    limits = {
        "anthropic-ratelimit-requests-limit": "1000",
        "anthropic-ratelimit-requests-remaining": "900",
        "anthropic-ratelimit-requests-reset": "1969-12-31T23:59:59+00:00",
    }

    def decide(call: Call) -> Reply:
        if call.number == 1:
            return Reply(429, b"{}", headers)
        return answer(call, headers=limits)

    with serving(decide) as provider:
        code, _, stderr = command("run", write_job(provider.url, rows=5))
    assert code == 0, stderr
    assert len(provider.calls) <= 10


def test_a_clock_of_this_machine_that_jumps(
    write_job: WriteJob, results: Results, tmp_path: Path
) -> None:
    """Days forth and back, as when a laptop wakes up: only times that are shown depend on it."""
    true_ns, jumps = time.time_ns, itertools.cycle([0, 10**15, -(10**15)])

    def jumping_ns() -> int:
        return true_ns() + next(jumps)

    def jumping() -> float:
        return jumping_ns() / 1e9

    with (
        serving() as provider,
        mock.patch("time.time_ns", jumping_ns),
        mock.patch("time.time", jumping),
    ):
        job = write_job(provider.url, rows=20)
        assert command("run", job)[0] == 0
        assert command("run", job)[0] == 0
        assert command("status", "out", cwd=tmp_path)[0] == 0
    assert len(provider.calls) == 20
    assert results()["latency_s"].min() >= 0  # type: ignore[operator]
    assert summary(tmp_path)["wall_time_s"] >= 0


def test_a_server_that_trickles_is_given_up_and_tried_again(
    write_job: WriteJob, results: Results
) -> None:
    def decide(call: Call) -> Reply:
        return answer(call, delay_s=30 if call.seen == 0 else 0)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=4, extra="[retry]\ntimeout_s = 2")
        code, _, stderr = command("run", job)
    assert code == 0, stderr
    assert results()["attempts"].to_list() == [2] * 4


class PlainHttp(socketserver.BaseRequestHandler):
    """Answers whatever arrives as nginx and uvicorn answer what is no HTTP."""

    def handle(self) -> None:
        self.request.recv(65_536)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


def test_https_at_a_port_that_speaks_plain_http_stops_the_run(
    write_job: WriteJob, results: Results
) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), PlainHttp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base_url = f"https://127.0.0.1:{server.server_address[1]}"
        job = write_job(base_url, rows=3, extra="[retry]\nmax_wait_s = 60")
        code, _, stderr = command("run", job, "-q")
        server.shutdown()
    assert code == 4
    assert f"{base_url}/v1/messages cannot be reached: no TLS connection can be made" in stderr
    assert "write http:// there if the server does not speak https" in stderr
    assert "max_wait_s" not in stderr  # another attempt would end in the same way
    assert results()["status"].to_list() == ["pending"] * 3


def test_quiet_says_that_it_waits_for_a_server_that_is_not_there_yet(
    write_job: WriteJob, results: Results
) -> None:
    with kept_port() as port:
        job = write_job(f"http://127.0.0.1:{port}", rows=3)
        with start_batchrun("run", job, "-q", env=environment()) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            with serving(port=port):
                _, rest = process.communicate(timeout=2 * DEADLINE_S)
    assert line == (
        f"job: no request has succeeded yet (connection refused (127.0.0.1:{port})); the run tries "
        "again, and stops when a row has waited 600 s ([retry] max_wait_s)\n"
    )
    assert (process.returncode, rest) == (0, "")
    assert results()["status"].to_list() == ["succeeded"] * 3


@pytest.mark.parametrize(
    ("base_url", "said"),
    [
        ("https://no-such-host.invalid", "dns error"),
        ("http://127.0.0.1:9", "onnection refused"),
        ("http://[::1]:9", "onnect"),
    ],
)
def test_a_provider_that_cannot_be_reached_is_no_error_of_its_rows(
    write_job: WriteJob, results: Results, tmp_path: Path, base_url: str, said: str
) -> None:
    job = write_job(base_url, rows=3, extra="[retry]\nmax_attempts = 1\nmax_wait_s = 1")
    code, _, stderr = command("run", job)
    assert (code, said in stderr) == (4, True), stderr
    assert results()["status"].to_list() == ["pending"] * 3
    # Nothing has left this machine, so nothing can have been billed.
    assert summary(tmp_path)["possibly_double_billed"] == 0
