"""The width and height of an image, from the first bytes of its file. No I/O."""

from __future__ import annotations

import base64
import binascii
import struct

# Of a JPEG, metadata such as a preview may come before the size.
HEAD_CHARACTERS = 256 * 1024
_PNG, _GIFS, _JPEG = b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a"), b"\xff\xd8"
# Start-of-frame markers; C4, C8 and CC among them are tables.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def image_size(data: str) -> tuple[int, int] | None:
    """Return width and height in pixels of an image in base64; None when they cannot be read."""
    try:
        head = base64.b64decode(data[:HEAD_CHARACTERS])
        return _size(head)
    except (binascii.Error, struct.error, IndexError, ValueError):
        return None


def _size(head: bytes) -> tuple[int, int] | None:
    if head.startswith(_PNG):
        width, height = struct.unpack(">II", head[16:24])
        return width, height
    if head.startswith(_GIFS):
        width, height = struct.unpack("<HH", head[6:10])
        return width, height
    if head.startswith(_JPEG):
        return _jpeg(head)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp(head)
    return None


def _jpeg(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return width, height
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _webp(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[n : n + 3], "little") + 1 for n in (24, 27))
        return width, height
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None
