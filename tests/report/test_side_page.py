"""The page of runs side by side: what it says, that it holds nobody else's markup, and its size."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from batchrun import compare
from batchrun.checkpoint import Checkpoint, differing_rows, row_details
from tests.conftest import command
from tests.support.compared import MODELS, matrix
from tests.support.provider import Call, Reply, answer
from tests.support.reports import HOSTILE, LABELS, Parsed, kinds_of, rows_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return matrix(tmp_path_factory.mktemp("sides"))


def test_the_report_of_a_matrix_leads_to_those_of_its_cells(directory: Path) -> None:
    code, stdout, stderr = command("report", directory)
    assert (code, stdout, stderr) == (0, f"{directory / 'report.html'}\n", "")
    parsed = Parsed((directory / "report.html").read_text())
    links = [value for tag, name, value in parsed.attributes if (tag, name) == ("a", "href")]
    assert len(links) == 3
    assert links[0] == "model%3Done/report.html"
    for cell in [run.directory for run in compare([directory])]:
        assert (cell / "report.html").exists()
        assert cell.name in parsed.text


def test_everything_that_matters_is_there(directory: Path) -> None:
    command("report", directory)
    text = Parsed((directory / "report.html").read_text()).text
    for told in (
        *("Runs3", "1 row not answered", "Rows12in each run", "Cost$0.000875"),
        *("Best score100.0 %model=one and 1 more", "Lowest cost$0.000275", "Rows that differ1"),
        *("91.7 %", "64.6 to 98.5", "Against model=one", "-8.3", "McNemar, exact"),
        *("1 row with another answer in some run", "132 → 84"),
    ):
        assert told in text
    # The row that the second got wrong, with what all three made of it and what is right.
    page = (directory / "report.html").read_text()
    _, prompt, expected, (one, two, three) = rows_of(page)[1]
    assert (prompt, expected, one["text"], two["text"]) == ("1", "green", "green", "blue")
    assert (one["scores"][0][1:3], two["scores"][0][1:3]) == (["1", True], ["0", False])
    assert re.search("invalid_request_error: .* refused", three["error"])
    assert kinds_of(page)[1] == {"differ", "worse", "errored"}
    assert kinds_of(page)[0] == set()


def test_bars_are_as_long_as_their_numbers_say(directory: Path) -> None:
    command("report", directory)
    page = (directory / "report.html").read_text()
    bars = re.findall(r'<rect class="fill (s\d)" width="([\d.]+)"', page)
    # Score and cost of each run: costs of 12, 12 and 11 answers.
    assert bars == [
        *(("s1", "100"), ("s1", "100"), ("s2", "91.7"), ("s2", "100")),
        *(("s3", "100"), ("s3", "91.7")),
    ]
    assert re.findall(r'class="whisker" d="M([\d.]+) 0V10M[\d.]+ 5H([\d.]+)M', page) == [
        *(("75.8", "100"), ("64.6", "98.5"), ("74.1", "100"))
    ]


def test_what_others_wrote_is_text_and_nothing_else(tmp_path: Path) -> None:
    out = matrix(tmp_path, rows=5, score="")
    code, stdout, stderr = command("compare", out, "--html", tmp_path / "page.html")
    assert (code, stderr) == (0, f"wrote {tmp_path / 'page.html'}\n")
    assert stdout == command("compare", out)[1]
    parsed = Parsed((tmp_path / "page.html").read_text())
    rows = rows_of((tmp_path / "page.html").read_text())
    assert rows[2][3][1]["text"] == f"{LABELS[2]} {HOSTILE[2]} of 1"
    assert rows[1][3][2]["error"] == f"invalid_request_error: {HOSTILE[0]} refused"
    assert rows[2][0] == f"r2{HOSTILE[2]}"
    assert not any(text in (tmp_path / "page.html").read_text() for text in HOSTILE)
    assert (parsed.tags["script"], parsed.tags["style"]) == (1, 1)
    assert not {"img", "iframe", "textarea", "b", "i", "object", "form", "a"} & set(parsed.tags)
    assert [a for a in parsed.attributes if a[1].startswith("on") or a[1] in {"src", "style"}] == []


def test_runs_without_scores_are_compared_by_their_texts(tmp_path: Path) -> None:
    out = matrix(tmp_path, score="", models=MODELS[:2])
    command("compare", out, "--html", tmp_path / "page.html")
    text = Parsed((tmp_path / "page.html").read_text()).text
    assert "Rows that differ2" in text
    assert "83.3 %" in text
    for absent in ("Score", "Per correct", "McNemar", "better", "Expected"):
        assert absent not in text


def test_rows_of_long_answers_take_less_than_a_megabyte(tmp_path: Path) -> None:
    long = "<&\"'>" * 2_000

    def mostly_other_words(call: Call) -> Reply:
        n, model = int(call.prompt), MODELS.index(call.json["model"])
        return answer(call, f"{LABELS[(n + (model == 1 and n == 333)) % 3]}{long}{model}")

    function = tmp_path / "mine.py"
    function.write_text(
        "def score(row, answer):\n"
        "    return {'score': answer.startswith(row['label']), 'predicted': answer[-1]}\n"
    )
    score = '[score]\nfunction = "mine.py:score"\n'
    out = matrix(tmp_path, rows=400, score=score, decide=mostly_other_words)
    assert command("compare", out, "--html", tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert len(page.encode()) < 1_000_000
    kinds = kinds_of(page)
    assert (len(kinds), [n for n, kind in enumerate(kinds) if "worse" in kind]) == (400, [333])
    assert all("differ" in kind for kind in kinds)
    assert "400 rows with another answer in some run" in Parsed(page).text


def test_rows_with_several_answers_are_compared_also_with_a_run_of_fewer_rows(
    tmp_path: Path,
) -> None:
    def vary(call: Call) -> Reply:
        model = MODELS.index(call.json["model"])
        return answer(call, LABELS[model if call.prompt in "14" else 2])

    runs = []
    for name, samples, rows in (("many", 3, 6), ("fewer", 2, 3)):
        (tmp_path / name).mkdir()
        out = matrix(
            tmp_path / name, rows=rows, models=MODELS[:2], samples=samples, score="", decide=vary
        )
        runs += compare([out])
    for run in runs:
        with closing(sqlite3.connect(run.directory / "checkpoint.db")) as db, db:
            db.execute(
                """UPDATE results SET response = 'of a later sample' WHERE request_id IN
                (SELECT request_id FROM items, run WHERE ordinal % samples > 0)"""
            )
    stores = [Checkpoint(run.directory, writable=False) for run in runs]
    try:
        found = differing_rows(stores, 10)
        few = differing_rows(stores, 1)
        shown = list(row_details(stores, found.ordinals))
    finally:
        for store in stores:
            store.close()
    assert [row.custom_id[:2] for row in shown] == ["r1", "r4"]
    assert (found.count, few.count, len(few.ordinals)) == (2, 2, 1)
    texts = [[side and (side.text or "").splitlines()[0] for side in row.answers] for row in shown]
    assert texts == [
        [f"1. {LABELS[n]}" for n in (0, 1, 0, 1)],
        [f"1. {LABELS[0]}", f"1. {LABELS[1]}", None, None],
    ]


def test_a_page_that_cannot_be_written_is_exit_code_6(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, stdout, stderr = command("compare", directory, "--html", tmp_path / "file" / "page.html")
    assert (code, stdout) == (6, "")
    assert "page.html: could not be written" in stderr
    assert re.search(r"and run: batchrun compare .* --html .*/page\.html$", stderr)


def test_a_matrix_that_has_not_begun_has_no_report(tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text('{"cells": []}')
    code, _, stderr = command("report", tmp_path)
    assert code == 5
    assert "no cell of the matrix has started; run the job first" in stderr


def test_a_matrix_of_one_cell_has_a_report(tmp_path: Path) -> None:
    out = matrix(tmp_path, models=MODELS[:1])
    assert command("report", out)[0] == 0
    text = Parsed((out / "report.html").read_text()).text
    assert "model=one" in text
    assert "Against" not in text
