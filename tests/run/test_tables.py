"""`complete`, `extract` and `classify` with every kind of table that Python programs have."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel

import batchrun as library
from tests.conftest import KEY
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.provider import Provider

ASKED = {
    "prompt": "Say {{ text }}",
    "model": "claude-haiku-4-5-20251001",
    "provider": "anthropic",
    "api_key_env": "TEST_KEY",
    "quiet": True,
}
LABELS = {"bug": "something is {{ broken }}", "question": "asks how"}


def decide(call: Call) -> Reply:
    """Answer with the last word; refuse the row that says so."""
    content = call.json["messages"][-1]["content"]
    said = content if isinstance(content, str) else content[-1]["text"]
    if "refused" in said:
        return refusal(400, "invalid_request_error")
    schema = json.dumps(call.json)
    if '"topic"' in schema:
        return answer(call, text='{"topic": "bug"}')
    if '"amount"' in schema:
        found = {
            "amount": 1.5,
            "count": 3,
            "kind": "card",
            "tags": ["a"],
            "size": "s",
            "when": None,
        }
        # Another schema has this property only, and is closed.
        kept = found if '"count"' in schema else {"amount": found["amount"]}
        return answer(call, text=json.dumps(kept))
    return answer(call, text=said.split()[-1])


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_KEY", KEY)
    with serving(decide) as provider:
        yield provider


def asked(provider: Provider, **more: Any) -> dict[str, Any]:
    return {**ASKED, "base_url": provider.url, **more}


def test_a_frame_of_pandas_keeps_its_index_and_types(provider: Provider) -> None:
    frame = pd.DataFrame(
        {"text": ["one", "refused", "two"], "size": pd.Categorical(["s", "m", "s"])},
        index=pd.Index([7, 7, 9], name="number"),
    )
    found = library.complete(frame, **asked(provider))
    assert isinstance(found, pd.DataFrame)
    pd.testing.assert_frame_equal(found[["text", "size"]], frame)
    assert found["response"].isna().tolist() == [False, True, False]
    assert found["response"].tolist()[::2] == ["one", "two"]
    assert found["input_tokens"].dtype == pd.Int64Dtype()
    assert str(found["finished_at"].dtype).startswith("datetime64[us, UTC")


def test_a_table_of_pyarrow_keeps_its_columns(provider: Provider) -> None:
    schema = pa.schema([("text", pa.string()), ("at", pa.date32()), ("n", pa.int8())])
    table = pa.Table.from_pylist([{"text": "one", "n": 1}, {"text": "two"}], schema=schema)
    found = library.complete(table, **asked(provider))
    assert isinstance(found, pa.Table)
    assert found.select(table.column_names).equals(table)
    assert found.column("response").to_pylist() == ["one", "two"]


def test_a_list_of_dicts_gets_new_dicts(provider: Provider) -> None:
    rows: list[dict[str, Any]] = [{"text": "one", "more": {"deep": [1]}}, {"text": "two"}]
    found = library.complete(rows, **asked(provider))
    assert [row["response"] for row in found] == ["one", "two"]
    assert [list(row)[:2] for row in found] == [["text", "more"], ["text", "custom_id"]]
    assert "response" not in rows[0]
    assert library.complete([], **asked(provider)) == []


def test_a_lazy_frame_stays_lazy_and_later_calls_leave_it_alone(provider: Provider) -> None:
    lazy = pl.DataFrame({"text": ["one", "two"], "n": [1, 2]}).lazy().filter(pl.col("n") > 1)
    found = library.complete(lazy, **asked(provider))
    assert isinstance(found, pl.LazyFrame)
    other = library.complete(lazy, **asked(provider, prompt="Say {{ text }} other"))
    assert found.select("text", "response").collect().rows() == [("two", "two")]
    assert other.select("text", "response").collect().rows() == [("two", "other")]
    again = library.complete(lazy, **asked(provider)).collect()
    assert again["response"].to_list() == ["two"]
    assert len(provider.calls) == 2
    broken = pl.LazyFrame({"text": ["a"]}).select(pl.col("nothing"))
    with pytest.raises(library.JobError, match="the LazyFrame cannot be read: .*nothing"):
        library.complete(broken, **asked(provider))


def test_any_table_that_speaks_arrow_is_read(provider: Provider) -> None:
    class Relation:
        """What DuckDB or another library passes on."""

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.table({"text": ["one"]}).__arrow_c_stream__(requested_schema)

    found: Any = library.complete(Relation(), **asked(provider))
    assert found["response"].to_list() == ["one"]


@pytest.mark.parametrize("rows", [{"text": ["a"]}, ["a"], "rows.csv", None, 3])
def test_what_is_not_a_table_is_refused(provider: Provider, rows: object) -> None:
    with pytest.raises(library.JobError, match="the rows must be a DataFrame or LazyFrame of"):
        library.complete(rows, **asked(provider))
    assert provider.calls == []


def test_without_pyarrow_the_message_says_what_to_install(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(library.JobError, match=r"need pyarrow: pip install 'batchrun\[pandas\]'"):
        library.complete(pd.DataFrame({"text": ["a"]}), **asked(provider))


class Payment(BaseModel):
    """Facts of every type, as pydantic describes them."""

    class Size(BaseModel):
        wide: int

    amount: float
    count: int | None
    kind: Literal["card", "cash"]
    tags: list[str]
    size: Size | str
    when: str | None = None


def test_facts_become_typed_columns(provider: Provider) -> None:
    frame = pl.DataFrame({"text": ["one", "refused"]})
    found = library.extract(frame, schema=Payment, **asked(provider))
    types = found.select("amount", "count", "kind", "tags", "size", "when").schema
    assert list(types.values()) == [
        *(pl.Float64, pl.Int64, pl.String, pl.List(pl.String), pl.String, pl.String)
    ]
    assert found.select("amount", "count", "tags").rows() == [(1.5, 3, ["a"]), (None, None, None)]
    plain = {"type": "object", "properties": {"amount": {"type": "number"}}}
    table = library.extract(pa.table({"text": ["one"]}), schema=plain, **asked(provider))
    assert table.column("amount").to_pylist() == [1.5]


@pytest.mark.parametrize(
    ("schema", "message"),
    [(int, "pydantic model class"), ("{}", "pydantic"), ({"type": "array"}, "with properties")],
)
def test_a_schema_that_is_none_is_refused(provider: Provider, schema: Any, message: str) -> None:
    with pytest.raises(library.JobError, match=message):
        library.extract(pl.DataFrame({"text": ["a"]}), schema=schema, **asked(provider))


def test_labels_are_a_column_and_their_meaning_is_sent_as_it_is(provider: Provider) -> None:
    frame = pl.DataFrame({"text": ["one", "refused"], "label": ["old", "old"]})
    found = library.classify(frame, labels=LABELS, column="topic", **asked(provider))
    assert found["topic"].to_list() == ["bug", None]
    system = json.dumps(provider.calls[0].json["system"])
    assert "bug: something is {{ broken }}" in system
    with pytest.raises(library.JobError, match="at least two different labels"):
        library.classify(frame, labels=["a", "a"], **asked(provider))
    with pytest.raises(library.JobError, match="prefix"):
        library.classify(frame, labels=["a", "b"], **asked(provider))


def test_the_message_of_a_missing_key_names_the_simulator(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(library.JobError, match="simulate=True in Python") as caught:
        library.complete([{"text": "a"}], **asked(provider))
    # IPython prints these lines in place of a traceback.
    (line,) = caught.value._render_traceback_()
    assert line.startswith("JobError: the environment variable TEST_KEY is not set")
