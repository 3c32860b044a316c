"""Images from every place that a row can name, in both formats."""

from __future__ import annotations

import base64
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from batchrun.job import Job
from batchrun.records import Item, RenderedItem
from batchrun.render import Renderer
from batchrun.source import Source

if TYPE_CHECKING:
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n" + b"png"
JPEG = b"\xff\xd8\xff\xe0jpeg"
GIF = b"GIF89agif"
WEBP = b"RIFF\0\0\0\0WEBPwebp"


def job(folder: Path, wire_format: str, images: object, **request: Any) -> Job:
    keys = {"format": wire_format, "model": "m", "prompt": "What is it?", "max_tokens": 9}
    merged = keys | {"images": images} | request
    given = {key: value for key, value in merged.items() if value is not None}
    document = {"input": {"path": "x.parquet"}, "request": given}
    return Job.from_document(document, folder)


def rendered(folder: Path, cell: object, wire_format: str = "messages") -> RenderedItem:
    renderer = Renderer(job(folder, wire_format, "{{ image }}"), ["image"])
    return renderer.render([Item(0, "1", {"image": cell})])[0]


def content(item: RenderedItem) -> Any:
    assert item.wire is not None, item.error_message
    body = json.loads(item.wire.body)
    adapter: TypeAdapter[Any] = TypeAdapter(
        MessageCreateParamsNonStreaming
        if item.wire.url.endswith("/messages")
        else CompletionCreateParamsNonStreaming
    )
    adapter.validate_python(body)
    return body["messages"][-1]["content"]


TEXT = {"type": "text", "text": "What is it?"}


def test_an_address_is_passed_on(tmp_path: Path) -> None:
    url = "https://example.com/cat.jpg"
    assert content(rendered(tmp_path, url)) == [
        {"type": "image", "source": {"type": "url", "url": url}},
        TEXT,
    ]
    assert content(rendered(tmp_path, url, "chat")) == [
        {"type": "image_url", "image_url": {"url": url}},
        TEXT,
    ]


@pytest.mark.parametrize(
    ("image", "media_type"),
    [(PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp")],
)
def test_bytes_a_file_and_a_data_url_are_the_same(
    tmp_path: Path, image: bytes, media_type: str
) -> None:
    data = base64.b64encode(image).decode()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "image.bin").write_bytes(image)
    url = f"data:{media_type};base64,{data}"
    for cell in (image, "sub/image.bin", url):
        source = {"type": "base64", "media_type": media_type, "data": data}
        assert content(rendered(tmp_path, cell))[0] == {"type": "image", "source": source}
        in_chat = content(rendered(tmp_path, cell, "chat"))[0]
        assert in_chat == {"type": "image_url", "image_url": {"url": url}}


def test_a_list_is_several_and_an_empty_cell_is_none(tmp_path: Path) -> None:
    several = content(rendered(tmp_path, ["https://a.example/1", None, PNG]))
    assert [block["type"] for block in several] == ["image", "image", "text"]
    cells: list[object] = [None, "", []]
    for nothing in cells:
        assert content(rendered(tmp_path, nothing)) == "What is it?"


def test_images_stand_in_the_last_user_turn(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": "At what?"},
        {"role": "user", "content": "At this."},
        {"role": "assistant", "content": "It is a"},
    ]
    made = job(
        tmp_path, "messages", ["https://a.example/1", "{{ b }}"], prompt=None, messages=turns
    )
    (item,) = Renderer(made, ["b"]).render([Item(0, "1", {"b": "https://b.example/2"})])
    assert item.wire is not None
    written = json.loads(item.wire.body)["messages"]
    assert [len(turn["content"]) for turn in written if isinstance(turn["content"], list)] == [3]
    assert isinstance(written[2]["content"], list)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (b"%PDF-1.4", "not a JPEG, PNG, GIF or WebP"),
        ("nowhere.png", "'nowhere.png': file not found"),
        ("x" * 5000, "cannot be read"),
        ("../secret.png", "image_dir"),
        ("/etc/hostname", "image_dir"),
        ("a\0b", "null"),
        ("data:image/png;base64,!!!", "not a base64 data URL"),
        ("data:text/plain,hello", "not a base64 data URL"),
        (3.5, "must be text or bytes"),
    ],
)
def test_what_is_no_image_makes_the_row_errored(tmp_path: Path, cell: object, reason: str) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(PNG)
    item = rendered(folder, cell)
    assert item.error_type == "invalid_image"
    assert reason in str(item.error_message)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    assert rendered(folder, "link.png").error_type == "invalid_image"


def test_what_is_no_regular_file_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "circle.png").symlink_to("circle.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.png"))
        for name in ("pipe.png", "folder.png", "circle.png", "socket.png"):
            item = rendered(tmp_path, name)
            assert (item.error_type, name in str(item.error_message)) == ("invalid_image", True)
            assert "cannot be read" in str(item.error_message)
    # A device below the folder: only root could make one, so the folder is that of the devices.
    made = job(tmp_path, "messages", "{{ image }}", image_dir="/dev")
    (item,) = Renderer(made, ["image"]).render([Item(0, "1", {"image": "zero"})])
    assert item.error_message == "images: 'zero': cannot be read (not a regular file)"


def test_another_folder_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(PNG)
    made = job(tmp_path / "jobs", "messages", "{{ image }}", image_dir="../pictures")
    (item,) = Renderer(made, ["image"]).render([Item(0, "1", {"image": "a.png"})])
    assert content(item)[0]["type"] == "image"


def test_a_large_image_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(30 * 1024 * 1024)
    assert rendered(tmp_path, "large.png").error_type == "image_too_large"
    assert rendered(tmp_path, PNG + bytes(21 * 1024 * 1024)).error_type == "image_too_large"


def test_a_parquet_column_of_bytes(tmp_path: Path) -> None:
    pl.DataFrame({"image": [PNG, None]}).write_parquet(tmp_path / "x.parquet")
    made = job(tmp_path, "chat", "{{ image }}")
    source = Source(made.input)
    (items,) = source.items(["image"], 10)
    first, second = Renderer(made, source.columns).render(items)
    assert content(first)[0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert content(second) == "What is it?"
