"""`--on ray`: a real cluster of raylets on this machine, whose processes are killed."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.conftest import KEY, batchrun, environment, finish, start_batchrun, wait_until
from tests.support.provider import Call, Gate, Reply, answer, serving
from tests.support.ray_nodes import RayNodes, ray_nodes
from tests.support.worker_runs import CONCURRENCY, LIMITS, VARYING, faulty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    WriteJob = Callable[..., Path]

if find_spec("ray") is None and not os.environ.get("CI"):
    pytest.skip('ray is not installed: pip install -e ".[ray]"', allow_module_level=True)

ROWS = 400


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with ray_nodes(2) as nodes:
        yield nodes


def prompt_answer(call: Call) -> Reply:
    return answer(call, f"answer to {call.prompt}", delay_s=0.03)


def assert_whole(table: pl.DataFrame) -> None:
    assert table["response"].to_list() == [f"answer to Say text {n}" for n in range(ROWS)]


FORMATS = pytest.mark.parametrize("wire_format", ["messages", "chat"])


@FORMATS
def test_the_results_are_those_of_one_process(
    cluster: RayNodes, write_job: WriteJob, wire_format: str
) -> None:
    tables: list[pl.DataFrame] = []
    for place in ([], ["--on", f"ray:{cluster.address}"]):
        with serving(faulty) as provider:
            job = write_job(provider.url, rows=ROWS, wire_format=wire_format, extra=LIMITS)
            out = f"out{len(tables)}"
            code, _, stderr = batchrun("run", job, *place, "--output-dir", job.parent / out)
        assert code == 3, stderr
        tables.append(pl.read_parquet(job.parent / out / "results.parquet"))
        assert batchrun("verify", job.parent / out)[0] == 0
    alone, together = (table.drop(VARYING) for table in tables)
    assert alone.equals(together)


@FORMATS
@pytest.mark.parametrize("victim", ["actor", "raylet"])
def test_a_node_that_dies_is_replaced(
    cluster: RayNodes,
    write_job: WriteJob,
    results: Callable[[], pl.DataFrame],
    victim: str,
    wire_format: str,
) -> None:
    killed: list[int] = []

    def decide(call: Call) -> Reply:
        if call.number == ROWS // 4:
            killed.append(cluster.actors()[0] if victim == "actor" else cluster.raylets.pop())
            os.kill(killed[0], signal.SIGKILL)
        return prompt_answer(call)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=ROWS, wire_format=wire_format, extra=LIMITS)
        run = start_batchrun("run", job, "--on", f"ray:{cluster.address}", "--workers", "4")
        code, _, stderr = finish(run)
        assert code == 0, stderr
        assert killed
        assert len(provider.billed) == ROWS
        assert provider.extra_bills <= CONCURRENCY
    assert_whole(results())
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    lost = usage.filter(pl.col("error_type") == "interrupted")
    assert provider.extra_bills <= lost.height <= CONCURRENCY
    if victim == "raylet":
        cluster.raylets.append(cluster.add())


@FORMATS
def test_an_owner_that_is_killed_loses_nothing(
    cluster: RayNodes, write_job: WriteJob, results: Callable[[], pl.DataFrame], wire_format: str
) -> None:
    before = set(cluster.actors())
    gate = Gate(ROWS // 2)
    with serving(gate.decide) as provider:
        job = write_job(provider.url, rows=ROWS, wire_format=wire_format, extra=LIMITS)
        owner = start_batchrun("run", job, "--on", f"ray:{cluster.address}", "--quiet")
        wait_until(lambda: len(provider.calls) > ROWS // 2, owner)
        owner.kill()
        finish(owner)
        gate.opened.set()
        wait_until(lambda: not set(cluster.actors()) - before)
        provider.settle()
        env = environment(RAY_ADDRESS=cluster.address)  # as in a Ray job
        code, _, stderr = finish(start_batchrun("run", job, "--on", "ray", env=env))
        assert code == 0, stderr
        assert len(provider.billed) == ROWS
        assert provider.extra_bills <= 2 * CONCURRENCY
    assert_whole(results())
    usage = pl.read_parquet(job.parent / "out" / "usage.parquet")
    assert usage["maybe_billed"].sum() >= provider.extra_bills


def test_a_node_that_joins_is_used(cluster: RayNodes, write_job: WriteJob) -> None:
    delays = [1.0]
    with serving(lambda call: answer(call, delay_s=delays[0])) as provider:
        job = write_job(provider.url, rows=1_000, extra=LIMITS)
        run = start_batchrun("run", job, "--on", f"ray:{cluster.address}", "--quiet")
        wait_until(lambda: len(provider.calls) >= CONCURRENCY, run)
        before = len(cluster.actors())
        joined = cluster.add()
        wait_until(lambda: len(cluster.actors()) > before, run)
        delays[0] = 0.0
        code, _, stderr = finish(run)
        assert code == 0, stderr
    os.kill(joined, signal.SIGKILL)


def test_the_key_is_in_no_file_of_ray(cluster: RayNodes, write_job: WriteJob) -> None:
    with serving(answer) as provider:
        job = write_job(provider.url, rows=20)
        code, _, stderr = batchrun("run", job, "--on", f"ray:{cluster.address}")
        assert code == 0, stderr
        assert {call.headers["x-api-key"] for call in provider.calls} == {KEY}
    files = [path for path in cluster.session.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


TOOL = """
[[request.tools]]
name = "look_up"
description = "Looks up a word."
input_schema = { type = "object", properties = {} }
"""


def test_a_node_without_the_tools_is_named(
    cluster: RayNodes, write_job: WriteJob, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "functions.py").write_text("def look_up():\n    return 'found'\n")
    tools = f'{TOOL}[tools]\nmodule = "{folder}/functions.py"\n'
    with serving(answer) as provider:
        job = write_job(provider.url, rows=20, extra=tools)
        place = f"ray:{cluster.address}"
        with cluster.node_without(folder):
            code, _, stderr = batchrun("run", job, "--on", place, "--workers", "6")
            assert code == 2, stderr
            assert "the worker on " in stderr
            assert f"{folder}/functions.py" in stderr
            assert not provider.calls
        assert batchrun("run", job, "--on", place)[0] == 0


def test_without_a_cluster_nothing_is_sent(write_job: WriteJob) -> None:
    with serving(answer) as provider:
        job = write_job(provider.url)
        code, _, stderr = batchrun("run", job, "--on", "ray:127.0.0.1:9")
        assert code == 2, stderr
        assert "no Ray cluster at 127.0.0.1:9" in stderr
        code, _, stderr = batchrun("run", job, "--on", "ray://127.0.0.1:10001")
        assert code == 2, stderr
        code, _, stderr = batchrun("run", job, "--on", "dask")
        assert code == 2, stderr
        assert not provider.calls
