"""How much memory commands take does not depend on how many large rows there are."""

from __future__ import annotations

import subprocess
import sys
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrun.checkpoint import Checkpoint, open_directory
from batchrun.job import Job
from batchrun.limits import ByteBudget
from batchrun.output.frames import FileContents
from batchrun.records import Item
from batchrun.render import CHUNK_BYTES, CHUNK_ROWS, Renderer
from batchrun.source import parquet
from batchrun.source.layout import row_groups
from tests.conftest import ROOT, command, environment
from tests.support.provider import Call, Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROWS = 160
IMAGE_BYTES = 1_500_000
SIGNATURE = b"\x89PNG\r\n\x1a\n"
JOB = """
[input]
path = "{table}"
id = "id"
[request]
base_url = "{url}"
api_key_env = ""
model = "claude-haiku-4-5-20251001"
prompt = "{prompt}"
images = "{{{{ image }}}}"
max_tokens = 100
[limits]
concurrency = {concurrency}
[output]
dir = "run"
"""
MEASURED = """
import sys
from batchrun.__main__ import main
try:
    main()
finally:
    status = open("/proc/self/status").read()
    sys.stdout.write("peak " + status.partition("VmHWM:")[2].split()[0])
"""


@pytest.fixture
def server() -> Iterator[str]:
    """A provider in a process of its own, so that the bodies it gets are not in this one."""
    command = [sys.executable, "-m", "benchmarks.server", "5000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def peak_mib(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> float:
    """The peak memory of a command, which has to succeed."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("peak ")[2]) / 1024


def image(row: int) -> bytes:
    return SIGNATURE + row.to_bytes(4, "big") + bytes(IMAGE_BYTES)


def write_files(folder: Path) -> Path:
    """A table of files, which have holes instead of bytes on the disk."""
    for row in range(ROWS):
        with (folder / f"{row}.png").open("wb") as file:
            file.write(SIGNATURE + row.to_bytes(4, "big"))
            file.truncate(IMAGE_BYTES)
    names = [f"{row}.png" for row in range(ROWS)]
    pl.DataFrame({"id": names, "image": names}).write_csv(folder / "table.csv")
    return folder / "table.csv"


def write_column(folder: Path) -> Path:
    """A table with a column of images, all in one row group."""
    # In a process of its own: the peak of a child begins at that of its parent.
    code = f"""
import polars as pl
images = [{SIGNATURE!r} + row.to_bytes(4, "big") + bytes({IMAGE_BYTES}) for row in range({ROWS})]
table = pl.DataFrame({{"id": [str(row) for row in range({ROWS})], "image": images}})
table.write_parquet("table.parquet", compression="uncompressed")
"""
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    return folder / "table.parquet"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a peak so")
@pytest.mark.parametrize("write", [write_files, write_column])
def test_large_images_take_no_more_memory_than_a_few_of_them(
    tmp_path: Path, server: str, write: type
) -> None:
    table = write(tmp_path)
    job = tmp_path / "job.toml"
    facts = {"table": table.name, "url": server, "concurrency": ROWS}
    job.write_text(JOB.format(prompt="What is it?", **facts))
    assert peak_mib(tmp_path, "estimate", "job.toml") < 250
    assert peak_mib(tmp_path, "run", "job.toml", "--quiet") < 360
    assert peak_mib(tmp_path, "verify", "run") < 320
    job.write_text(JOB.format(prompt="What else?", **facts))
    assert peak_mib(tmp_path, "run", "job.toml", "--quiet", "--yes") < 360
    assert peak_mib(tmp_path, "report", "run") < 250
    found = pl.scan_parquet(tmp_path / "run" / "results.parquet").select("status").collect()
    assert found["status"].to_list() == ["succeeded"] * ROWS


def test_a_chunk_of_requests_is_full_by_rows_or_bytes() -> None:
    document = {
        "input": {"path": "x.csv"},
        "request": {"model": "m", "prompt": "{{ text }}", "max_tokens": 5},
    }
    renderer = Renderer(Job.from_document(document, Path.cwd()), ["text"])
    short = [Item(n, str(n), {"text": "x"}) for n in range(1_100)]
    assert [len(chunk) for chunk in renderer.chunks(short)] == [CHUNK_ROWS, CHUNK_ROWS, 76]
    long = [Item(n, str(n), {"text": "x" * (CHUNK_BYTES // 3)}) for n in range(7)]
    assert [len(chunk) for chunk in renderer.chunks(long)] == [3, 3, 1]
    sampled = list(renderer.chunks(short[:300], samples=3))
    assert [len(chunk) for chunk in sampled] == [513, 387]
    assert [item.ordinal for chunk in sampled for item in chunk] == list(range(900))


# Parquet


CELLS = st.one_of(st.none(), st.text("aé☃", max_size=40))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    cells=st.lists(st.tuples(CELLS, CELLS, st.integers(0, 9)), min_size=1, max_size=300),
    layout=st.fixed_dictionaries(
        {
            "row_group_size": st.integers(1, 400),
            "data_page_size": st.integers(20, 2_000),
            "compression": st.sampled_from(["uncompressed", "zstd", "snappy", "lz4", "gzip"]),
        }
    ),
    frame_bytes=st.integers(20, 3_000),
)
def test_a_large_row_group_is_read_page_by_page_as_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cells: list[tuple[str | None, str | None, int]],
    layout: dict[str, Any],
    frame_bytes: int,
) -> None:
    monkeypatch.setattr(parquet, "LARGE_GROUP_BYTES", 50)
    monkeypatch.setattr(parquet, "TARGET_FRAME_BYTES", frame_bytes)
    path = tmp_path / "t.parquet"
    table = pl.DataFrame(
        cells, schema={"a": pl.String, "b": pl.String, "n": pl.Int64}, orient="row"
    ).with_columns(pl.col("b").cast(pl.Binary), c=pl.concat_list("n", "n"))
    table.write_parquet(path, **layout)
    for columns in (["a"], ["n", "b", "a"], table.columns):
        frames = list(parquet.frames(path, columns))
        assert pl.concat(frames).equals(table.select(columns))
        assert sum(group.rows for group in row_groups(path) or ()) == len(cells)
    kept = list(parquet.frames(path, ["b"], pl.col("n") > 4))
    wanted = table.filter(pl.col("n") > 4).select("b")
    assert pl.concat([wanted.clear(), *kept]).equals(wanted)
    assert parquet.count(path, pl.col("n") > 4) == wanted.height


def test_frames_of_long_values_are_small_although_their_row_group_is_not(tmp_path: Path) -> None:
    table = write_column(tmp_path)
    heights = [frame.height for frame in parquet.frames(table, ["id", "image"])]
    assert sum(heights) == ROWS
    assert max(heights) * IMAGE_BYTES <= parquet.TARGET_FRAME_BYTES


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"\xff" * 100 + b"\x64\0\0\0PAR1", b"\x19" * 99 + b"\x63\0\0\0PAR1"]
)
def test_a_footer_that_cannot_be_read_tells_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    assert row_groups(tmp_path / "t.parquet") is None


def test_without_a_footer_that_tells_a_file_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrun.source.layout.MAX_FOOTER_BYTES", 10)
    monkeypatch.setattr(parquet, "TARGET_FRAME_BYTES", 1_000)
    table = pl.DataFrame({"n": range(5_000)})
    table.write_parquet(tmp_path / "t.parquet")
    frames = list(parquet.frames(tmp_path / "t.parquet", ["n"]))
    assert pl.concat(frames).equals(table)
    assert len(frames) > 5


# outputs


def test_row_groups_of_the_outputs_are_small_where_rows_are_large(tmp_path: Path) -> None:
    from batchrun.output import write_contents

    def frames(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"n": list(range(5_000)), "text": ["x"] * 5_000}).select(columns)
        for first in range(5_000, 5_100, 5):
            texts = [chr(97 + n % 26) * IMAGE_BYTES for n in range(first, first + 5)]
            yield pl.DataFrame({"n": range(first, first + 5), "text": texts}).select(columns)

    schema = pl.Schema({"n": pl.Int64(), "text": pl.String()})
    path = tmp_path / "t.parquet"
    write_contents(path, FileContents(schema, frames, ("n",)))
    assert pl.scan_parquet(path).select("n").collect()["n"].to_list() == list(range(5_100))
    ends = [0, *accumulate(group.rows for group in row_groups(path) or [])]
    images = [max(0, end - max(start, 5_000)) for start, end in pairwise(ends)]
    assert sum(images) == 100
    assert max(images) * IMAGE_BYTES <= 8 * 2**20


# budgets of bytes


async def until_blocked() -> None:
    """Let every task run until it waits for something."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


def test_bytes_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    async def main() -> list[int]:
        budget, order = ByteBudget(100), []

        async def take(size: int) -> None:
            await budget.take(size)
            order.append(size)

        async with anyio.create_task_group() as group:
            for size in (60, 50, 10, 500):
                group.start_soon(take, size)
                await until_blocked()
            assert order == [60]  # 10 would fit, but 50 came before it
            budget.give_back(60)
            await until_blocked()
            assert order == [60, 50, 10]
            budget.give_back(60)  # more than all of the budget is admitted alone
        return order

    assert anyio.run(main) == [60, 50, 10, 500]


def test_who_stops_waiting_for_bytes_lets_others_pass() -> None:
    async def main() -> None:
        budget = ByteBudget(100)
        await budget.take(90)
        with anyio.move_on_after(0.01):
            await budget.take(50)
        with anyio.fail_after(60):
            await budget.take(10)
        budget.give_back(100)
        assert budget.held == 0

    anyio.run(main)


def test_of_those_who_all_wait_for_more_one_may_go_beyond_the_budget() -> None:
    async def main() -> int:
        budget, most = ByteBudget(100), 0

        async def read(pieces: int) -> None:
            nonlocal most
            share = budget.share()
            try:
                for count in range(1, pieces + 1):
                    await share.grow(10 * count)
                    most = max(most, budget.held)
                    await anyio.lowlevel.checkpoint()
            finally:
                share.close()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(read, 8)
        assert budget.held == 0
        return most

    assert 100 <= anyio.run(main) <= 180


# answers


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a peak so")
def test_long_answers_in_flight_take_no_more_memory_than_a_few_of_them(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    replies: list[Reply] = []

    def decide(call: Call) -> Reply:
        # One for all, which all arrive at once; 15 MB, so that 40 of them are more than the bound.
        if not replies:
            replies.append(answer(call, "word " * 3_000_000, delay_s=2.0))
        return replies[0]

    with serving(decide) as provider:
        write_job(provider.url, rows=40, extra="[limits]\nconcurrency = 40")
        peak = peak_mib(tmp_path, "run", "job.toml", "--quiet", env=environment())
    assert peak < 620
    found = pl.scan_parquet(tmp_path / "out" / "results.parquet").select("status").collect()
    assert found["status"].to_list() == ["succeeded"] * 40


def test_a_share_is_given_back_however_an_attempt_ends(
    write_job: Callable[..., Path], tmp_path: Path
) -> None:
    """More long bodies than fit together, whole, cut and refused, one after another."""
    text = "word " * 1_000_000

    def decide(call: Call) -> Reply:
        body = answer(call, text).body
        match call.seen, int(call.prompt.split()[-1]) % 3:
            case 0, 1:
                return Reply(200, body[:-2])
            case 0, 2:
                return Reply(500, body)
        return Reply(200, body)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=60, extra="[limits]\nconcurrency = 20")
        code, _, stderr = command("run", job, "--quiet")
    assert code == 0, stderr
    found = pl.scan_parquet(tmp_path / "out" / "results.parquet").select("status").collect()
    assert found["status"].to_list() == ["succeeded"] * 60


def test_long_answers_are_read_for_the_outputs_by_their_size(tmp_path: Path) -> None:
    with open_directory(tmp_path, new=False):
        store = Checkpoint(tmp_path, writable=True)
        with store.transaction():
            for n in range(100):
                size = 1_000_000 if 40 <= n < 50 else 10
                store.db.execute(
                    "INSERT INTO items VALUES (?, ?, ?, NULL, NULL, NULL)", (n, str(n), n)
                )
                store.db.execute(
                    "INSERT INTO requests (id, fingerprint, occurrence, custom_id) VALUES (?, ?, 1, ?)",
                    (n, n.to_bytes(16, "big"), str(n)),
                )
                store.db.execute(
                    "INSERT INTO results (request_id, status, retryable, attempts, finished_us, "
                    "response) VALUES (?, 'succeeded', 0, 1, 1, ?)",
                    (n, "x" * size),
                )
        assert store.rows_within(0, 40, 8_000_000) == 40
        assert store.rows_within(0, 100, 8_000_000) == 47
        assert store.rows_within(40, 50, 3_000_000) == 3
        assert store.rows_within(45, 46, 10) == 1
        store.close()
