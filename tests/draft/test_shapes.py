"""`init` for the common shapes of tables: what the drafts ask, and how they score the right answer."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from tests.conftest import command
from tests.support.provider import answer, serving

if TYPE_CHECKING:
    from pathlib import Path

INTENTS = [f"intent_{n}" for n in range(77)]


def drafted(folder: Path, frame: pl.DataFrame, *arguments: str) -> tuple[dict[str, Any], str]:
    """Draft a job file; return it, and what was said."""
    frame.write_parquet(folder / "t.parquet")
    code, _, stderr = command("init", "t.parquet", *arguments, cwd=folder)
    assert code == 0, stderr
    return tomllib.loads((folder / "t.toml").read_text()), stderr


def prompts(folder: Path) -> list[dict[str, Any]]:
    code, stdout, stderr = command("preview", "t.toml", "-n", "3", cwd=folder)
    assert code == 0, stderr
    return [json.loads(line)["body"] for line in stdout.splitlines()]


def accuracy(folder: Path, say: str) -> float:
    """The score of a run in which every row gets this answer."""
    with serving(lambda call: answer(call, say)) as provider:
        code, _, stderr = command(
            *("run", "t.toml", "--base-url", provider.url, "--set", "api_key_env=TEST_KEY", "-q"),
            cwd=folder,
        )
    assert code == 0, stderr
    [summary] = folder.rglob("summary.json")
    return float(json.loads(summary.read_text())["score"]["accuracy"])


def refused(folder: Path, frame: pl.DataFrame, *arguments: str) -> str:
    frame.write_parquet(folder / "t.parquet")
    code, stdout, stderr = command("init", "t.parquet", *arguments, cwd=folder)
    assert (code, stdout) == (2, "")
    assert not (folder / "t.toml").exists()
    return stderr


def test_gsm8k(tmp_path: Path) -> None:
    table = {"question": ["How many?", "And now?"], "answer": ["2+3=<<5>>5\n#### 5", "#### 1,000"]}
    job, _ = drafted(tmp_path, pl.DataFrame(table))
    assert "after ####" in job["request"]["system"]
    assert [body["messages"][0]["content"] for body in prompts(tmp_path)] == table["question"]
    assert accuracy(tmp_path, "It is\n#### 1000") == 0.5


@pytest.mark.parametrize(
    ("columns", "right"),
    [
        ({"choices": [["x", "y"], ["z", "w"]], "answer": ["B", "A"]}, "B"),
        ({"choices": [["x", "y"], ["z", "w"]], "answer": [1, 0]}, "B"),
        ({"options": [["x", "y"], ["z", "w"]], "answer": [2, 1]}, "B"),
        (
            {
                "choices": [{"text": ["x", "y"], "label": ["A", "B"]}] * 2,
                "answerKey": ["B", "A"],
            },
            "B",
        ),
        ({"A": ["x", "z"], "B": ["y", "w"], "C": ["", ""], "answer": ["B", "A"]}, "B"),
        ({"opa": ["x", "z"], "opb": ["y", "w"], "opc": ["", ""], "cop": [1, 0]}, "B"),
    ],
    ids=["letter", "index", "from one", "arc", "columns", "medmcqa"],
)
def test_multiple_choice(tmp_path: Path, columns: dict[str, Any], right: str) -> None:
    job, _ = drafted(tmp_path, pl.DataFrame({"question": ["One?", "Two?"], **columns}))
    assert "letter" in job["request"]["system"]
    asked = prompts(tmp_path)[0]["messages"][0]["content"]
    assert asked.startswith("One?\n\nA. x\nB. y")
    assert accuracy(tmp_path, right) == 0.5


@pytest.mark.parametrize("is_open", [False, True])
def test_squad(tmp_path: Path, *, is_open: bool) -> None:
    texts = [["Paris", "paris"], [] if is_open else ["Rome"]]
    table = pl.DataFrame(
        {
            "id": ["a", "b"],
            "title": ["t", "t"],
            "context": ["Paris is in France.", "Rome is in Italy."],
            "question": ["What is in France?", "What is in Italy?"],
            "answers": [{"text": text, "answer_start": [0] * len(text)} for text in texts],
        }
    )
    job, _ = drafted(tmp_path, table)
    assert job["input"]["id"] == "id"
    asked = prompts(tmp_path)[0]["messages"][0]["content"]
    assert "Paris is in France." in asked
    assert "What is in France?" in asked
    assert accuracy(tmp_path, "unanswerable" if is_open else "It is Paris.") == 0.5


SENTIMENT = pl.DataFrame({"text": [f"It was {n}" for n in range(8)], "label": [0, 1] * 4})


def test_class_numbers_need_names(tmp_path: Path) -> None:
    said = refused(tmp_path, SENTIMENT)
    assert 'the column "label" has class numbers from 0 to 1' in said
    assert "--labels NAME0,NAME1" in said
    assert "class numbers" in refused(tmp_path, SENTIMENT, "--labels", "negative")
    job, _ = drafted(tmp_path, SENTIMENT, "--labels", "negative, positive")
    assert job["request"]["system"].endswith("labels: negative, positive.")
    assert job["score"]["choices"] == ["negative", "positive"]
    assert accuracy(tmp_path, "positive") == 0.5


def test_class_numbers_with_the_names_of_hugging_face(tmp_path: Path) -> None:
    names = {"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}
    SENTIMENT.write_parquet(tmp_path / "t.parquet", metadata={"huggingface": json.dumps(names)})
    assert command("init", "t.parquet", cwd=tmp_path)[0] == 0
    assert tomllib.loads((tmp_path / "t.toml").read_text())["score"]["choices"] == ["neg", "pos"]
    assert accuracy(tmp_path, "neg") == 0.5


@pytest.mark.parametrize("name", ["label", "category", "intent"])
def test_seventy_seven_intents(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame({"text": [f"Where is card {n}?" for n in range(231)], name: INTENTS * 3})
    job, _ = drafted(tmp_path, table)
    assert job["score"]["choices"] == INTENTS
    assert accuracy(tmp_path, "intent_5") == pytest.approx(1 / 77)


def test_conversations_with_the_right_answer(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    _, said = drafted(tmp_path, pl.DataFrame({"messages": [turns, turns]}))
    assert "the last turn of each conversation is the expected answer" in said
    [first, _] = prompts(tmp_path)
    assert first["messages"] == [{"role": "user", "content": "Hi"}]
    assert "Be brief." in json.dumps(first["system"])
    assert accuracy(tmp_path, "hello") == 1.0


def test_other_conversations_are_sent_as_they_are(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    job, _ = drafted(tmp_path, pl.DataFrame({"messages": [turns, turns]}))
    assert job["request"]["messages_column"] == "messages"


REVIEWS = pl.DataFrame(
    {
        "review": [f"This was the film number {n} of the year" for n in range(8)],
        "polarity": ["bad", "good"] * 4,
    }
)


def test_a_label_column_with_another_name_is_named(tmp_path: Path) -> None:
    job, said = drafted(tmp_path, REVIEWS)
    assert "not used, and could have labels: polarity" in said
    assert 'the job file uses "Summarise the text' in said.replace("\n", " ")
    assert "score" not in job
    (tmp_path / "t.toml").unlink()
    job, said = drafted(tmp_path, REVIEWS, "--label", "polarity")
    assert "could have labels" not in said
    assert sorted(job["score"]["choices"]) == ["bad", "good"]
    assert prompts(tmp_path)[0]["messages"][0]["content"] == REVIEWS["review"][0]
    (tmp_path / "t.toml").unlink()
    assert "--label polarty: is not a column (did you mean" in refused(
        tmp_path, REVIEWS, "--label", "polarty"
    )


@pytest.mark.parametrize(
    ("arguments", "system"),
    [
        (["--task", "classify", "--labels", "a,b"], "exactly one of these labels: a, b."),
        (["--task", "classify", "--label", "polarity"], "exactly one of these labels:"),
        (
            ["--task", "extract", "--fields", "year,title"],
            "Find these fields in the text: year, ti",
        ),
        (["--fields", "year"], "Find these fields in the text: year."),
        (["--task", "generate"], "Summarise the text"),
        (["--task", "qa", "--label", "polarity"], "Answer as briefly as possible."),
        (["--label", "review"], "Answer as briefly as possible."),
    ],
)
def test_a_task_makes_a_draft_that_runs(tmp_path: Path, arguments: list[str], system: str) -> None:
    job, _ = drafted(tmp_path, REVIEWS, *arguments)
    assert system in job["request"]["system"]
    assert command("run", "t.toml", "--simulate", "-q", cwd=tmp_path)[0] == 0
    if "fields" in arguments[0] or "extract" in arguments:
        [place] = tmp_path.rglob("results.parquet")
        assert "year" in pl.read_parquet(place).columns


def test_a_judge(tmp_path: Path) -> None:
    table = {"question": ["1+1?"], "reference": ["2"], "response": ["3"]}
    job, _ = drafted(tmp_path, pl.DataFrame(table), "--task", "judge")
    assert "correct, incorrect" in job["request"]["system"]
    asked = prompts(tmp_path)[0]["messages"][0]["content"]
    assert asked == "Question: 1+1?\n\nReference: 2\n\nResponse: 3"
    assert command("run", "t.toml", "--simulate", "-q", cwd=tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--task", "classify"], "no column with labels was found; name it with --label"),
        (["--task", "extract"], "--fields name,date,amount"),
        (["--task", "judge"], "no column with answers was found"),
    ],
)
def test_a_task_without_what_it_needs_says_what_to_add(
    tmp_path: Path, arguments: list[str], reason: str
) -> None:
    assert reason in refused(tmp_path, REVIEWS, *arguments)


def test_numbers_without_a_question_are_no_calculation(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": ["It is fine", "It is bad", "It is late"], "label": [0, 1, 1]})
    stderr = refused(tmp_path, frame)
    assert "t.parquet: column label has numbers, and no column has a question" in stderr
    assert "--labels" in stderr
    assert "--instruction" in stderr
    job, _ = drafted(tmp_path, frame, "--labels", "good,bad")
    assert job["score"]["expected"] == '{{ ["good", "bad"][label | int] }}'
    assert accuracy(tmp_path, "bad") == pytest.approx(2 / 3)


@pytest.mark.parametrize("text", ['["three", "four"]', "['three' 'four']", "[{'text': 'three'}]"])
def test_choices_in_a_text_are_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    frame = pl.DataFrame(
        {"question": ["2 + 2?", "1 + 2?"], "choices": [text] * 2, "answer": [1, 0]}
    )
    stderr = refused(tmp_path, frame)
    assert "t.parquet: column choices has lists as text" in stderr
    assert "JSON Lines or Parquet" in stderr
