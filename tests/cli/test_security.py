"""What must never happen: a key that leaks, a terminal that is steered, a secret sent to the wrong."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import trustme

from tests.conftest import DEADLINE_S, KEY, command, environment, finish, start_batchrun
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    WriteJob = Callable[..., Path]

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp"
STEERING = ("\x1b", "\x07", "\x9b", "\u202e", "\x00")


def everything_below(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


# The canary


def echo_in_error(call: Call, key: str) -> Reply:
    return refusal(400, key, f"key {key} of {call.path} refused", request_id=key)


def echo_in_page(_: Call, key: str) -> Reply:
    return Reply(400, f"<html>{key}</html>".encode())


def echo_in_redirect(_: Call, key: str) -> Reply:
    return Reply(302, b"", {"location": f"https://elsewhere.example/?key={key}"})


def echo_in_answer(call: Call, key: str) -> Reply:
    reply = answer(call, f"You sent {key}.")
    body = json.loads(reply.body) | {"id": f"id {key}", "model": f"{key}", "stop_reason": key}
    body["content"] += [
        {"type": "thinking", "thinking": key},
        {"type": "tool_use", "id": key, "name": key, "input": {key: [key]}},
    ]
    return Reply(200, json.dumps(body).encode(), {"request-id": key, "x-echo": key})


@pytest.mark.parametrize(
    ("echo", "exit_code"),
    [
        (echo_in_error, 4),
        (echo_in_page, 4),
        (echo_in_redirect, 4),
        (echo_in_answer, 0),
    ],
)
def test_a_key_that_the_server_sends_back_is_nowhere(
    write_job: WriteJob, tmp_path: Path, echo: Callable[[Call, str], Reply], exit_code: int
) -> None:
    with serving(lambda call: echo(call, call.headers["x-api-key"])) as provider:
        job = write_job(provider.url, rows=3, extra='files = ["results.parquet", "results.csv"]')
        code, stdout, stderr = command("run", job, "--log-file", tmp_path / "log.jsonl")
    assert provider.calls
    assert code == exit_code, stderr
    for subcommand in (["status"], ["status", "--json"], ["export"], ["report"], ["verify"]):
        _, out, err = command(*subcommand, "out", cwd=tmp_path)
        stdout, stderr = stdout + out, stderr + err
    assert (tmp_path / "log.jsonl").stat().st_size
    assert (tmp_path / "out" / "report.html").stat().st_size
    _, out, err = command("preview", job)
    found = everything_below(tmp_path)
    for text in (stdout + out, stderr + err, found.decode("latin-1")):
        assert KEY[:12] not in text
    results = pl.read_csv(tmp_path / "out" / "results.csv")
    assert "***" in stderr + "".join(str(value) for value in results.row(0))


def test_the_key_is_in_no_process_list_and_in_no_file_while_running(
    write_job: WriteJob, tmp_path: Path
) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def decide(call: Call) -> Reply:
        arrived.set()
        go_on.wait(DEADLINE_S)
        return answer(call)

    with serving(decide) as provider:
        process = start_batchrun("run", write_job(provider.url, rows=2))
        assert arrived.wait(DEADLINE_S)
        commands = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        found = everything_below(tmp_path)
        go_on.set()
        assert finish(process)[0] == 0
    assert b"batchrun" in commands
    assert KEY.encode() not in commands + found


def test_a_key_with_characters_of_no_key_is_not_quoted(write_job: WriteJob) -> None:
    for key in (f"{KEY}\nx-other: 1", f"{KEY} and more", f"{KEY}é"):
        code, stdout, stderr = command(
            "run", write_job("http://127.0.0.1:9"), env=environment(TEST_KEY=key)
        )
        assert (code, KEY in stdout + stderr) == (2, False)
        assert "TEST_KEY" in stderr


def test_a_word_in_place_of_a_key_is_not_struck_out_of_answers(write_job: WriteJob) -> None:
    with serving(lambda call: answer(call, "an EMPTY box")) as provider:
        job = write_job(provider.url, rows=1)
        assert command("run", job, env=environment(TEST_KEY="EMPTY"))[0] == 0
    results = pl.read_parquet(job.parent / "out" / "results.parquet")
    assert results["response"].to_list() == ["an EMPTY box"]


# The terminal


def test_nothing_that_others_wrote_steers_the_terminal(write_job: WriteJob, tmp_path: Path) -> None:
    def decide(call: Call) -> Reply:
        if "text 0" in call.prompt:
            return answer(call, ESCAPES)
        return refusal(400, f"type{ESCAPES}", f"message{ESCAPES}", request_id="r")

    with serving(decide) as provider:
        job = write_job(provider.url, rows=3)
        printed = list(command("run", job))
        for subcommand in (["status", "out"], ["status", "out", "--json"]):
            printed += command(*subcommand, cwd=tmp_path)
    text = "".join(map(str, printed))
    assert "3 rows" in text
    assert "message" in text
    assert [mark for mark in STEERING if mark in text] == []


def test_a_stop_tells_the_provider_s_words_without_their_escapes(write_job: WriteJob) -> None:
    with serving(lambda _: refusal(401, "authentication_error", f"no{ESCAPES}")) as provider:
        code, _, stderr = command("run", write_job(provider.url, rows=1))
    assert (code, "no�[2J" in stderr) == (4, True)
    assert [mark for mark in STEERING if mark in stderr] == []


def test_cells_and_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(f'"a{ESCAPES}",model,prompt\n1,m{ESCAPES},p{ESCAPES}\n', encoding="utf-8")
    code, stdout, stderr = command(
        "preview", table, "--set", "max_tokens=9", "--set", "prompt={{ gone }}"
    )
    assert (code, stdout) == (2, "")
    assert "a�[2J" in stderr
    assert [mark for mark in STEERING if mark in stderr] == []
    code, stdout, _ = command("preview", table, "--set", "max_tokens=9")
    assert [mark for mark in STEERING if mark in stdout] == []
    # Escaped in a way that leaves the JSON what it was.
    body = json.loads(stdout)["body"]
    assert (body["model"], body["messages"][0]["content"]) == (f"m{ESCAPES}", f"p{ESCAPES}")


# Paths


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "..", "a/b", "x\x1b[2J", "x\n"])
def test_a_name_is_no_path(write_job: WriteJob, tmp_path: Path, name: str) -> None:
    job = write_job("http://127.0.0.1:9")
    job.write_text(f"name = {json.dumps(name)}\n" + job.read_text())
    code, _, stderr = command("run", job)
    assert (code, "name: must be a valid folder name" in stderr) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.toml", "rows.csv"]


@pytest.mark.parametrize(
    "line",
    [
        'files = ["../results.csv"]',
        'files = ["/tmp/results.csv"]',
        'files = ["a/b.csv"]',
        'files = ["checkpoint.db"]',
        'files = ["usage.parquet"]',
        'files = ["..csv/../x.csv"]',
    ],
)
def test_output_files_are_plain_names_in_the_run_directory(
    write_job: WriteJob, tmp_path: Path, line: str
) -> None:
    code, _, stderr = command("run", write_job("http://127.0.0.1:9", extra=line))
    assert (code, "[output] files: " in stderr) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.toml", "rows.csv"]


def test_an_output_directory_that_cannot_be_printed_is_refused(write_job: WriteJob) -> None:
    job = write_job("http://127.0.0.1:9")
    job.write_text(job.read_text().replace('dir = "out"', 'dir = "out\\u001b[2J"'))
    code, _, stderr = command("run", job)
    assert (code, "[output] dir: 'out\\x1b[2J' contains characters" in stderr) == (2, True)


def test_ids_are_never_paths(write_job: WriteJob, tmp_path: Path) -> None:
    with serving() as provider:
        job = write_job(provider.url)
        ids = ["../../escape", "/etc/passwd", "a/b", ".", "-rf", "x" * 5_000]
        pl.DataFrame({"id": ids, "text": ids}).write_csv(tmp_path / "rows.csv")
        before = set(tmp_path.rglob("*"))
        assert command("run", job)[0] == 0
    made = {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - before}
    assert made == {
        "out",
        *(
            f"out/{name}"
            for name in ("checkpoint.db", "results.parquet", "summary.json", "usage.parquet")
        ),
    }
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    results = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert results["custom_id"].to_list() == ids


# The way to the provider


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(write_job: WriteJob, status: int) -> None:
    with serving() as elsewhere:
        headers = {"location": f"{elsewhere.url}/v1/messages"}
        with serving(lambda _: Reply(status, b"", headers)) as provider:
            code, _, stderr = command("run", write_job(provider.url, rows=2))
    assert code == 4
    assert "redirects are not followed" in " ".join(stderr.split())
    assert len(provider.calls) == 2
    assert elsewhere.calls == []


@pytest.mark.parametrize(
    "host", ["http://192.0.2.1", "http://api.example.com", "HTTP://EXAMPLE.com"]
)
def test_plain_http_beyond_this_machine_has_to_be_allowed(write_job: WriteJob, host: str) -> None:
    code, _, stderr = command("run", write_job(host))
    assert code == 2
    assert "allow it with allow_http = true" in stderr
    assert command("preview", write_job(host, request="allow_http = true"))[0] == 0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextlib.contextmanager
def serving_tls(certificate: trustme.LeafCert) -> Iterator[tuple[str, list[bytes]]]:
    """An HTTPS server on loopback in a thread; gives its address and what it was sent."""
    received: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    ready, loops = threading.Event(), []
    port = 0

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            head = await reader.readuntil(b"\r\n\r\n")
            received.append(head)
            length = int(head.lower().split(b"content-length:")[1].split()[0])
            call = Call("/v1/messages", {}, await reader.readexactly(length), 1, 0)
            body = answer(call).body
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        writer.close()

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        end = asyncio.Event()
        loops.append((asyncio.get_running_loop(), end))
        ready.set()
        await end.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(DEADLINE_S)
    try:
        yield f"https://localhost:{port}", received
    finally:
        loop, end = loops[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(DEADLINE_S)


def run_against(
    certificate: trustme.LeafCert, write_job: WriteJob, **trusted: str
) -> tuple[int, str, list[bytes]]:
    with serving_tls(certificate) as (url, received):
        job = write_job(url, rows=1, extra="[retry]\nmax_wait_s = 60")
        code, _, stderr = command("run", job, env=environment(**trusted))
    return code, stderr, received


def test_a_certificate_that_nobody_vouches_for_is_refused(
    write_job: WriteJob, authority: trustme.CA
) -> None:
    code, stderr, received = run_against(authority.issue_cert("localhost"), write_job)
    assert (code, received) == (4, [])
    assert "its certificate is not valid (invalid peer certificate: UnknownIssuer" in stderr
    assert "SSL_CERT_FILE" in stderr
    assert "max_wait_s" not in stderr  # it does not wait for another certificate


def test_certificates_are_checked_for_name_and_date(
    write_job: WriteJob, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    trusted: dict[str, Any] = {"SSL_CERT_FILE": str(tmp_path / "authority.pem")}
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    other = authority.issue_cert("other.example")
    expired = authority.issue_cert("localhost", not_after=past)
    for certificate, reason in (
        (other, "not valid for name"),
        (expired, "certificate expired"),
    ):
        code, stderr, received = run_against(certificate, write_job, **trusted)
        assert (code, reason in stderr, received) == (4, True, [])
    # The same authority is trusted by choice of the user, so the refusals had these reasons.
    code, stderr, received = run_against(authority.issue_cert("localhost"), write_job, **trusted)
    assert (code, len(received)) == (0, 1), stderr
