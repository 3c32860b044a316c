"""`batchrun compare FOLDER`: runs ranked for each table, as text, JSON and a page."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.conftest import command
from tests.support.compared import matrix
from tests.support.reports import Parsed, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs over two tables, a matrix among them, and a run that cannot be read."""
    folder = tmp_path_factory.mktemp("runs")
    cells = matrix(folder)
    (cells / "model=three" / "report.html").write_text("<!doctype html>")
    other = folder / "elsewhere"
    other.mkdir()
    run(other, rows=20).rename(folder / "alone")
    (folder / "broken").mkdir()
    (folder / "broken" / "checkpoint.db").write_text("nonsense")
    return folder


def test_runs_are_ranked_for_each_table(folder: Path) -> None:
    code, stdout, stderr = command("compare", folder, "--json")
    assert (code, stderr) == (0, "")
    facts = json.loads(stdout)
    three, one = facts["tables"]
    assert three["table"] == one["table"] == 'rows.jsonl, scored by match = "choice"'
    names = [each["directory"].removeprefix(f"{folder}/") for each in three["runs"]]
    assert names == ["out/model=one", "out/model=three", "out/model=i-two-5f2b3b"]
    assert [each["mean"] for each in three["runs"]] == [1.0, 1.0, pytest.approx(11 / 12)]
    # Each against the best, over the rows that both have.
    assert [
        each["against_first"] and each["against_first"]["common"] for each in three["runs"]
    ] == [*(None, 11, 12)]
    assert three["runs"][2]["against_first"]["difference"] == pytest.approx(-1 / 12)
    assert len(one["runs"]) == 1
    (problem,) = facts["problems"]
    assert problem.startswith("broken is left out: ")


def test_the_ranking_is_read_by_people(folder: Path) -> None:
    code, stdout, _ = command("compare", folder)
    assert code == 0
    ranks = re.findall(r"^(\d\. \S+)", stdout, re.MULTILINE)
    assert ranks[:3] == ["1. out/model=one", "2. out/model=three", "3. out/model=i-two-5f2b3b"]
    assert ranks[3:] == ["1. alone"]
    assert "broken is left out" in stdout


def test_the_page_links_to_reports_and_is_text_alone(folder: Path) -> None:
    page = folder / "leaderboard.html"
    code, _, stderr = command("compare", folder, "--html", page)
    assert (code, stderr) == (0, f"wrote {page}\n")
    parsed = Parsed(page.read_text())
    links = [value for tag, name, value in parsed.attributes if (tag, name) == ("a", "href")]
    assert links == ["out/model%3Dthree/report.html", "alone/report.html"]
    assert "<i>two" in parsed.text
    assert "91.7 %" in parsed.text
    assert "i" not in parsed.tags
    assert (parsed.tags["script"], parsed.tags["style"]) == (1, 1)


def test_runs_that_are_scored_otherwise_have_a_ranking_of_their_own(tmp_path: Path) -> None:
    exact = '[score]\nexpected = "{{ label }}"\n'
    matrix(tmp_path, models=("one",))
    cells = matrix(tmp_path, models=("one",), score=exact, out="exact")
    assert cells.name == "exact"
    facts = json.loads(command("compare", tmp_path, "--json")[1])
    assert {each["table"]: len(each["runs"]) for each in facts["tables"]} == {
        'rows.jsonl, scored by match = "choice"': 1,
        'rows.jsonl, scored by match = "exact"': 1,
    }


def test_a_folder_of_runs_is_named_alone(folder: Path) -> None:
    code, _, stderr = command("compare", folder, folder / "alone")
    assert code == 2
    assert "is a folder of runs: name it alone" in stderr


def test_a_folder_without_usable_runs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "checkpoint.db").write_text("nonsense")
    code, _, stderr = command("compare", tmp_path)
    assert code == 2
    assert "has no runs that can be compared" in stderr
