"""The Python interface: jobs, results as LazyFrames, DataFrames in notebooks."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import types
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import batchrun as library
from batchrun.checkpoint import DirectoryLock
from batchrun.errors import JobError
from batchrun.run.progress import Progress
from tests.conftest import KEY, ROOT
from tests.support.provider import Call, Provider, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    WriteJob = Callable[..., Path]

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_KEY", KEY)
    return tmp_path


def words(*texts: str) -> pl.DataFrame:
    return pl.DataFrame({"text": texts or ("one", "two", "three")})


def complete(provider: Provider, frame: pl.DataFrame, **asked: Any) -> pl.DataFrame:
    return library.complete(
        frame,
        **{
            "prompt": "Say {{ text }}",
            "model": "claude-haiku-4-5-20251001",
            "base_url": provider.url,
            "provider": "anthropic",
            "api_key_env": "TEST_KEY",
            "quiet": True,
            **asked,
        },
    )


def test_the_page_is_a_session_that_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("jobs", "sample_data"):
        shutil.copytree(ROOT / name, folder / name)
    session: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), session)
    assert len(BLOCKS) == 12
    shown = capsys.readouterr()
    assert "the input has no column 'subjct' (did you mean \"subject\"?)" in shown.out
    assert "3 requests to send" in shown.err
    assert session["scored"]["score"].null_count() == 0
    assert session["answered"]["response"].null_count() == 0
    assert session["report"].score is not None
    assert session["urgent"] == [3, 3]
    assert session["dearest"].collect().height == 5


def test_every_exception_of_the_page_is_there() -> None:
    names = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) - {"KeyboardInterrupt"}
    assert len(names) == 5
    for name in names:
        assert issubclass(getattr(library, name), library.BatchrunError)


def test_paths_may_be_texts(write_job: WriteJob, tmp_path: Path) -> None:
    with serving(lambda call: answer(call, call.prompt)) as provider:
        job = str(write_job(provider.url))
        report = library.run_job(job, library.RunOptions(quiet=True))
    directory = str(report.directory)
    copy = str(tmp_path / "copy.csv")
    assert report.exit_code == 0
    assert library.export(directory, copy).paths == (Path(copy),)
    assert library.recost(directory, job)[0].directory == report.directory
    assert library.verify(directory).findings == ()
    assert "succeeded" in library.status(directory, as_json=True)
    assert library.write_report(directory) == report.directory / "report.html"
    with pytest.raises(library.JobError, match="two different run directories"):
        library.compare([directory, directory])


def test_answers_stand_beside_the_rows(folder: Path) -> None:
    frame = pl.DataFrame(
        {
            "text": ["a", "b"],
            "when": [date(2026, 1, 1), None],
            "price": [Decimal("1.50"), Decimal("2.25")],
            "kind": pl.Series(["x", "y"], dtype=pl.Categorical),
            "tags": [["p"], []],
        }
    )
    with serving(lambda call: answer(call, f"to {call.prompt}")) as provider:
        found = complete(provider, frame)
    assert found.select(frame.columns).equals(frame)
    assert found.schema["kind"] == pl.Categorical
    assert found["response"].to_list() == ["to Say a", "to Say b"]
    assert found["custom_id"].to_list() == ["1", "2"]
    assert found["cost_usd"].to_list() == [46e-6] * 2
    assert found.columns[:5] == frame.columns


@pytest.mark.parametrize("simulate", [True, library.SimulatorConfig(seed=3)])
def test_simulate_is_true_or_a_config_for_jobs_and_tables(folder: Path, simulate: Any) -> None:
    job = library.Job.load(ROOT / "jobs" / "word_problems.toml", {"output.dir": str(folder / "r")})
    report = library.run_job(job, library.RunOptions(simulate=simulate, quiet=True))
    assert (report.exit_code, report.directory) == (0, folder / "r.simulated")
    model = "claude-haiku-4-5-20251001"
    found = library.complete(words(), prompt="{{ text }}", model=model, simulate=simulate)
    assert found["status"].to_list() == ["succeeded"] * 3
    assert (folder / ".batchrun.simulated").is_dir()


def test_a_wrong_simulate_says_what_to_write(folder: Path) -> None:
    wrongs: tuple[Any, ...] = ("yes", 1, library.SimulatorConfig)
    for wrong in wrongs:
        with pytest.raises(JobError, match=r"True or a SimulatorConfig") as jobs:
            library.RunOptions(simulate=wrong)
        with pytest.raises(JobError) as tables:
            library.complete(words(), prompt="{{ text }}", model="m", simulate=wrong)
        assert str(jobs.value) == str(tables.value)
    assert library.RunOptions(simulate=False).simulator is None


def test_nothing_is_paid_twice(folder: Path) -> None:
    with serving() as provider:
        first = complete(provider, words())
        assert complete(provider, words()).equals(first)
        assert len(provider.calls) == 3
        complete(provider, words("two", "four", "one"))
        assert len(provider.calls) == 4
        complete(provider, words(), prompt="Sing {{ text }}")
        assert len(provider.calls) == 7
        assert complete(provider, words()).equals(first)
        assert len(provider.calls) == 7
        complete(provider, words(), directory=folder / "other")
        assert len(provider.calls) == 10
    assert len(list((folder / ".batchrun").glob("input-*"))) == 1


def test_it_works_where_a_loop_is_running(folder: Path) -> None:
    async def cell() -> tuple[pl.DataFrame, library.RunReport]:
        found = complete(provider, words())
        job = library.Job.load(
            ROOT / "jobs" / "word_problems.toml", {"output.dir": str(folder / "r")}
        )
        options = library.RunOptions(simulate=library.SimulatorConfig(), quiet=True)
        return found, library.run_job(job, options)

    with serving() as provider:
        found, report = asyncio.run(cell())
    assert found["status"].to_list() == ["succeeded"] * 3
    assert report.results.select(pl.len()).collect().item() == 40


@pytest.mark.parametrize("in_loop", [True, False])
def test_a_notebook_that_is_interrupted_goes_on(folder: Path, *, in_loop: bool) -> None:
    """The kernel raises KeyboardInterrupt in the cell; what was answered is kept."""

    def interrupting(call: Call) -> Reply:
        if call.prompt == "Say three":
            return answer(call, delay_s=0.3, then=lambda: os.kill(os.getpid(), signal.SIGINT))
        return answer(call)

    def call() -> None:
        complete(provider, words(), limits={"concurrency": 1})

    async def cell() -> None:
        call()

    with serving(interrupting) as provider:
        with closing(asyncio.new_event_loop()) as loop, pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(cell()) if in_loop else call()
        assert len(provider.calls) == 3
        provider.decide = answer
        assert complete(provider, words())["status"].to_list() == ["succeeded"] * 3
        assert len(provider.calls) <= 4


def test_what_stops_a_run_is_raised_and_calling_again_goes_on(folder: Path) -> None:
    with serving(lambda _: refusal(401, "authentication_error")) as provider:
        with pytest.raises(library.RunStopped, match="TEST_KEY"):
            complete(provider, words())
        provider.decide = lambda call: (
            refusal(400, "bad") if call.prompt == "Say two" else answer(call)
        )
        found = complete(provider, words())
        assert found["status"].to_list() == ["succeeded", "errored", "succeeded"]
        count = len(provider.calls)
        provider.decide = answer
        assert (
            complete(provider, words(), retry_errored=True)["status"].to_list() == ["succeeded"] * 3
        )
        assert len(provider.calls) == count + 1


@pytest.mark.parametrize(
    ("frame", "asked", "message"),
    [
        ({"text": ["a"]}, {}, "the rows must be a DataFrame or LazyFrame of polars"),
        (words(), {"prompt": "{{ txt }}"}, "the input has no column 'txt' (did you mean"),
        (words(), {"temprature": 0.5}, 'temprature: unknown key (did you mean "temperature"?)'),
        (words(), {"prompt": None}, "set exactly one of prompt"),
        (words(), {"limits": {"max_cost": 1}}, '[limits] max_cost: unknown key (did you mean "max'),
        (words(), {"id": "txt"}, '[input] id = "txt" is not a column'),
        (words().rename({"text": "status"}), {"prompt": "{{ status }}"}, "prefix"),
        (pl.DataFrame({"text": [object()]}), {}, "cannot be kept as Parquet"),
        (words().head(0).select(), {}, "no column"),
    ],
)
def test_what_is_wrong_is_told(
    folder: Path, frame: Any, asked: dict[str, Any], message: str
) -> None:
    with serving() as provider, pytest.raises(library.JobError) as error:
        complete(provider, frame, **asked)
    assert message in str(error.value)
    assert not provider.calls


def test_no_rows_are_no_requests(folder: Path) -> None:
    with serving() as provider:
        found = complete(provider, words().head(0))
    assert found.height == 0
    assert "response" in found.columns


def test_names_that_collide_get_a_prefix(folder: Path) -> None:
    with serving() as provider:
        frame = words().with_columns(response=pl.lit("mine"))
        found = complete(provider, frame, prefix="llm_")
    assert found["response"].to_list() == ["mine"] * 3
    assert found["llm_response"].to_list() == ["ok"] * 3


def test_conversations_of_a_lazy_frame(folder: Path) -> None:
    with serving() as provider:
        found = library.complete(
            words().lazy(),
            messages=[{"role": "user", "content": "Say {{ text }}"}],
            model="m",
            format="chat",
            base_url=provider.url,
            api_key_env="TEST_KEY",
            quiet=True,
        )
    assert found.collect()["response"].to_list() == ["ok"] * 3
    assert "max_tokens" not in provider.calls[0].json


def test_a_directory_in_use_is_refused(folder: Path) -> None:
    (folder / ".batchrun").mkdir()
    with (
        serving() as provider,
        DirectoryLock(folder / ".batchrun"),
        pytest.raises(library.CheckpointError, match="another batchrun process"),
    ):
        complete(provider, words())
    (folder / "file").touch()
    with pytest.raises(library.JobError, match="file is a file; "):
        complete(provider, words(), directory=folder / "file")


# Reports


@pytest.mark.parametrize("files", [["results.csv"], ["a.jsonl", "b.csv"], ["a.csv", "b.parquet"]])
def test_results_are_read_lazily_from_whatever_was_written(
    write_job: WriteJob, folder: Path, files: list[str]
) -> None:
    with serving() as provider:
        job = library.Job.load(str(write_job(provider.url)), {"output.files": files})
        report = library.run_job(job, library.RunOptions(quiet=True))
    assert isinstance(report.results, pl.LazyFrame)
    assert report.results.select("id", "response").collect().rows()[1] == ("r00001", "ok")
    assert report.usage.select(pl.len()).collect().item() == 20


def test_results_that_were_not_written(write_job: WriteJob, folder: Path) -> None:
    def in_the_way(call: Call) -> Reply:
        (folder / "out" / "results.parquet").mkdir(exist_ok=True)
        return answer(call)

    with serving(in_the_way) as provider:
        report = library.run_job(
            library.load_job(write_job(provider.url)), library.RunOptions(quiet=True)
        )
    assert report.exit_code == 6
    with pytest.raises(library.OutputError, match="batchrun export"):
        _ = report.results


def test_a_notebook_shows_a_report_as_a_table(write_job: WriteJob) -> None:
    job = library.load_job(write_job("https://api.example.com", rows=3))
    options = library.RunOptions(simulate=library.SimulatorConfig(), quiet=True)
    page = library.run_job(job, options)._repr_html_()
    assert page.startswith("<table>")
    assert "3 of 3 rows" in page
    assert "(simulated)</td>" in page


# The bar in a notebook


class Widget:
    """What tqdm has for notebooks, as far as it is used."""

    made: list[Widget] = []  # noqa: RUF012 - a book that the test keeps

    def __init__(self, **facts: Any) -> None:
        self.facts, self.n, self.initial, self.last_print_n = facts, 0, 0, 0
        self.is_open = True
        self.postfix = ""
        Widget.made.append(self)

    def update(self, count: int) -> None:
        self.n += count

    def set_postfix_str(self, text: str, *, refresh: bool) -> None:
        self.postfix = text

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> type[Widget]:
    ipython, auto = types.ModuleType("IPython"), types.ModuleType("tqdm.auto")
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setattr(ipython, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setattr(auto, "tqdm", Widget, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "tqdm.auto", auto)
    Widget.made.clear()
    return Widget


def test_a_notebook_has_its_own_bar(kernel: type[Widget], folder: Path) -> None:
    with serving() as provider:
        complete(provider, words(), quiet=False)
        complete(provider, words(), quiet=True)
    (bar,) = kernel.made
    assert (bar.facts["total"], bar.n, bar.is_open) == (3, 3, False)
    assert "{bar}" in bar.facts["bar_format"]
    assert "54 tokens" in bar.postfix


def test_elsewhere_there_is_none(kernel: type[Widget], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython")
    with Progress("x", 3):
        pass
    assert not kernel.made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limits": "x"}, r"limits must be a dict of keys of \[limits\], not 'x'"),
        ({"retry": [1]}, r"retry must be a dict of keys of \[retry\], not \[1\]"),
        ({"directory": None}, "directory must be a path, not None"),
    ],
)
def test_a_wrong_argument_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobError, match=message):
        library.complete([{"text": "a"}], prompt="{{ text }}", model="m", **arguments)


@pytest.mark.parametrize("labels", [None, 3, "ab", [1, 2], [["a"], ["b"]], ["a", "a"]])
def test_labels_are_different_texts(labels: Any) -> None:
    with pytest.raises(JobError, match="labels must be a list of at least two different labels"):
        library.classify([{"text": "a"}], labels=labels, prompt="{{ text }}", model="m")
