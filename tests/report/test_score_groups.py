"""Scores by scorer, by slice and by confidence on the pages, and named scorers side by side."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from batchrun.evaluation.calibration import calibration
from batchrun.report.charts import BOTTOM, HISTOGRAM_WIDTH, LEFT, MARGIN, TOP, reliability_chart
from tests.conftest import command
from tests.support.compared import matrix
from tests.support.reports import LABELS, Parsed

if TYPE_CHECKING:
    from pathlib import Path

SCORERS = f"""[[score]]
name = "label"
expected = "{{{{ label }}}}"
match = "choice"
choices = {json.dumps(LABELS)}
by = ["label"]
[[score]]
name = "words"
expected = "{{{{ label }}}}"
match = "similarity"
weight = 3
"""
FIRST, SECOND = "model=one", "model=i-two-5f2b3b"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, the second of which is wrong in one row of twelve."""
    folder = tmp_path_factory.mktemp("runs")
    found = matrix(
        folder, score=SCORERS, request="logprobs = true", models=("one", "<i>two"), out="cells"
    )
    assert command("report", found / SECOND)[0] == 0
    return found


def summary(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_bytes())["score"]


def test_a_report_draws_scorers_slices_and_calibration(runs: Path) -> None:
    page = Parsed((runs / SECOND / "report.html").read_text())
    facts = summary(runs / SECOND)
    for title in ("Score by scorer", "Score by label", "Right answers by confidence: label"):
        assert title in page.text
    wrong = LABELS[1]  # of row 1
    own = facts["scorers"]["label"]["by"]["label"][wrong]
    overall = facts["by"]["label"][wrong]
    assert (own["scored"], own["correct"]) == (4, 3)
    low, high = overall["ci95"]
    for shown in (f"{overall['mean']:.3f}", f"{low:.3f} to {high:.3f}", "75.0 %"):
        assert shown in page.text, shown
    # Every answer has the confidence 0.5; 11 of 12 are right.
    (point,) = facts["scorers"]["label"]["calibration"]["bins"]
    assert (point["confidence"], point["rows"]) == (pytest.approx(0.5), 12)
    tips = [value for _, name, value in page.attributes if name == "data-tip"]
    assert any("confidence 50% to 60%, mean 50.0%\nright 91.7% (95 % CI" in tip for tip in tips)


def test_a_point_of_the_reliability_diagram_stands_where_its_numbers_say() -> None:
    found = calibration([(0.25, 8, 2), (0.75, 2, 2)])
    assert found is not None
    chart = reliability_chart("confidence", found)
    width, height = HISTOGRAM_WIDTH - MARGIN - LEFT, BOTTOM - TOP
    one, other = chart.points
    assert (one.x, one.y) == pytest.approx((LEFT + width / 4, BOTTOM - height / 4))
    assert (other.x, other.y) == pytest.approx((LEFT + width * 3 / 4, TOP))
    assert one.high < one.y < one.low  # upwards, coordinates fall
    assert one.radius == pytest.approx(2 * other.radius)  # four times the rows
    assert chart.diagonal == pytest.approx((LEFT, BOTTOM, HISTOGRAM_WIDTH - MARGIN, TOP))


def test_compare_shows_each_named_scorer(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "sides.html"
    code, stdout, stderr = command("compare", runs, "--json", "--html", page)
    assert code == 0, stderr
    one, two = json.loads(stdout)["runs"]
    assert list(two["scorers"]) == ["label", "words"]
    own = summary(runs / SECOND)["scorers"]
    for name, facts in two["scorers"].items():
        assert facts["mean"] == pytest.approx(own[name]["mean"])
        assert facts["ci95"] == pytest.approx(own[name]["ci95"])
    label = two["scorers"]["label"]
    assert one["scorers"]["label"]["against_first"] is None
    assert label["accuracy"] == pytest.approx(11 / 12)
    against = label["against_first"]
    assert against["difference"] == pytest.approx(-1 / 12)
    assert (against["test"], against["p_value"], against["p_holm"]) == ("mcnemar", 1.0, 1.0)
    assert two["against_first"]["difference"] == pytest.approx(
        (against["difference"] + 3 * two["scorers"]["words"]["against_first"]["difference"]) / 4
    )
    _, stdout, _ = command("compare", runs)
    assert re.search(rf"^label +{re.escape(SECOND)} +91\.7 %", stdout, re.MULTILINE), stdout
    parsed = Parsed(page.read_text())
    assert "By scorer" in parsed.text
    assert "91.7 %" in parsed.text


def test_a_leaderboard_shows_each_named_scorer(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "board.html"
    code, stdout, stderr = command("compare", runs.parent, "--html", page)
    assert code == 0, stderr
    assert re.search(rf"^label +cells/{re.escape(SECOND)} +91\.7 %", stdout, re.MULTILINE), stdout
    assert "By scorer" in Parsed(page.read_text()).text
