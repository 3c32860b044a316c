"""Evaluations: real runs whose answers are known, scored as scikit-learn and statsmodels would."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import Job, RunOptions, run_job
from batchrun.checkpoint import Checkpoint, NewExecution, score_rows, write_scores
from batchrun.checkpoint.stored_scores import MOST_CLASSES
from batchrun.errors import JobError
from batchrun.evaluation import RowScore, score_columns
from tests.conftest import batchrun
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LABELS = ("billing", "bug", "how_to", "account", "other")


@pytest.fixture
def evaluate(tmp_path: Path) -> Callable[..., Path]:
    """Run a job over (prompt, label) rows, each answered as `said` tells; return the directory."""

    def run(
        rows: list[dict[str, Any]],
        score: str,
        said: Callable[[Call], Reply],
        *,
        code: int = 0,
        extra: str = "",
        output: str = "",
        suffix: str = ".parquet",
        several: bool = False,
    ) -> Path:
        table = tmp_path / f"rows{suffix}"
        if suffix == ".jsonl":
            table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pl.DataFrame(rows, infer_schema_length=None).write_parquet(table)
        with serving(said) as provider:
            job = tmp_path / "job.toml"
            job.write_text(
                f"""
[input]
path = "rows{suffix}"
[request]
format = "chat"
base_url = "{provider.url}"
provider = "anthropic"
api_key_env = ""
model = "m"
prompt = "{{{{ prompt }}}}"
{extra}
{"[[score]]" if several else "[score]"}
{score}
[output]
dir = "out"
{output}
"""
            )
            report = run_job(Job.load(job), RunOptions(quiet=True))
        assert report.exit_code == code
        (tmp_path / "told.txt").write_text(report.summary_text())
        return tmp_path / "out"

    return run


def results(directory: Path) -> pl.DataFrame:
    return pl.read_parquet(directory / "results.parquet")


def facts(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "summary.json").read_text())["score"]
    return found


def echo(call: Call) -> Reply:
    return answer(call, call.prompt)


def test_a_thousand_rows_are_scored_as_scikit_learn_and_statsmodels_do(
    evaluate: Callable[..., Path], tmp_path: Path
) -> None:
    from sklearn.metrics import (
        accuracy_score,
        confusion_matrix,
        precision_recall_fscore_support,
    )
    from statsmodels.stats.proportion import proportion_confint

    chance = random.Random(7)
    truth = [chance.choices(LABELS, weights=(5, 4, 3, 2, 1))[0] for _ in range(1_200)]
    # Right in seven of ten, otherwise any label, or one that is never right.
    said = [label if chance.random() < 0.7 else chance.choice((*LABELS, "spam")) for label in truth]
    rows = [{"prompt": f"{n}", "label": label} for n, label in enumerate(truth)]
    directory = evaluate(
        rows, 'expected = "{{ label }}"', lambda call: answer(call, f" {said[int(call.prompt)]}\n")
    )

    table, found = results(directory), facts(directory)
    assert table["predicted"].to_list() == said
    assert table["score"].to_list() == [float(a == b) for a, b in zip(truth, said, strict=True)]
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, said))
    interval = proportion_confint(found["correct"], 1_200, alpha=0.05, method="wilson")
    assert found["ci95"] == pytest.approx(list(interval))
    macro = precision_recall_fscore_support(truth, said, average="macro", zero_division=0)
    known = [found["macro_precision"], found["macro_recall"], found["macro_f1"]]
    assert known == pytest.approx(list(macro[:3]))
    names = [one["label"] for one in found["labels"]]
    by_class = precision_recall_fscore_support(truth, said, labels=names, zero_division=0)
    for key, values in zip(("precision", "recall", "f1", "support"), by_class, strict=True):
        assert [one[key] for one in found["labels"]] == pytest.approx(list(values))
    matrix = confusion_matrix(truth, said, labels=found["confusion"]["labels"])
    assert found["confusion"]["matrix"] == matrix.tolist()
    terminal = (tmp_path / "told.txt").read_text()
    assert f"accuracy {found['accuracy'] * 100:.1f} % (95 % CI" in terminal
    assert f"macro F1 {found['macro_f1']:.3f} over 6 labels" in terminal


def test_rows_without_an_answer_have_no_score(evaluate: Callable[..., Path]) -> None:
    def said(call: Call) -> Reply:
        return refusal(400, "invalid_request_error") if call.prompt == "b" else echo(call)

    rows = [{"prompt": text, "label": label} for text, label in zip("abcd", "axx ", strict=True)]
    directory = evaluate(rows, 'expected = "{{ label }}"', said, code=3)
    table = results(directory)
    assert table.columns[-4:] == ["error_type", "error_message", "score", "predicted"]
    assert table["score"].to_list() == [1, None, 0, None]
    assert table["predicted"].to_list() == ["a", None, "c", None]
    found = facts(directory)
    assert (found["scored"], found["unscored"], found["correct"]) == (2, 1, 1)
    assert found["unscored_example"] == "expected is empty for this row"


def test_the_answer_is_extracted_and_read_as_a_number(evaluate: Callable[..., Path]) -> None:
    rows = [
        {"prompt": "6 * 7 = 42\n#### $42.00", "label": 42},
        {"prompt": "#### 41, no: #### 1,042", "label": 1042},
        {"prompt": "it is 42", "label": 42},
        {"prompt": "#### none", "label": 42},
    ]
    score = "expected = '{{ label }}'\nmatch = 'number'\nanswer = '####\\s*(\\S+)'"
    directory = evaluate(rows, score, echo)
    assert results(directory)["score"].to_list() == [1, 1, 0, 0]
    assert results(directory)["predicted"].to_list() == ["42", "1042", None, None]
    found = facts(directory)
    assert (found["unanswered"], found["labels"], found["confusion"]) == (2, None, None)


def test_json_is_compared_with_what_the_line_says(evaluate: Callable[..., Path]) -> None:
    """The struct column of all lines would have keys that single lines lack."""
    rows = [
        {"prompt": '{"a": 1}', "label": {"a": 1}},
        {"prompt": '{"b": [2.0]}', "label": {"b": [2]}},
        {"prompt": '{"b": null}', "label": {}},
    ]
    directory = evaluate(rows, 'expected = "{{ label }}"\nmatch = "json"', echo, suffix=".jsonl")
    assert results(directory)["score"].to_list() == [1, 1, 0]


def test_labels_that_differ_in_case_only_are_one(evaluate: Callable[..., Path]) -> None:
    rows = [
        {"prompt": "BUG", "label": "Bug"},
        {"prompt": "bug", "label": "Billing"},
        {"prompt": "billing", "label": "Bug"},
    ]
    directory = evaluate(rows, 'expected = "{{ label }}"\nmatch = "casefold"', echo)
    found = facts(directory)
    counts = {
        one["label"]: (one["support"], one["predicted"], one["correct"]) for one in found["labels"]
    }
    assert counts == {"Bug": (2, 2, 1), "Billing": (1, 1, 0)}
    assert results(directory)["predicted"].to_list() == ["Bug", "bug", "billing"]


def test_many_labels_are_folded_and_their_means_are_not(evaluate: Callable[..., Path]) -> None:
    from sklearn.metrics import f1_score

    chance = random.Random(3)
    names = [f"label {n:03}" for n in range(120)]
    truth = [chance.choice(names[: 1 + n % 120]) for n in range(400)]
    said = [label if chance.random() < 0.6 else chance.choice(names) for label in truth]
    rows = [{"prompt": text, "label": label} for text, label in zip(said, truth, strict=True)]
    found = facts(evaluate(rows, 'expected = "{{ label }}"', echo))
    assert found["label_count"] == len({*truth, *said})
    assert found["macro_f1"] == pytest.approx(
        f1_score(truth, said, average="macro", zero_division=0)
    )
    assert len(found["labels"]) == MOST_CLASSES
    confusion = found["confusion"]
    assert confusion["labels"][-1] == "(other)"
    assert len(confusion["matrix"]) == MOST_CLASSES + 1
    assert sum(map(sum, confusion["matrix"])) == 400


def test_a_function_judges_and_what_it_raises_is_told(
    evaluate: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def score(row, answer):\n"
        "    if row['label'] == 0: raise KeyError('no label')\n"
        "    return {'score': 1 / row['label'], 'predicted': answer.upper()}\n"
    )
    rows = [{"prompt": text, "label": n} for n, text in enumerate("abc")]
    directory = evaluate(rows, 'function = "mine.py:score"', echo)
    assert results(directory)["score"].to_list() == [None, 1, 0.5]
    assert results(directory)["predicted"].to_list() == [None, "B", "C"]
    found = facts(directory)
    assert (found["mean"], found["accuracy"], found["ci_method"]) == (
        0.75,
        None,
        "effective_wilson",
    )
    assert found["unscored_example"] == "the function raised KeyError: 'no label'"
    assert "mean 0.750" in (tmp_path / "told.txt").read_text()


def test_several_scorers_have_columns_of_their_own_and_a_weighted_mean(
    evaluate: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [
        {"prompt": text, "label": label, "number": number}
        for text, label, number in (("a 1", "a 1", 1), ("a 1", "x", 1), ("a", "a", 2), ("b", "", 3))
    ]
    sections = """name = "text"
