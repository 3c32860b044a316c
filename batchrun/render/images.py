"""Images of a row: an address, a data URL, a file beside the job, or bytes from a Parquet column.

Media types are told by the bytes themselves, not by names. Files are read only below the folder that
the job names: a cell must not be able to send any other file away.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from batchrun.errors import RenderError
from batchrun.records import Image
from batchrun.sections import TooLargeError, read_small_file

if TYPE_CHECKING:
    from pathlib import Path

# Providers accept less; this bounds the memory that one row can take.
MAX_IMAGE_BYTES = 20 * 1024 * 1024

_DATA_URL = re.compile(r"data:([a-z/+.-]+);base64,(.*)\Z", re.DOTALL | re.IGNORECASE)
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def read_images(value: object, folder: Path) -> list[Image]:
    """Read what a cell or template gives: one image, a list of them, or none.

    Args:
        value: text, bytes, or a list of these; null and empty text are no image.
        folder: where file names start, and what they stay below.

    Raises:
        RenderError: when it is no image that both formats can carry.
    """
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return [image for item in value for image in read_images(item, folder)]
    if isinstance(value, bytes):
        return [_from_bytes(value, "the bytes")]
    if not isinstance(value, str):
        raise RenderError("invalid_image", f"images: must be text or bytes, not {value!r:.80}")
    if value.startswith(("http://", "https://")):
        return [Image(url=value)]
    if value.startswith("data:"):
        return [_from_data_url(value)]
    return [_from_file(value, folder)]


def _from_bytes(content: bytes, what: str) -> Image:
    if len(content) > MAX_IMAGE_BYTES:
        most = MAX_IMAGE_BYTES // 2**20
        raise RenderError("image_too_large", f"images: {what}: larger than {most} MiB")
    media_type = next((kind for start, kind in _SIGNATURES if content.startswith(start)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        media_type = "image/webp"
    if media_type is None:
        raise RenderError("invalid_image", f"images: {what}: is not a JPEG, PNG, GIF or WebP image")
    data = base64.b64encode(content).decode("ascii")
    return Image(media_type=media_type, data=data, size=len(data))


def _from_data_url(url: str) -> Image:
    match = _DATA_URL.match(url)
    try:
        content = base64.b64decode("".join(match.group(2).split()), validate=True) if match else b""
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise RenderError("invalid_image", f"images: {url[:40]}…: is not a base64 data URL")
    return _from_bytes(content, f"{url[:40]}…")


def _from_file(name: str, folder: Path) -> Image:
    what = f"images: {name!r:.200}"
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise RenderError(
                "invalid_image",
                f"{what} is outside of {folder}; name the folder of the images with "
                "[request] image_dir, or on the command line with --set request.image_dir=…",
            )
        return _from_bytes(read_small_file(path, MAX_IMAGE_BYTES), f"{name!r:.200}")
    except TooLargeError as error:
        raise RenderError("image_too_large", f"{what}: {error}") from None
    except ValueError as error:
        raise RenderError("invalid_image", f"{what}: {error}") from None
    except (OSError, RuntimeError) as error:  # a name too long, or links in a circle
        raise RenderError("invalid_image", f"{what}: cannot be read ({error})") from None
