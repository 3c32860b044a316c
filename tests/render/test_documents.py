"""Documents from every place that a row can name, in both formats."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

import batchrun
from batchrun.estimation.tokens import prompt_tokens
from batchrun.job import Job
from batchrun.limits.demand import demand, most_tokens
from batchrun.records import Item, PlannedRequest, RenderedItem
from batchrun.render import Renderer
from batchrun.source import Source
from batchrun.workers.protocol import RowDecoder, RowEncoder

if TYPE_CHECKING:
    from pathlib import Path

PDF = b"%PDF-1.7\n1 0 obj <</Type /Pages /Count 2>>\n<</Type /Page>> <</Type/Page>>\n%%EOF"
PNG = b"\x89PNG\r\n\x1a\npng"
# The beginning of an image of 640 x 480 pixels, as far as its size is read from it.
PNG_HEAD = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480)
DATA = base64.b64encode(PDF).decode()
DATA_URL = f"data:application/pdf;base64,{DATA}"
TEXT = {"type": "text", "text": "What is it?"}
BASE64_SOURCE = {"type": "base64", "media_type": "application/pdf", "data": DATA}
PARAMS: dict[str, TypeAdapter[Any]] = {
    "messages": TypeAdapter(MessageCreateParamsNonStreaming),
    "chat": TypeAdapter(CompletionCreateParamsNonStreaming),
}


def job(folder: Path, wire_format: str = "messages", **request: Any) -> Job:
    keys = {"format": wire_format, "model": "m", "prompt": "What is it?", "max_tokens": 9}
    given = {key: value for key, value in (keys | request).items() if value is not None}
    return Job.from_document({"input": {"path": "x.parquet"}, "request": given}, folder)


def rendered(
    folder: Path, cell: object, wire_format: str = "messages", **request: Any
) -> RenderedItem:
    made = job(folder, wire_format, **{"documents": "{{ file }}"} | request)
    return Renderer(made, ["file"]).render([Item(0, "1", {"file": cell})])[0]


def content(item: RenderedItem) -> Any:
    assert item.wire is not None, item.error_message
    assert item.request is not None
    PARAMS[item.request.format].validate_json(item.wire.body)
    return json.loads(item.wire.body)["messages"][-1]["content"]


def planned(item: RenderedItem) -> PlannedRequest:
    assert item.request is not None
    assert item.wire is not None
    return PlannedRequest(1, item.custom_id, item.request, item.wire)


def test_a_pdf_from_bytes_a_file_and_a_data_url(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(PDF)
    for cell, name in ((PDF, None), (DATA_URL, None), ("a.pdf", "a.pdf")):
        title = {"title": name} if name else {}
        assert content(rendered(tmp_path, cell)) == [
            {"type": "document", "source": BASE64_SOURCE, **title},
            TEXT,
        ]
        file = {"filename": name or "document.pdf", "file_data": DATA_URL}
        assert content(rendered(tmp_path, cell, "chat")) == [{"type": "file", "file": file}, TEXT]


def test_a_text_is_a_document_or_marked_text(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Grüße", encoding="utf-8-sig")
    source = {"type": "text", "media_type": "text/plain", "data": "Grüße"}
    url = "data:text/plain;charset=utf-8;base64," + base64.b64encode("Grüße".encode()).decode()
    for cell, name in (("Grüße".encode(), ""), (url, ""), ("notes.txt", "notes.txt")):
        title = {"title": name} if name else {}
        assert content(rendered(tmp_path, cell))[0] == {
            "type": "document",
            "source": source,
            **title,
        }
        named = f' name="{name}"' if name else ""
        text = f"<document{named}>\nGrüße\n</document>\n"
        assert content(rendered(tmp_path, cell, "chat"))[0] == {"type": "text", "text": text}


def test_an_address_goes_where_the_provider_fetches_it(tmp_path: Path) -> None:
    url = "https://example.com/a.pdf"
    expected = {"type": "document", "source": {"type": "url", "url": url}}
    assert content(rendered(tmp_path, url))[0] == expected
    routed = rendered(tmp_path, url, "chat", provider="openrouter")
    assert content(routed)[0]["file"]["file_data"] == url
    refused = rendered(tmp_path, url, "chat")
    assert refused.error_type == "invalid_document"
    assert "does not fetch documents from addresses" in str(refused.error_message)


def test_images_come_before_documents_and_both_before_the_text(tmp_path: Path) -> None:
    keys = {"documents": ["{{ file }}", DATA_URL], "images": "data:image/png;base64,iVBORw0KGgo="}
    for wire_format, kinds in (
        ("messages", ["image", "document", "document", "text"]),
        ("chat", ["image_url", "file", "file", "text"]),
    ):
        item = rendered(tmp_path, [PDF, None], wire_format, **keys)
        assert [block["type"] for block in content(item)] == kinds
    cells: list[object] = [None, "", []]
    for nothing in cells:
        assert content(rendered(tmp_path, nothing)) == "What is it?"


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n\xff", "the bytes: is not a PDF or UTF-8 text"),
        (b"a\0b", "is not a PDF or UTF-8 text"),
        (b" \n", "is not a PDF or UTF-8 text"),
        ("nowhere.pdf", "'nowhere.pdf': file not found"),
        ("../secret.pdf", "document_dir"),
        ("data:application/pdf;base64,!!!", "not a base64 data URL"),
        (3.5, "must be text or bytes"),
    ],
)
def test_anything_else_makes_the_row_errored(tmp_path: Path, cell: object, reason: str) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (tmp_path / "secret.pdf").write_bytes(PDF)
    item = rendered(folder, cell)
    assert item.error_type == "invalid_document"
    assert str(item.error_message).startswith("documents: ")
    assert reason in str(item.error_message)


def test_a_large_document_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with (tmp_path / "large.pdf").open("wb") as file:
        file.truncate(30 * 1024 * 1024)
    assert rendered(tmp_path, "large.pdf").error_type == "document_too_large"
    assert rendered(tmp_path, PDF + bytes(21 * 1024 * 1024)).error_type == "document_too_large"


def test_a_folder_can_be_named_and_a_column_holds_bytes(tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.pdf").write_bytes(PDF)
    item = rendered(tmp_path / "jobs", "a.pdf", document_dir="../papers")
    assert content(item)[0]["source"]["data"] == DATA
    pl.DataFrame({"file": [PDF, None]}).write_parquet(tmp_path / "x.parquet")
    made = job(tmp_path, documents="{{ file }}")
    source = Source(made.input)
    (items,) = source.items(["file"], 10)
    first, second = Renderer(made, source.columns).render(items)
    assert content(first)[0]["source"]["data"] == DATA
    assert content(second) == "What is it?"


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_tokens_follow_the_pages_and_not_the_base64(tmp_path: Path, wire_format: str) -> None:
    """Of a conversation, too; the text of a document counts like any other text."""
    large = PDF + b"%" * 2_000_000
    by_key = rendered(tmp_path, large, wire_format)
    turns = [{"role": "user", "content": content(by_key)}]
    by_column = rendered(
        tmp_path, turns, wire_format, documents=None, prompt=None, messages_column="file"
    )
    for item in (by_key, by_column):
        assert item.request is not None
        tokens, _ = prompt_tokens(item.request)
        assert (tokens.low, tokens.expected, tokens.high) == pytest.approx(
            (2 * 500, 2 * 2_300, 2 * 4_600), abs=30
        )
    assert 4_600 <= demand(planned(by_key)).input_tokens < 5_000
    # Pages of a conversation are not counted for the rate limits: five are assumed.
    assert 5 * 2_300 <= demand(planned(by_column)).input_tokens < 5 * 2_300 + 400
    bound = most_tokens(planned(by_key))
    assert bound is not None
    assert 1_000_000 <= bound[0] < 1_010_000
    text = rendered(tmp_path, b"word " * 1_000, wire_format)
    assert text.request is not None
    assert 900 < prompt_tokens(text.request)[0].expected < 1_500
    bound = most_tokens(planned(text))
    assert bound is not None
    assert 5_000 < bound[0] < 10_000


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_images_of_a_conversation_count_by_their_size(tmp_path: Path, wire_format: str) -> None:
    """Not by their base64, for the estimate and for the rate limits; one at an address by its number."""
    data = base64.b64encode(PNG_HEAD + b"x" * 900_000).decode()
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    other = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    turns = [{"role": "user", "content": [image, other, TEXT]}]
    item = rendered(
        tmp_path, turns, wire_format, documents=None, prompt=None, messages_column="file"
    )
    assert item.request is not None
    tokens, _ = prompt_tokens(item.request)
    assert 640 * 480 / 750 + 1_000 < tokens.expected < 2_500
    assert tokens.high < 5_000
    assert 2 * 1_600 <= demand(planned(item)).input_tokens < 2 * 1_600 + 200


def test_a_worker_gets_a_document_once_and_knows_its_size(tmp_path: Path) -> None:
    request = planned(rendered(tmp_path, b"word " * 1_000))
    order = RowEncoder().encode([request])
    (form,) = order.parts.values()
    assert [one.data for one in form.request.attachments] == [None]
    (received,) = RowDecoder().decode(order)
    assert received.wire.body == request.wire.body
    assert demand(received) == demand(request)


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_a_run_with_documents(tmp_path: Path, wire_format: str) -> None:
    pl.DataFrame({"file": [PDF, b"some text"]}).write_parquet(tmp_path / "x.parquet")
    made = job(tmp_path, wire_format, documents="{{ file }}")
    report = batchrun.run_job(
        made, batchrun.RunOptions(simulate=batchrun.SimulatorConfig(), quiet=True)
    )
    assert report.exit_code == 0
    found = pl.read_parquet(report.directory / "results.parquet")
    assert found["input_tokens"][0] > 2_300 > found["input_tokens"][1]
