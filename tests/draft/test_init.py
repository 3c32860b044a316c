"""`batchrun init`: what it writes can be previewed and rehearsed, whatever the table looks like."""

from __future__ import annotations

import json
import tomllib
from datetime import date
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun import DraftOptions, init_job
from tests.conftest import ROOT, command

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = (
    'a "quoted" name',
    "it's",
    "back\\slash",
    "{{ body }}",
    "{% raw %}",
    "%}}",
    "'''",
    '"""',
    "line\nbreak",
    "tab\there",
    "\u202egnp",
    "déjà vu ✓",
    "名前",
    "if",
    "none",
    "self",
    "1st",
    " padded ",
    "x" * 3_000,
    "$(rm -rf /)",
    "\x1b[31mred",
)


def drafted(folder: Path, *arguments: str) -> dict[str, Any]:
    """Draft a job, show that it works, and return it as data."""
    code, stdout, stderr = command("init", *arguments, cwd=folder)
    assert code == 0, stderr
    job = folder / stdout.strip()
    code, shown, stderr = command("preview", job, "-n", "2", cwd=folder)
    assert code == 0, stderr
    assert all("error_type" not in json.loads(line) for line in shown.splitlines())
    code, _, stderr = command("run", job, "--simulate", "--limit", "3", "--quiet", cwd=folder)
    assert code == 0, stderr
    return tomllib.loads(job.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            "tickets.csv",
            {"id": "ticket_id", "shown": {"subject", "body"}, "match": "choice"},
        ),
        ("word_problems.csv", {"id": "problem_id", "shown": {"question"}, "match": "number"}),
        ("products.parquet", {"id": "sku", "shown": {"name", "notes"}, "match": None}),
    ],
)
def test_the_sample_tables(tmp_path: Path, table: str, expected: dict[str, Any]) -> None:
    (tmp_path / "jobs").mkdir()
    job = drafted(tmp_path, str(ROOT / "sample_data" / table), "-o", "jobs/first.toml")
    assert job["input"]["id"] == expected["id"]
    assert job.get("score", {}).get("match") == expected["match"]
    for name in ("subject", "body", "question", "name", "notes", "label", "answer"):
        assert (name in job["request"]["prompt"]) == (name in expected["shown"]), name
    # Beside the jobs folder, as every job's.
    assert (tmp_path / "runs" / "first.simulated" / "results.csv").exists()


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_column_names(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame({"id": ["a", "b"], name: ["what it says", "and what else"]})
    table.write_parquet(tmp_path / "t.parquet")
    job = drafted(tmp_path, "t.parquet")
    shown = command("preview", "t.toml", "-n", "1", cwd=tmp_path)[1]
    assert json.loads(shown)["body"]["messages"][0]["content"] == "what it says"
    assert job["input"]["id"] == "id"


def test_all_hostile_names_together_and_in_a_csv(tmp_path: Path) -> None:
    names = [name for name in HOSTILE if "\n" not in name]
    long = {name: [f"{n} is a rather long text here", "x" * 40] for n, name in enumerate(names)}
    pl.DataFrame({"id": ["1", "2"], **long}).write_csv(tmp_path / "t.csv")
    drafted(tmp_path, "t.csv")


def test_hostile_cells_and_file_names(tmp_path: Path) -> None:
    table = tmp_path / 'it\'s # a\n[odd] "file".csv'
    pl.DataFrame(
        {
            "id": ["'''\n[output]\ndir = \"/evil\"", "2"],
            "text": ['"""\n[output]\n# {{ id }} of a longer kind', "\x1b[2J'''"],
            "label": ["{{ boom }}", "{% if %}"],
        }
    ).write_csv(table)
    job = drafted(tmp_path, table.name)
    assert set(job["output"]) == {"files"}
    assert "id" not in job["input"], "an id of several lines is none"


def test_columns_of_our_names_get_a_prefix(tmp_path: Path) -> None:
    names = ["status", "response", "model", "batchrun_status"]
    pl.DataFrame({name: [f"{name} which is long enough"] for name in names}).write_csv(
        tmp_path / "t.csv"
    )
    assert drafted(tmp_path, "t.csv")["output"]["prefix"] == "llm_"


def test_a_table_that_has_its_prompts(tmp_path: Path) -> None:
    pl.DataFrame({"prompt": ["Hi", "Bye"], "model": ["m", "n"], "label": ["a", "b"]}).write_csv(
        tmp_path / "t.csv"
    )
    request = drafted(tmp_path, "t.csv")["request"]
    assert request["prompt"] == "{{ prompt }}"
    assert request["from_columns"] == ["model"]


def test_a_table_of_conversations(tmp_path: Path) -> None:
    turns = json.dumps([{"role": "user", "content": "Hi"}])
    pl.DataFrame({"messages": [turns]}).write_csv(tmp_path / "t.csv")
    assert drafted(tmp_path, "t.csv")["request"]["messages_column"] == "messages"


@pytest.mark.parametrize(
    "table",
    [
        {"word": ["tree", "house"]},
        {"notes": ["once", None], "id": [7, 7]},
        {"label": ["a", "b"]},
    ],
    ids=["one column", "nulls", "only labels"],
)
def test_meagre_tables(tmp_path: Path, table: dict[str, Any]) -> None:
    pl.DataFrame(table, strict=False).write_parquet(tmp_path / "t.parquet")
    assert command("init", "t.parquet", cwd=tmp_path)[0] == 0
    assert command("preview", "t.toml", cwd=tmp_path)[0] == 0
    # A row without any text is errored, which is not the draft's fault.
    assert command("run", "t.toml", "--simulate", "-q", cwd=tmp_path)[0] in {0, 3}


@pytest.mark.parametrize(
    "table",
    [
        {"id": [1, 2]},
        {"x": [1.5, None, 2.5], "y": [1, None, None]},
        {"amount": ["1.50", "$ 2"], "day": ["2026-01-02", "2026-01-03"]},
        {"when": [date(2026, 1, 1), None], "tags": [["a"], []], "is_new": [True, None]},
        {"url": ["https://example.com/a", "https://example.com/b"]},
    ],
    ids=["only ids", "numbers", "numbers as text", "dates and lists", "addresses"],
)
def test_a_table_without_words_needs_an_instruction(tmp_path: Path, table: dict[str, Any]) -> None:
    """A prompt of a bare number would be paid for and make no sense."""
    pl.DataFrame(table, strict=False).write_parquet(tmp_path / "t.parquet")
    code, stdout, stderr = command("init", "t.parquet", cwd=tmp_path)
    assert (code, stdout) == (2, "")
    assert "no text that says what to do with each row" in stderr
    assert '--instruction "What' in stderr
    assert not (tmp_path / "t.toml").exists()
    words = "Explain this."
    assert command("init", "t.parquet", "--instruction", words, cwd=tmp_path)[0] == 0
    request = tomllib.loads((tmp_path / "t.toml").read_text())["request"]
    assert request["system"] == words
    assert command("preview", "t.toml", cwd=tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        ({"id": [1, 2], "text": ["good", "bad stuff"]}, {"text"}),
        ({"sku": ["A1", "A2"], "name": ["Mug", "Jar"], "price": ["1", "2"]}, {"name", "price"}),
        ({"level": ["INFO", "WARN"], "message": ["it failed", "it works"]}, {"message"}),
    ],
)
def test_short_texts_get_an_instruction_and_a_note(
    tmp_path: Path, table: dict[str, Any], shown: set[str]
) -> None:
    pl.DataFrame(table).write_csv(tmp_path / "t.csv")
    _, _, stderr = command("init", "t.csv", "-o", "first.toml", cwd=tmp_path)
    assert 'the job file uses "Describe this in one sentence."' in stderr
    request = drafted(tmp_path, "t.csv")["request"]
    assert request["system"] == "Describe this in one sentence."
    assert {name for name in table if name in request["prompt"]} == shown


