"""`report.html`: what it says of a run, and that nothing of others' does anything in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from batchrun import report
from batchrun.checkpoint import Checkpoint, chosen_rows, history, row_details, totals
from batchrun.evaluation.history import AnswerDetails, Histogram, RowDetails
from batchrun.evaluation.scores import NONE, OTHER
from batchrun.report.charts import histogram_chart, ticks, ticks_between
from batchrun.report.confusion import shown_confusion
from batchrun.report.formatting import compact, elapsed, grouped, usd
from batchrun.report.row_data import RowData
from batchrun.report.run_page import RunPageInfo, run_page
from tests.conftest import command
from tests.support.provider import Call, Reply, answer, refusal
from tests.support.reports import (
    HOSTILE,
    LABELS,
    Parsed,
    index_of,
    kinds_of,
    rows_of,
    run,
)

NO_ROWS = RowData(0, ["run"], {}).finish()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("report"))


@pytest.fixture
def page(directory: Path) -> str:
    return (directory / "report.html").read_text(encoding="utf-8")


def test_what_others_wrote_is_text_and_nothing_else(page: str) -> None:
    parsed = Parsed(page)
    assert "report of <i>colours" in parsed.text
    shown = [text for row in rows_of(page) for text in (row[1], row[3][0].get("text", ""))]
    for text in HOSTILE:
        assert any(text in each for each in shown)
        # The rows are data, which the script writes as text: tests/report/test_report_browser.py.
        assert text not in page
    assert (parsed.tags["script"], parsed.tags["style"]) == (1, 1)
    assert not {"img", "iframe", "textarea", "b", "i", "object", "form"} & set(parsed.tags)
    assert [a for a in parsed.attributes if a[1].startswith("on") or a[1] in {"src", "style"}] == []
    assert [a for a in parsed.attributes if a[1] == "href"] == [("link", "href", "data:,")]


def test_the_policy_allows_its_own_script_and_style_alone(page: str) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    for kind in ("script", "style"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"; {kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    # Nothing that it could apply to stands before it.
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_everything_that_matters_is_there(page: str, directory: Path) -> None:
    text = Parsed(page).text
    facts = json.loads((directory / "summary.json").read_text())
    assert facts["counts"] == {"total": 60, "succeeded": 54, "errored": 6, "pending": 0}
    for heading in (
        *("Requests per second", "Requests in flight", "Tokens per second", "Cost so far"),
        *("Cost by kind of token", "Cost by model", "Latency per answer"),
        *("Input tokens per answer", "Output tokens per answer", "Errors", "Score"),
        *("Confusion matrix", "Rows", "Job", "Prices", "Executions"),
    ):
        assert heading in text
    assert "90.0%" in text
    assert f"{facts['score']['accuracy']:.1%}" in text
    assert f"${facts['cost_usd']['total']:.6f}" in text
    assert "anthropic/claude-haiku-4-5" in text
    assert "check it with batchrun preview" in text
    assert "Retried: 1 rate limit" in text
    assert "all 60" in text
    for n, (custom_id, prompt, expected, (found,)) in enumerate(rows_of(page)):
        assert custom_id == f"r{n}{HOSTILE[n % 5]}"
        assert prompt.endswith(f"prompt{n}")
        assert expected is None if n % 10 == 9 else expected == LABELS[n % 3]
        key, said = ("error", f"in row {n}") if n % 10 == 9 else ("text", f"answer{n}")
        assert said in found[key]
    assert index_of(page)["count"] == 60
    assert "TEST_KEY" not in page
    assert "sk-test" not in page


def test_the_history_agrees_with_the_totals(directory: Path) -> None:
    with closing(Checkpoint(directory, writable=False)) as store:
        told, whole = history(store), totals(store)
        attempts = store.db.execute("SELECT latency_s FROM attempts").fetchall()
    series = told.series
    assert series is not None
    assert sum(series.succeeded) == 54
    assert (sum(series.refused), sum(series.failed), whole.attempts) == (1, 6, 61)
    assert sum(map(sum, series.cost.values())) == whole.cost.total
    assert (sum(series.input_tokens), sum(series.output_tokens)) == (54 * 11, 54 * 7)
    # The area under it is the time that all attempts took together.
    area = sum(series.in_flight) * series.step_s
    assert area == pytest.approx(sum(latency for (latency,) in attempts), rel=1e-3)
    lengths = {
        len(values) for values in (series.succeeded, series.in_flight, *series.cost.values())
    }
    assert lengths == {len(series.failed)}


def test_distributions_count_every_answer(directory: Path) -> None:
    with closing(Checkpoint(directory, writable=False)) as store:
        told, whole = history(store), totals(store)
    latency = told.latency_s
    assert latency is not None
    assert sum(latency.counts) + latency.beyond == 54
    for name, exact in whole.latency_s.items():
        # As fine as the slowest answers allow.
        coarse = 0.01 * (whole.latency_s["p99"] or 0)
        assert latency.at[name] == pytest.approx(exact, rel=0.01, abs=coarse)
    assert told.input_tokens is not None
    assert told.input_tokens.at == {"p50": 11, "p90": 11, "p99": 11}
    place = 11 - int(told.input_tokens.start)
    assert (told.input_tokens.width, told.input_tokens.counts[place]) == (1, 54)


def test_several_answers_to_a_row_are_all_shown(tmp_path: Path) -> None:
    def vary(call: Call) -> Reply:
        return answer(call, f"{LABELS[call.seen % 2]} said{call.seen}")

    out = run(tmp_path, rows=6, extra="samples = 3", decide=vary)
    page = (out / "report.html").read_text()
    text = Parsed(page).text
    for _, _, _, (said,) in rows_of(page):
        assert [line[:3] for line in said["text"].split("\n\n")] == ["1. ", "2. ", "3. "]
        assert all(f"said{n}" in said["text"] for n in range(3))
    assert "majority vote" in text
    assert re.search(r"pass@3\d+\.\d%", text)
    assert "6 rows" in text


def test_a_large_run_fits_into_a_megabyte(tmp_path: Path) -> None:
    long = "<&\"'>" * 2_000
    out = run(tmp_path, rows=400, decide=lambda call: answer(call, f"{long}{call.prompt}"))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 1_000_000
    assert "all 400" in Parsed(page).text
    said = [each["text"] for *_, (each,) in rows_of(page)]
    assert len(said) == 400
    assert {text[:4_000] for text in said} == {long[:4_000]}
    assert {text[4_000:] for text in said} == {"…"}


def test_of_too_many_rows_those_that_matter_are_among_the_chosen(tmp_path: Path) -> None:
    def mostly_fine(call: Call) -> Reply:
        n = int(call.prompt.split()[0])
        if n == 333:
            return refusal(400, "invalid_request_error", "the one that failed")
        reply = answer(call, LABELS[(n + (n == 777)) % 3])
        ending = {334: b"max_tokens", 335: b"refusal"}.get(n, b"end_turn")
        return replace(reply, body=reply.body.replace(b"end_turn", ending))

    out = run(tmp_path, rows=1_000, decide=mostly_fine)
    with closing(Checkpoint(out, writable=False)) as store:
        assert list(chosen_rows(store, 1_000)) == list(range(1_000))
        chosen = chosen_rows(store, 250, [501, 502])
        found = {row.ordinal: row.answers[0] for row in row_details([store], chosen)}
    assert 200 < len(chosen) <= 250
    assert list(found) == list(chosen)
    assert {333, 334, 335, 501, 502, 777} <= set(chosen)
    errored, wrong = found[333], found[777]
    assert errored is not None
    assert errored.error == "invalid_request_error: the one that failed"
    assert wrong is not None
    assert (wrong.score, wrong.scores[""].expected) == (0, "<b>red</b>")
    # Spread over the whole input, also where nothing happened.
    assert max(b - a for a, b in pairwise(chosen)) < 10


def test_each_row_has_its_kinds_numbers_and_details(page: str) -> None:
    index, kinds = index_of(page), kinds_of(page)
    assert index["passAt"] == {"score": 1.0}
    for n, (*_, (said,)) in enumerate(rows_of(page)):
        wrong = n % 6 == 0
        if n % 10 == 9:
            assert (kinds[n], index["numbers"]["score"][n]) == ({"errored"}, None)
            continue
        assert kinds[n] == ({"succeeded", "wrong"} if wrong else {"succeeded"})
        assert index["numbers"]["score"][n] == (0 if wrong else 1)
        assert index["numbers"]["output tokens"][n] == 7
        assert said["details"][:2] == ["11 → 7 tokens", "$0.0000460"]
        assert ("2 attempts" in said["details"]) is (n == 8)
        label = LABELS[(n + wrong) % 3]
        assert said["scores"] == [
            ["", "0" if wrong else "1", not wrong, label, LABELS[n % 3], None, None]
        ]


@pytest.mark.parametrize("rows", [1, 7])
def test_a_run_of_hardly_anything_has_a_report(tmp_path: Path, rows: int) -> None:
    out = run(tmp_path, rows=rows)
    text = Parsed((out / "report.html").read_text()).text
    assert "Requests per second" not in text
    assert "Executions" in text


def test_a_report_does_without_its_input(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.db").write_bytes((directory / "checkpoint.db").read_bytes())
    (directory.parent / "rows.jsonl").rename(directory.parent / "away.jsonl")
    try:
        code, _, _ = command("report", tmp_path)
    finally:
        (directory.parent / "away.jsonl").rename(directory.parent / "rows.jsonl")
    page = (tmp_path / "report.html").read_text()
    text = Parsed(page).text
    assert code == 0
    assert "Prompts and scores are not shown: " in text
    rows = rows_of(page)
    assert "answer1" in rows[1][3][0]["text"]
    assert {row[1] for row in rows} == {None}


def test_what_is_no_run_has_no_report(tmp_path: Path) -> None:
    code, _, stderr = command("report", tmp_path)
    assert code == 5
    assert "has no checkpoint.db" in stderr


def test_what_html_cannot_hold_is_replaced_and_every_value_is_escaped(directory: Path) -> None:
    with closing(Checkpoint(directory, writable=False)) as store:
        told, whole = history(store), totals(store)
    unfit = "<a b='c\"'>\x00\x9b\u202e\u2066\ud800"
    whole = replace(whole, name=unfit, errors_by_type={unfit: (1, unfit)})
    info = RunPageInfo(unfit, [(unfit, unfit)], is_simulated=True, notes=[unfit], written_us=0)
    page = run_page(whole, told, None, NO_ROWS, info)
    shown = "&lt;a b=&#39;c&#34;&#39;&gt;" + "�" * 5
    # Title and heading; state; error and example; job; note.
    assert page.count(shown) == 2 + 1 + 2 + 2 + 1
    assert unfit[:8] not in page
    assert page.encode()
    assert "simulated answers" in page


def test_only_what_is_our_own_is_exempt_from_escaping() -> None:
    templates = sorted(Path(report.__file__).parent.glob("*.jinja"))
    found = [
        name for file in templates for name in re.findall(r"(\w+)\s*\|\s*safe", file.read_text())
    ]
    assert sorted(found) == ["policy", "script", "style"]
    for file in templates:
        assert not re.search(r"autoescape|Markup", file.read_text())


def test_numbers_are_round_and_short() -> None:
    assert ticks(9) == [0, 2.5, 5, 7.5, 10]
    assert ticks(3, whole=True) == [0, 1, 2, 3]
    assert ticks(0) == [0]
    assert ticks_between(1_510, 1_514, whole=True) == [1_510, 1_511, 1_512, 1_513, 1_514]
    assert [compact(v) for v in (0.25, 980, 1_234, 34_000_000)] == ["0.25", "980", "1.23k", "34M"]
    assert [grouped(v) for v in (9, 1_512, 2_350_000)] == ["9", "1,512", "2.35M"]
    assert [elapsed(s) for s in (0.5, 45, 150, 3_750, 273_600)] == (
        ["0.5 s", "45 s", "2:30", "1:02:30", "3 d 04:00"]
    )
    dollars = [usd(d * 10**12) for d in (0, 0.000042, 0.5, 12.3, 4_567.891)]
    assert dollars == ["$0", "$0.0000420", "$0.500", "$12.30", "$4,567.89"]


def test_percentiles_in_one_place_share_a_name() -> None:
    histogram = Histogram(0.0, 1.0, (1, 2, 3), 0, {"p50": 1.0, "p90": 2.0, "p99": 2.0})
    chart = histogram_chart("Tokens", histogram, compact)
    assert [line.name for line in chart.percentiles] == ["p50", "p90 p99"]
    assert chart.label == "Tokens: p50 1, p90 2, p99 2"
    # Names in one row do not overlap.
    first, second = chart.percentiles
    assert second.top > first.top or second.x - first.x >= 30


def test_names_of_close_percentiles_stand_in_different_rows() -> None:
    at = {"p50": 20.0, "p90": 21.0, "p99": 40.0}
    chart = histogram_chart("Tokens", Histogram(0.0, 1.0, (1,) * 50, 0, at), compact)
    first, second, third = chart.percentiles
    assert second.x - first.x < 30
    assert second.top - first.top >= 10
    assert third.top == first.top
    # The bars leave room for both rows.
    assert min(y for _, y, _ in chart.bars) > second.top


def test_bars_are_as_long_as_their_numbers_say(page: str, directory: Path) -> None:
    labels = re.findall(
        r"(\d\.\d{3})</td>\s*<td class=\"bar-cell\">.*?fill s1\" width=\"([\d.]+)\"",
        page,
        re.DOTALL,
    )
    assert len(labels) == 3
    for f1, width in labels:
        assert float(width) == pytest.approx(100 * float(f1), abs=0.1)
    with closing(Checkpoint(directory, writable=False)) as store:
        told, whole = history(store), totals(store)
    errors = {"one": (8, "x"), "other": (2, "y")}
    whole = replace(whole, errors_by_type=errors, endings={"stop": 30, "length": 10})
    info = RunPageInfo("finished", [], is_simulated=False, notes=[], written_us=0)
    drawn = run_page(whole, told, None, NO_ROWS, info)
    assert re.findall(r'fill bad" width="([\d.]+)"', drawn) == ["100", "25"]
    assert re.findall(r'fill warn" width="([\d.]+)"', drawn) == ["25"]


def test_right_answers_and_shares_are_what_the_confusion_matrix_shows(page: str) -> None:
    cells = re.findall(
        r'<td class="(right|wrong) q(\d)" data-tip="expected (.*?)\nanswered (.*?)\n(\d+) rows?, ([\d.]+)%',
        page,
    )
    assert len(cells) == 9
    assert {(kind == "right", said == label) for kind, _, label, said, _, _ in cells} == (
        {(True, True), (False, False)}
    )
    assert sum(int(count) for *_, count, _ in cells) == 54
    for _, shade, *_, count, share in cells:
        assert int(shade) == (max(1, round(float(share) / 12.5)) if int(count) else 0)


def test_what_the_page_cannot_hold_is_replaced_in_the_rows_too() -> None:
    data = RowData(1, ["run"], {})
    said = AnswerDetails("succeeded", "stop", "a\x00\u202e\ud800z", None, 1, 1, None, 0.1, 1, {})
    data.add(RowDetails(0, "1\u2066", "</script>", {"by\ud800": "\ud800"}, (said,)))
    found = data.finish()
    page = f'<script type="text/plain" class="block">{found.blocks[0]}</script>'
    assert rows_of(page)[0][:2] == ["1�", "</script>"]
    assert rows_of(page)[0][3][0]["text"] == "a���z"


def test_labels_that_nobody_expects_are_together_in_the_matrix() -> None:
    labels = ["red", "green", *(f"junk{n}" for n in range(40)), OTHER, NONE]
    matrix = [[0] * 44 for _ in labels]
    matrix[0][0], matrix[1][0], matrix[0][1] = 5, 2, 1
    for n in range(40):
        matrix[0][2 + n] = 40 - n
    matrix[1][42], matrix[1][43] = 3, 4
    shown = shown_confusion({"labels": labels, "matrix": matrix})
    assert (shown.labels, shown.columns) == (["red", "green"], ["red", "green", OTHER, NONE])
    assert shown.cells == [[5, 1, 820, 0], [2, 0, 3, 4]]
    assert list(shown.others) == labels[2:42]
    many = {"labels": labels[:30], "matrix": [[n == m for m in range(30)] for n in range(30)]}
    shown = shown_confusion(many)
    assert (len(shown.labels), len(shown.columns), sum(map(sum, shown.cells))) == (13, 13, 30)
    assert shown.cells[12] == [0] * 12 + [18]
    assert shown.others == []
