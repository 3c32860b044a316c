"""`batchrun compare`: real runs side by side, as statsmodels and SciPy would compare them."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import Job, RunOptions, compare, comparison_json, comparison_text, run_job
from batchrun.errors import JobError
from batchrun.evaluation.intervals import mcnemar
from tests.conftest import batchrun
from tests.support.checkpoints import as_nobody
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PRICE = "[price]\ninput = 1.0\noutput = 2.0\n"


@pytest.fixture
def evaluate(tmp_path: Path) -> Callable[..., Path]:
    """Run a job whose rows are answered with these texts (None: refused); return the directory."""

    def run(
        name: str,
        texts: Sequence[str | None],
        *,
        score: str = '[score]\nexpected = "{{ label }}"\n',
        price: str = PRICE,
        table: str = "rows.parquet",
    ) -> Path:
        def said(call: Call) -> Reply:
            text = texts[int(call.prompt)]
            if text is None:
                return refusal(400, "invalid_request_error")
            return answer(call, text)

        rows = {"n": [str(n) for n in range(len(texts))], "label": ["1"] * len(texts)}
        if not (tmp_path / table).exists():
            pl.DataFrame(rows).write_parquet(tmp_path / table)
        (tmp_path / "mine.py").write_text("def score(row, answer): return float(answer)\n")
        job = tmp_path / "job.toml"
        with serving(said) as provider:
            job.write_text(
                f'[input]\npath = "{table}"\n[request]\nformat = "chat"\nprompt = "{{{{ n }}}}"\n'
                f'base_url = "{provider.url}"\nprovider = "anthropic"\napi_key_env = ""\nmodel = "model of {name}"\n'
                f'[output]\ndir = "{name}"\n{score}{price}'
            )
            run_job(Job.load(job), RunOptions(quiet=True))
        return tmp_path / name

    return run


def compared(*directories: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(comparison_json(compare(directories)))["runs"]
    return found


def test_two_runs_are_compared_row_by_row(evaluate: Callable[..., Path]) -> None:
    from statsmodels.stats.contingency_tables import mcnemar as known_mcnemar

    chance = random.Random(5)
    one = [chance.choices("10", weights=(7, 3))[0] for _ in range(300)]
    two = [text if chance.random() < 0.8 else chance.choice("102") for text in one]
    first, second = compared(evaluate("one", one), evaluate("two", two))

    table = [
        [sum((a == "1", b == "1") == (x, y) for a, b in zip(one, two, strict=True)) for y in (1, 0)]
        for x in (1, 0)
    ]
    known = known_mcnemar(table, exact=True)
    pairs = second["against_first"]
    assert (pairs["p_value"], pairs["test"]) == (pytest.approx(known.pvalue), "mcnemar")
    assert (pairs["higher"], pairs["lower"]) == (table[1][0], table[0][1])
    assert pairs["difference"] == pytest.approx((two.count("1") - one.count("1")) / 300)
    assert pairs["ci95"][0] < pairs["difference"] < pairs["ci95"][1]
    same = sum(a == b for a, b in zip(one, two, strict=True)) / 300
    assert (pairs["same_text"], pairs["same_prediction"]) == pytest.approx((same, same))
    assert (pairs["common"], pairs["scored"], pairs["same_input"]) == (300, 300, True)
    assert first["against_first"] is None
    assert (first["correct"], first["accuracy"]) == (one.count("1"), one.count("1") / 300)
    # 11 tokens in and 7 out for each of 300 rows.
    assert first["cost_usd"] == pytest.approx(300 * 25e-6)
    assert first["cost_per_correct_usd"] == pytest.approx(300 * 25e-6 / one.count("1"))
    assert first["latency_s"]["p50"] <= first["latency_s"]["p90"]


def test_only_rows_that_both_answered_are_compared(evaluate: Callable[..., Path]) -> None:
    one = evaluate("one", ["1", "1", None, "2"])
    first, second = compared(one, evaluate("two", ["1", None, "1", "2"]))
    assert first["counts"] == {"total": 4, "succeeded": 3, "errored": 1, "pending": 0}
    pairs = second["against_first"]
    assert (pairs["common"], pairs["difference"], pairs["p_value"]) == (2, 0, 1)


def test_scores_between_0_and_1_are_compared_by_their_signs(
    evaluate: Callable[..., Path],
) -> None:
    score = '[score]\nfunction = "mine.py:score"\n'
    one = evaluate("one", ["0.5", "0.25", "1", "0"], score=score)
    two = evaluate("two", ["0.75", "0.5", "1", "0.5"], score=score)
    pairs = compared(one, two)[1]["against_first"]
    # Of the eight ways to give three differences a sign, two are as far from 0.
    assert (pairs["difference"], pairs["p_value"], pairs["test"]) == (0.25, 0.25, "sign_flip")
    assert pairs["ci_method"] == "t"
    assert pairs["ci95"][0] < 0
    assert pairs["ci95"][1] > 0.25


def test_a_difference_has_the_unit_of_its_scores(evaluate: Callable[..., Path]) -> None:
    """Fractional scores that happen to be 0 and 1 have no accuracy, and their difference no points."""
    score = '[[score]]\nname = "words"\nexpected = "{{ label }}"\nmatch = "f1"\n'
    one = evaluate("one", ["1", "1", "0", "1"], score=score)
    two = evaluate("two", ["1", "0", "1", "0"], score=score)
    lines = [line for line in comparison_text(compare([one, two])).splitlines() if "two" in line]
    assert ["0.500" in line for line in lines] == [True, False, True]
    assert ["-0.250" in line for line in lines] == [False, True, True]
    assert "-25.0" not in "".join(lines)


def test_runs_without_scores_have_costs_and_texts(evaluate: Callable[..., Path]) -> None:
    one = evaluate("one", ["a", "b"], score="", price="")
    runs = compare([one, evaluate("two", ["a", "c"], score="", price="")])
    facts = json.loads(comparison_json(runs))["runs"][1]
    assert (facts["mean"], facts["cost_usd"], facts["cost_per_correct_usd"]) == (None,) * 3
    assert facts["against_first"]["same_text"] == 0.5
    assert facts["against_first"]["p_value"] is None
    text = comparison_text(runs)
    assert "unknown" in text
    assert "no score yet" not in text


def test_the_table_for_people(evaluate: Callable[..., Path], tmp_path: Path) -> None:
    one, two = evaluate("one", ["1", "1", "0", "1"]), evaluate("two", ["1", "0", "1", "0"])
    code, stdout, stderr = batchrun("compare", one, two)
    assert (code, stderr) == (0, "")
    head, first, second, _, against, pair, *_ = stdout.splitlines()
    assert head.split()[:4] == ["run", "model", "rows", "ok"]
    assert "model of one" in first
    assert "75.0 %" in first
    assert "50.0 %" in second
    assert against.startswith("against one")
    assert pair.split()[:2] == ["two", "4"]
    assert "-25.0" in pair
    code, stdout, _ = batchrun("compare", one, two, "--json")
    assert json.loads(stdout)["runs"] == compared(one, two)
    moved = tmp_path / "elsewhere" / "one"
    shutil.copytree(one, moved)
    assert str(moved) in comparison_text(compare([one, moved])), "names that repeat say where"
    narrow = comparison_text(compare([one, two]), width=60).splitlines()
    assert max(map(len, narrow[:3])) <= 60
    assert narrow[3].startswith("no room for: p90")


def test_what_could_mislead_is_told(evaluate: Callable[..., Path]) -> None:
    one = evaluate("one", ["1", "1"])
    other = evaluate("two", ["1", "1"], table="other.parquet")
    with closing(sqlite3.connect(one / "checkpoint.db")) as db, db:
        db.execute("DELETE FROM scores WHERE ordinal = 1")
    text = comparison_text(compare([one, other]))
    assert f"1 answers of one have no score yet: batchrun score {one}" in text
    assert "two used a different table than the first run" in text


def test_what_cannot_be_compared(evaluate: Callable[..., Path], tmp_path: Path) -> None:
    one = evaluate("one", ["1"])
    for directories in ([one], [one, one], [one, tmp_path / "one" / ".." / "one"]):
        with pytest.raises(JobError, match="two different run directories"):
            compare(directories)
    code, _, stderr = batchrun("compare", one, tmp_path)
    assert code == 2
    assert f"{tmp_path} is a folder of runs: name it alone" in stderr
    (tmp_path / "empty").mkdir()
    code, _, stderr = batchrun("compare", one, tmp_path / "empty")
    assert code == 5
    assert "has no checkpoint.db" in stderr


def test_archived_runs_are_compared_where_nothing_may_be_written(
    evaluate: Callable[..., Path],
) -> None:
    runs = evaluate("one", ["1", "2"]), evaluate("two", ["1", "1"])
    with tempfile.TemporaryDirectory() as folder:
        archives = [Path(folder, run.name) for run in runs]
        for run, archive in zip(runs, archives, strict=True):
            archive.mkdir()
            shutil.copy(run / "checkpoint.db", archive)
            (archive / "checkpoint.db").chmod(0o444)
            archive.chmod(0o555)
        Path(folder).chmod(0o755)
        with as_nobody():
            assert compared(*archives)[1]["against_first"]["common"] == 2
        for archive in archives:
            assert [path.name for path in archive.iterdir()] == ["checkpoint.db"]
            archive.chmod(0o755)


@pytest.mark.parametrize(
    ("one", "other"), [(0, 0), (0, 1), (5, 5), (3, 12), (40, 10), (700, 800), (400_000, 401_000)]
)
def test_mcnemar_is_what_scipy_computes(one: int, other: int) -> None:
    from scipy.stats import binomtest

    known = binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(known, rel=1e-6)