def test_an_instruction_with_labels_is_scored(tmp_path: Path) -> None:
    rows = {"text": ["a b", "c d"] * 3, "kind": ["x", "y"] * 3}
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    words = ("--instruction", "Answer x or y.", "--label", "kind")
    job = drafted(tmp_path, "t.csv", *words)
    assert job["request"]["system"] == "Answer x or y."
    assert (job["request"]["prompt"], job["score"]["choices"]) == ("{{ text }}", ["x", "y"])
    code, _, stderr = command("init", "t.csv", *words, "--task", "qa", cwd=tmp_path)
    assert (code, "--instruction cannot be combined with --task" in stderr) == (2, True)


def test_pairs_of_languages_are_translated(tmp_path: Path) -> None:
    rows = {"en": ["Good morning", "Thank you"], "German": ["Guten Morgen", "Danke"]}
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    job = drafted(tmp_path, "t.csv")
    assert "from English to German" in job["request"]["system"]
    assert job["request"]["prompt"] == "{{ en }}"
    assert job["score"] == {"expected": "{{ German }}", "match": "similarity"}


@pytest.mark.parametrize(
    "text", ["u1,please stop it,cancel\nu2,go on,cancel\nu3,x y,keep\n", "1,2\n3,4\n"]
)
def test_a_file_without_names_of_columns_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    code, _, stderr = command("init", "t.csv", cwd=tmp_path)
    assert code == 2
    assert "the first line looks like a row" in stderr
    assert not (tmp_path / "t.toml").exists()
    assert command("init", "t.csv", "--instruction", "Explain this.", cwd=tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("answer", "system"), [("Count the words.", "Count the words."), ("", "D")]
)
def test_the_user_is_asked_when_nothing_says_what_to_do(
    tmp_path: Path, answer: str, system: str
) -> None:
    pl.DataFrame({"text": ["a b", "c d"]}).write_csv(tmp_path / "t.csv")
    asked: list[str] = []

    def ask(found: str) -> str:
        asked.append(found)
        return answer

    init_job(str(tmp_path / "t.csv"), tmp_path / "t.toml", options=DraftOptions(ask=ask))
    request = tomllib.loads((tmp_path / "t.toml").read_text())["request"]
    assert asked == ["text"]
    assert request["system"].startswith(system)


