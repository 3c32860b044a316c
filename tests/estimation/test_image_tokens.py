"""The size of images from their files, and their tokens as providers document them."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING

import pytest

from batchrun.estimation.image_tokens import (
    claude_tokens,
    image_bounds,
    patch_tokens,
    tile_tokens,
)
from batchrun.render.image_sizes import image_size
from tests.conftest import command
from tests.support.png_files import png

if TYPE_CHECKING:
    from pathlib import Path


def jpeg(width: int, height: int, preview: int) -> bytes:
    app = b"\xff\xe1" + struct.pack(">H", preview + 2) + b"\xff\xc0" * (preview // 2)
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8" + app + b"\xff\xff" + frame[1:] + b"\xff\xd9"


def webp(kind: bytes, rest: bytes) -> bytes:
    return b"RIFF\0\0\0\0WEBP" + kind + b"\0\0\0\0" + rest


FILES = {
    "png": png(640, 480),
    "gif": b"GIF89a" + struct.pack("<HH", 640, 480),
    "jpeg": jpeg(640, 480, 60_000),
    "webp, extended": webp(
        b"VP8X", bytes(4) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")
    ),
    "webp, lossless": webp(b"VP8L", b"\x2f" + (639 | 479 << 14).to_bytes(4, "little")),
    "webp, lossy": webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 640, 480)),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_size_is_read_from_the_file(kind: str) -> None:
    assert image_size(base64.b64encode(FILES[kind]).decode()) == (640, 480)


@pytest.mark.parametrize("data", ["", "not base64 !", "AAAA", "iVBORw0KGgo=", "/9j/4A=="])
def test_what_cannot_be_read_has_no_size(data: str) -> None:
    assert image_size(data) is None


def test_tokens_are_those_of_the_documentation() -> None:
    # docs.claude.com, "Vision": 200x200, 1000x1000 and 1092x1092 take about 54, 1,334 and 1,590.
    assert [round(claude_tokens(n, n)) for n in (200, 1_000, 1_092)] == [53, 1_333, 1_590]
    assert claude_tokens(8_000, 8_000) == 1_600
    # platform.openai.com, "Images and vision": 1024x1024 takes 765 and 2048x4096 takes 1,105.
    assert (tile_tokens(1_024, 1_024), tile_tokens(2_048, 4_096)) == (765, 1_105)
    # The same page: 1024x1024 has 1,024 patches; no image has more than 1,536.
    assert patch_tokens(1_024, 1_024) == pytest.approx(1_024 * 1.62)
    assert patch_tokens(1_800, 2_400) == pytest.approx(1_536 * 1.62)
    for size in ((1, 1), (50, 9_000), (1_024, 1_024), (4_000, 3_000)):
        low, expected, high = image_bounds(*size)
        assert 0 < low <= expected <= high


def test_an_estimate_knows_small_images_from_large_ones(tmp_path: Path) -> None:
    found = []
    for name, size in (("small", (200, 200)), ("large", (1_092, 1_092))):
        (tmp_path / "image.png").write_bytes(png(*size))
        (tmp_path / "rows.jsonl").write_text('{"image": "image.png"}\n')
        (tmp_path / "job.toml").write_text(
            """[input]
path = "rows.jsonl"
[request]
format = "messages"
model = "claude-haiku-4-5-20251001"
prompt = "What is this?"
images = "{{ image }}"
image_dir = "."
max_tokens = 50
"""
        )
        code, stdout, stderr = command("estimate", tmp_path / "job.toml", "--json")
        assert code == 0, f"{name}: {stderr}"
        found.append(json.loads(stdout)["input_tokens"])
    small, large = found
    assert small["low"] <= 53 + 10 <= small["high"]
    assert large["low"] <= 1_590 + 10 <= large["high"]
    assert small["high"] < large["low"]