expected = "{{ label }}"
[[score]]
name = "count"
expected = "{{ number }}"
match = "number"
weight = 3"""
    directory = evaluate(rows, sections, echo, several=True)
    table, found = results(directory), facts(directory)
    assert table.columns[-5:] == [
        "score",
        "score_text",
        "predicted_text",
        "score_count",
        "predicted_count",
    ]
    assert table["score_text"].to_list() == [1, 0, 1, None]
    assert table["score_count"].to_list() == [1, 1, 0, 0]
    assert table["predicted_count"].to_list() == ["1", "1", None, None]
    assert table["score"].to_list() == [1, 0.75, 0.25, None]
    assert (found["scored"], found["mean"], found["unscored"]) == (3, pytest.approx(2 / 3), 1)
    assert found["unscored_example"] == "text: expected is empty for this row"
    own = found["scorers"]
    assert [(name, own[name]["scored"], own[name]["correct"]) for name in own] == [
        ("text", 3, 2),
        ("count", 4, 2),
    ]
    assert own["text"]["label_count"] == 3
    assert own["count"]["labels"] is None
    assert "text: accuracy 66.7 %" in (tmp_path / "told.txt").read_text()
    before = (directory / "results.parquet").read_bytes()
    assert batchrun("verify", directory)[0] == 0
    assert batchrun("export", directory)[0] == 0
    assert (directory / "results.parquet").read_bytes() == before
    job = tmp_path / "job.toml"
    job.write_text(job.read_text().replace("weight = 3", "weight = 1"))
    code, stdout, stderr = batchrun("score", directory, "--job", job, "--json")
    assert (code, stderr) == (0, "")
    assert json.loads(stdout)["mean"] == pytest.approx(2 / 3)
    assert results(directory)["score"].to_list() == [1, 0.5, 0.5, None]


def test_several_choices_are_several_answers(evaluate: Callable[..., Path]) -> None:
    def said(call: Call) -> Reply:
        reply = json.loads(answer(call).body)
        (choice,) = reply["choices"]
        reply["choices"] = [
            {**choice, "index": n, "message": {"role": "assistant", "content": text}}
            for n, text in enumerate(call.prompt)
        ]
        return Reply(body=json.dumps(reply).encode())

    rows = [{"prompt": "abab", "label": "b"}, {"prompt": "bbba", "label": "b"}]
    directory = evaluate(rows, 'expected = "{{ label }}"', said, extra="n = 4")
    assert results(directory)["score"].to_list() == [0.5, 0.75]
    assert results(directory)["predicted"].to_list() == ["a", "b"]
    samples = facts(directory)["samples"]
    assert (samples["most"], samples["majority_accuracy"]) == (4, 0.5)
    # Of the six pairs of four answers, one holds no right one; of the other row's, none.
    assert samples["pass_at"] == {"1": 0.625, "2": pytest.approx((5 / 6 + 1) / 2), "4": 1.0}


def test_columns_named_like_ours_keep_their_place(evaluate: Callable[..., Path]) -> None:
    rows = [{"prompt": "a", "label": "a", "score": 7, "predicted": "mine"}]
    score = 'expected = "{{ label }}"'
    with pytest.raises(JobError, match=r"writes too: predicted, score; .*\[output\] prefix"):
        evaluate(rows, score, echo)
    (row,) = results(evaluate(rows, score, echo, output='prefix = "llm_"')).rows(named=True)
    assert (row["score"], row["predicted"]) == (7, "mine")
    assert (row["llm_score"], row["llm_predicted"]) == (1, "a")


def test_scores_are_part_of_every_kind_of_output(
    evaluate: Callable[..., Path], tmp_path: Path
) -> None:
    directory = evaluate([{"prompt": "a", "label": "a"}], 'expected = "{{ label }}"', echo)
    for name in ("one.csv", "one.jsonl"):
        assert batchrun("export", directory, "--to", tmp_path / name)[0] == 0
    (row,) = pl.read_csv(tmp_path / "one.csv").rows(named=True)
    assert (row["score"], row["predicted"]) == (1.0, "a")
    row = json.loads((tmp_path / "one.jsonl").read_text())
    assert (row["score"], row["predicted"]) == (1.0, "a")


def scored(database: Path) -> list[Any]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return db.execute(
            "SELECT ordinal, score FROM scores WHERE scorer = '' ORDER BY ordinal"
        ).fetchall()


def test_an_edited_section_scores_a_run_again_and_sends_nothing(
    evaluate: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"prompt": text, "label": "a"} for text in "aAb"]
    directory = evaluate(rows, 'expected = "{{ label }}"', echo)
    assert facts(directory)["correct"] == 1
    job = tmp_path / "job.toml"
    job.write_text(job.read_text().replace("[score]\n", '[score]\nmatch = "casefold"\n'))

    code, stdout, stderr = batchrun("score", directory)
    assert (code, stderr) == (0, "")
    assert "1 of 3 rows" in stdout, "the run keeps the job that it was run with"
    code, stdout, stderr = batchrun("score", directory, "--job", job, "--json")
    assert (code, stderr) == (0, "")
    assert json.loads(stdout) == facts(directory)
    assert facts(directory)["correct"] == 2
    assert results(directory)["score"].to_list() == [1, 1, 0]
    assert scored(directory / "checkpoint.db") == [(0, 1.0), (1, 1.0), (2, 0.0)]
    assert batchrun("export", directory)[0] == 0
    assert results(directory)["score"].to_list() == [1, 1, 0], "the edited section is kept"


def test_a_function_of_a_job_elsewhere_is_found_again(
    evaluate: Callable[..., Path], tmp_path: Path
) -> None:
    directory = evaluate([{"prompt": "a", "label": "b"}], 'expected = "{{ label }}"', echo)
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "mine.py").write_text("def score(row, answer): return answer != row['label']\n")
    text = (tmp_path / "job.toml").read_text()
    (other / "job.toml").write_text(
        text.replace('expected = "{{ label }}"', 'function = "mine.py:score"')
    )
    assert batchrun("score", directory, "--job", other / "job.toml")[0] == 0
    assert batchrun("score", directory)[0] == 0
    assert results(directory)["score"].to_list() == [1]


def test_scoring_refuses_what_it_cannot_do(evaluate: Callable[..., Path], tmp_path: Path) -> None:
    directory = evaluate([{"prompt": "a", "label": "b"}], 'expected = "{{ label }}"', echo)
    before = (directory / "results.parquet").read_bytes()
    job = tmp_path / "other.toml"
    text = (tmp_path / "job.toml").read_text()
    for wrong, message in (
        (text.replace("{{ label }}", "{{ labl }}"), "no column 'labl'"),
        (text.replace('expected = "{{ label }}"', ""), "has no section [score]"),
    ):
        job.write_text(wrong)
        code, _, stderr = batchrun("score", directory, "--job", job)
        assert code == 2
        assert message in stderr
    assert (directory / "results.parquet").read_bytes() == before
    assert batchrun("score", directory)[0] == 0, "the section of the run is still the one it had"
    assert batchrun("score", tmp_path)[0] == 2, "the runs inside are named"
    assert not (tmp_path / "checkpoint.db").exists()
    pl.DataFrame({"prompt": ["a", "c"], "label": ["b", "b"]}).write_parquet(
        tmp_path / "rows.parquet"
    )
    code, _, stderr = batchrun("score", directory)
    assert code == 6
    assert "has changed since the run" in stderr


def test_an_archived_run_is_exported_with_scores(
    evaluate: Callable[..., Path], tmp_path: Path
) -> None:
    """Scores come from the answers, also where nothing can be written beside them."""
    directory = evaluate([{"prompt": "a", "label": "a"}], 'expected = "{{ label }}"', echo)
    archive = tmp_path / "archive"
    shutil.copytree(directory, archive)
    with closing(sqlite3.connect(archive / "checkpoint.db")) as db, db:
        db.execute("UPDATE scores SET score = 0")
    code, _, stderr = batchrun("export", archive, "--to", tmp_path / "x.parquet")
    assert code == 0, stderr
    assert pl.read_parquet(tmp_path / "x.parquet")["score"].to_list() == [1]
    assert scored(archive / "checkpoint.db") == [(0, 0.0)]


def test_scores_of_a_table_that_has_changed_are_forgotten(tmp_path: Path) -> None:
    """They are kept by row, and rows have moved."""

    def start(signature: str) -> None:
        facts: dict[str, Any] = {"name": "n", "job": {}, "base": tmp_path, "version": "1"}
        store.start_execution(NewExecution(signature=signature, total=2, **facts))

    columns = score_columns(("",))
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        start("one")
        write_scores(store, [RowScore(0, 1.0, "a", "a"), RowScore(1, 0.0, "b", "a")], "exact")
        start("one")
        assert score_rows(store, columns, 0, 2) == [(0, 1.0, "a"), (1, 0.0, "b")]
        start("two")
        assert score_rows(store, columns, 0, 2) == []


def test_scores_with_long_texts_take_little_more_than_their_bytes(tmp_path: Path) -> None:
    rows, text = 400, "x" * 2_500
    facts: dict[str, Any] = {"name": "n", "job": {}, "base": tmp_path, "version": "1"}
    with closing(Checkpoint(tmp_path, writable=True)) as store:
        store.start_execution(NewExecution(signature="s", total=rows, **facts))
        empty = store.path.stat().st_size
        write_scores(store, [RowScore(n, 1.0, text, text) for n in range(rows)], "exact")
    size = (tmp_path / "checkpoint.db").stat().st_size - empty
    assert size < 1.3 * rows * 2 * len(text)