def test_how_to_read_the_table_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes('id;text\n1;Größe "M"\n2;weiß\n'.encode("cp1252"))
    code, _, stderr = command("init", "t.csv", cwd=tmp_path)
    assert code == 2
    assert '[input] quote = ""' in stderr
    keys = ("--set", "input.encoding=cp1252", "--set", "quote=''")
    asked = ("--instruction", "Explain.")
    job = drafted(tmp_path, "t.csv", *keys, *asked)
    assert job["input"]["encoding"] == "cp1252"
    assert job["input"]["quote"] == ""
    assert "text" in job["request"]["prompt"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "max_tokens=5",
            "--set max_tokens: init takes only the keys that say how to read the table",
        ),
        ("input.limit=5", "--set input.limit: init takes only the keys"),
        ("input.encoding=klingon", "encoding"),
        ("input.separator=5", "separator"),
        ("inputs.quote=x", 'did you mean "input"'),
    ],
)
def test_other_keys_are_not_passed_on(tmp_path: Path, setting: str, message: str) -> None:
    pl.DataFrame({"text": ["a b", "c d"]}).write_csv(tmp_path / "t.csv")
    code, _, stderr = command("init", "t.csv", "--set", setting, cwd=tmp_path)
    assert code == 2
    assert message in stderr
    assert not (tmp_path / "t.toml").exists()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text(""), "cannot be read as a table"),
        (lambda path: path.write_text("a,b\n"), "has no rows"),
        (lambda path: path.write_text("a,b\n,\n"), "no column can be used in a prompt"),
        (lambda path: path.write_bytes(b"\xff\xff\x00a"), "UTF-8"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "file not found"),
    ],
    ids=["empty", "header only", "blank", "not UTF-8", "folder", "missing"],
)
def test_tables_that_give_nothing_to_ask(tmp_path: Path, write: Any, message: str) -> None:
    write(tmp_path / "t.csv")
    code, stdout, stderr = command("init", "t.csv", cwd=tmp_path)
    assert (code, stdout) == (2, "")
    assert "t.csv" in stderr
    assert message in stderr
    assert not (tmp_path / "t.toml").exists()


def test_a_column_that_hides_the_row(tmp_path: Path) -> None:
    table = pl.DataFrame({"row": ["what it says here", "x"], "odd name": ["cannot be reached"] * 2})
    table.write_csv(tmp_path / "t.csv")
    assert drafted(tmp_path, "t.csv")["request"]["prompt"] == "{{ row }}"


