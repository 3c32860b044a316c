"""Dates in a job file: a directory and an input for each day, and what happens after midnight."""

from __future__ import annotations

import time
from datetime import date
from typing import TYPE_CHECKING

import pytest

from batchrun.errors import JobError
from batchrun.job import Job, overrides
from tests.conftest import command
from tests.support.provider import answer, refusal, serving

if TYPE_CHECKING:
    from pathlib import Path

EVENING, MORNING = date(2026, 12, 31), date(2027, 1, 1)

JOB = """
[input]
path = "exports/{{ today }}.csv"
where = "day >= '{{ yesterday }}'"
[request]
model = "claude-haiku-4-5-20251001"
base_url = "%s"
api_key_env = "TEST_KEY"
prompt = "Say {{ text }}"
max_tokens = 50
[output]
dir = "runs/{{ month }}/{{today}}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "exports").mkdir()
    for day in (EVENING, MORNING):
        rows = "".join(f"2026-12-{n},row {n} of {day}\n" for n in (29, 30, 31))
        (tmp_path / "exports" / f"{day}.csv").write_text(f"day,text\n{rows}")
    return tmp_path


def load(folder: Path, day: object = None, **output: str) -> Job:
    path = folder / "job.toml"
    path.write_text(JOB % "http://127.0.0.1:9")
    overrides = {f"output.{key}": value for key, value in output.items()}
    return Job.load(path, overrides if day is None else {**overrides, "date": day})


def test_what_they_stand_for(folder: Path) -> None:
    job = load(folder, "2026-12-31")
    assert job.input.path == str(folder / "exports" / "2026-12-31.csv")
    assert job.input.where == "day >= '2026-12-30'"
    assert job.output.dir == folder / "runs" / "2026-12" / "2026-12-31"
    assert job.date == EVENING
    assert load(folder, "2027-01-01", dir="{{week}}-{{ year }}").output.dir.name == "2026-W53-2027"
    assert load(folder, MORNING, dir="{{ yesterday }}").output.dir.name == "2026-12-31"


def test_the_run_keeps_its_day(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrides, "local_today", lambda: EVENING)
    job = load(folder)
    monkeypatch.setattr(overrides, "local_today", lambda: MORNING)
    assert Job.from_document(job.document, job.base).output.dir == job.output.dir
    assert load(folder).date == MORNING


def test_today_is_where_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):  # 25 hours apart
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert overrides.local_today().isoformat() == time.strftime("%Y-%m-%d")
    monkeypatch.undo()
    time.tzset()


def test_a_job_without_dates_has_no_day(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('[input]\npath = "x.csv"\n[request]\nmodel = "m"\nprompt = "p"\nmax_tokens = 9')
    job = Job.load(path)
    assert job.date is None
    assert "date" not in job.document


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"output.dir": "runs/{{ tody }}"}, 'unknown date {{ tody }} (did you mean "today"?)'),
        (
            {"input.path": "{{ now() }}.csv"},
            "unknown date {{ now() }}; use one of {{ today }}, {{ yesterday",
        ),
        ({"date": "31.12.2026"}, "date: must be a date, such as 2026-11-20, not '31.12.2026'"),
        ({"date": 5}, "date: must be a date"),
    ],
)
def test_what_is_none(folder: Path, setting: dict[str, object], message: str) -> None:
    load(folder)
    with pytest.raises(JobError) as error:
        Job.load(folder / "job.toml", setting)
    assert message in str(error.value)


def test_over_midnight(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evening's run dies; after midnight the same command begins the next, and says so."""
    with serving() as provider:
        job = folder / "job.toml"
        job.write_text(JOB % provider.url)
        monkeypatch.setattr(overrides, "local_today", lambda: EVENING)
        provider.decide = lambda _: refusal(401, "authentication_error")
        code, _, stderr = command("run", "job.toml", cwd=folder)
        assert code == 4
        assert "to resume, run again: batchrun run job.toml --date 2026-12-31\n" in stderr

        monkeypatch.setattr(overrides, "local_today", lambda: MORNING)
        provider.decide = answer
        code, _, stderr = command("run", "job.toml", cwd=folder)
        assert code == 0
        assert "the run of 2026-12-31 in" in stderr
        assert "is not finished; to resume it, add: --date 2026-12-31" in stderr

        code, _, stderr = command("run", "job.toml", "--date", "2026-12-31", cwd=folder)
        assert code == 0
        assert "not finished" not in stderr
        code, _, stderr = command("run", "job.toml", cwd=folder)
        assert code == 0
        assert "not finished" not in stderr
    answered = [call.prompt for call in provider.calls if provider.billed[call.body]]
    wanted = ["row 30 of 2026-12-31", "row 31 of 2026-12-31", "row 31 of 2027-01-01"]
    assert sorted(set(answered)) == [f"Say {text}" for text in wanted]
    assert provider.extra_bills == 0
    assert (folder / "runs/2026-12/2026-12-31/results.parquet").exists()
    assert (folder / "runs/2027-01/2027-01-01/results.parquet").exists()
    # What was run is known without the calendar.
    assert command("export", folder / "runs/2026-12/2026-12-31")[0] == 0


def test_preview_takes_the_day_too(folder: Path) -> None:
    (folder / "job.toml").write_text(JOB % "http://127.0.0.1:9")
    _, stdout, _ = command("preview", "job.toml", "--date", "2026-12-31", cwd=folder)
    assert stdout.count("of 2026-12-31") == 2