def test_pictures_alone_are_no_prompt(tmp_path: Path) -> None:
    pl.DataFrame({"picture": [b"\x89PNG"]}).write_parquet(tmp_path / "t.parquet")
    code, _, stderr = command("init", "t.parquet", cwd=tmp_path)
    assert code == 2
    assert "picture (Binary)" in stderr


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\nhello\n")
    (tmp_path / "t.toml").write_text("mine")
    (tmp_path / "link.toml").symlink_to("nowhere")
    for to in ("t.toml", "link.toml"):
        code, _, stderr = command("init", "t.csv", "-o", to, cwd=tmp_path)
        assert code == 2
        assert f"{to}: already exists" in stderr
    assert (tmp_path / "t.toml").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    for to, message in (("t.csv", "must end in .toml"), ("none/t.toml", "cannot be written")):
        code, _, stderr = command("init", "t.csv", "-o", to, cwd=tmp_path)
        assert code == 2
        assert message in stderr
    assert (tmp_path / "t.csv").read_text() == "text\nhello\n"


def test_an_id_must_differ_in_every_row_not_only_the_first(tmp_path: Path) -> None:
    ids = [*map(str, range(2_000)), "7"]
    pl.DataFrame({"id": ids, "text": ["hello"] * len(ids)}).write_csv(tmp_path / "t.csv")
    assert "id" not in drafted(tmp_path, "t.csv")["input"]


def test_labels_of_later_rows_are_known(tmp_path: Path) -> None:
    labels = ["a", "b"] * 500 + ["c"] * 3
    pl.DataFrame({"text": ["x"] * len(labels), "label": labels}).write_csv(tmp_path / "t.csv")
    assert drafted(tmp_path, "t.csv")["score"]["choices"] == ["a", "b", "c"]


def test_the_settings_of_a_provider_are_written(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a", "b"]}).write_csv(tmp_path / "t.csv")
    request = drafted(tmp_path, "t.csv", "--provider", "groq")["request"]
    assert request["provider"] == "groq"
    assert request["format"] == "chat"
    assert request["base_url"] == "https://api.groq.com/openai"
    assert request["api_key_env"] == "GROQ_API_KEY"
    other = drafted(tmp_path, "t.csv", "--provider", "zai", "--format", "messages", "-o", "z.toml")
    assert other["request"]["base_url"] == "https://api.z.ai/api/anthropic"


def test_the_program_of_short_lived_keys_is_written_not_implied(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a", "b"]}).write_csv(tmp_path / "t.csv")
    assert command("init", "t.csv", "--provider", "vertex", cwd=tmp_path)[0] == 0
    request = tomllib.loads((tmp_path / "t.toml").read_text())["request"]
    assert request["api_key_command"] == ["gcloud", "auth", "print-access-token"]
    assert "api_key_env" not in request


def test_what_the_user_must_fill_in_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a", "b"]}).write_csv(tmp_path / "t.csv")
    code, _, stderr = command("init", "t.csv", "--provider", "azure", cwd=tmp_path)
    assert (code, "replace RESOURCE in base_url" in stderr) == (0, True)
    code, _, stderr = command("preview", "t.toml", cwd=tmp_path)
    assert (code, "base_url: replace RESOURCE" in stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--provider", "gemini"), 'did you mean "google"?'),
        (("--provider", "qqq"), "known are anthropic, openai"),
        (("--provider", "groq", "--format", "messages"), "use --format chat"),
    ],
)
def test_an_unknown_provider_writes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    pl.DataFrame({"text": ["a", "b"]}).write_csv(tmp_path / "t.csv")
    code, _, stderr = command("init", "t.csv", *arguments, cwd=tmp_path)
    assert code == 2
    assert message in stderr
    assert not (tmp_path / "t.toml").exists()


def test_the_chat_format_and_a_model(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\nhello\n")
    assert drafted(tmp_path, "t.csv", "--format", "chat")["request"]["model"] == "gpt-4o-mini"
    request = drafted(tmp_path, "t.csv", "-o", "o.toml", "--model", 'odd "name"')["request"]
    assert request["model"] == 'odd "name"'
