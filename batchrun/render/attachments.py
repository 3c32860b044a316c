"""Images and documents of a row: from an address, a data URL, a file or bytes."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun import formats
from batchrun.errors import RenderError, quoted
from batchrun.formats.content_blocks import PDF, TEXT, pdf_pages
from batchrun.job.reader import TooLargeError, read_small_file
from batchrun.records import Attachment

if TYPE_CHECKING:
    from collections.abc import Callable

# Providers accept less; this bounds the memory that one row can take.
MAX_ATTACHMENT_BYTES = 20 * 1024 * 1024

_DATA_URL = re.compile(r"data:([a-z/+.-]+)(?:;[^;,]*)*;base64,(.*)\Z", re.DOTALL | re.IGNORECASE)
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_PDF_MARK = b"%PDF-"
_PDF_HEAD = 1024  # bytes in which the mark of a PDF must begin


@dataclass(frozen=True, slots=True)
class _Kind:
    """Images or documents.

    Attributes:
        key: the key of `[request]`, for messages.
        noun: the singular in error types.
        folder_key: the key with the folder of the files.
        recognize: converts bytes to an attachment; None if they are not of this kind.
        accepted: the accepted formats, for messages.
    """

    key: str
    noun: str
    folder_key: str
    recognize: Callable[[bytes], Attachment | None]
    accepted: str

    def invalid(self, reason: str) -> RenderError:
        return RenderError(f"invalid_{self.noun}", f"{self.key}: {reason}")

    def too_large(self, reason: str) -> RenderError:
        return RenderError(f"{self.noun}_too_large", f"{self.key}: {reason}")


def _image(content: bytes) -> Attachment | None:
    media_type = next((kind for start, kind in _SIGNATURES if content.startswith(start)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        media_type = "image/webp"
    if media_type is None:
        return None
    data = base64.b64encode(content).decode("ascii")
    return Attachment(media_type=media_type, data=data, size=len(data))


def _document(content: bytes) -> Attachment | None:
    if _PDF_MARK in content[: _PDF_HEAD + len(_PDF_MARK)]:
        data, pages = base64.b64encode(content).decode("ascii"), pdf_pages(content)
        return Attachment(media_type=PDF, data=data, size=len(data), is_document=True, pages=pages)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if "\0" in text or not text.strip():
        return None
    return Attachment(media_type=TEXT, data=text, is_document=True)


_IMAGES = _Kind("images", "image", "image_dir", _image, "a JPEG, PNG, GIF or WebP image")
_DOCUMENTS = _Kind("documents", "document", "document_dir", _document, "a PDF or UTF-8 text")


def read_images(value: object, folder: Path) -> list[Attachment]:
    """Read the value of a cell or template: one image, a list of images, or none.

    Args:
        value: text, bytes, or a list of these; null and empty text mean no image.
        folder: the folder that file names start from, and must stay below.

    Raises:
        RenderError: if it is not an image that both formats support.
    """
    return _read(_IMAGES, value, folder)


def read_documents(value: object, folder: Path, *, addresses: bool) -> list[Attachment]:
    """Read documents, as `read_images` reads images.

    Args:
        value: see `read_images`.
        folder: see `read_images`.
        addresses: whether the provider fetches documents from an address.

    Raises:
        RenderError: if it is not a PDF or a text, or an address that the provider cannot use.
    """
    found = _read(_DOCUMENTS, value, folder)
    if not addresses and any(document.url is not None for document in found):
        raise _DOCUMENTS.invalid(
            "this provider does not fetch documents from addresses; use a file, bytes or a data "
            f"URL, or {formats.use_another(lambda each: each.capabilities.document_urls)}"
        )
    return found


def _read(kind: _Kind, value: object, folder: Path) -> list[Attachment]:
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return [found for item in value for found in _read(kind, item, folder)]
    if isinstance(value, bytes):
        return [_from_bytes(kind, value, "the bytes")]
    if not isinstance(value, str):
        raise kind.invalid(f"must be text or bytes, not {quoted(value)}")
    if value.startswith(("http://", "https://")):
        return [Attachment(url=value, is_document=kind is _DOCUMENTS)]
    if value.startswith("data:"):
        return [_from_data_url(kind, value)]
    return [_from_file(kind, value, folder)]


def _from_bytes(kind: _Kind, content: bytes, what: str) -> Attachment:
    if len(content) > MAX_ATTACHMENT_BYTES:
        raise kind.too_large(f"{what}: larger than {MAX_ATTACHMENT_BYTES // 2**20} MiB")
    found = kind.recognize(content)
    if found is None:
        raise kind.invalid(f"{what}: is not {kind.accepted}")
    return found


def _from_data_url(kind: _Kind, url: str) -> Attachment:
    match = _DATA_URL.match(url)
    try:
        content = base64.b64decode("".join(match.group(2).split()), validate=True) if match else b""
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise kind.invalid(f"{url[:40]}…: is not a base64 data URL")
    return _from_bytes(kind, content, f"{url[:40]}…")


def _from_file(kind: _Kind, name: str, folder: Path) -> Attachment:
    what = f"{quoted(name, 200)}"
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise kind.invalid(
                f"{what} is outside of {folder}; name the folder of the {kind.key} with "
                f"[request] {kind.folder_key}, or on the command line with "
                f"--set request.{kind.folder_key}=…"
            )
        found = _from_bytes(kind, read_small_file(path, MAX_ATTACHMENT_BYTES), what)
    except TooLargeError as error:
        raise kind.too_large(f"{what}: {error}") from None
    except ValueError as error:
        raise kind.invalid(f"{what}: {error}") from None
    except (OSError, RuntimeError) as error:  # a name too long, or links in a circle
        raise kind.invalid(f"{what}: cannot be read ({error})") from None
    return replace(found, name=Path(name).name) if found.is_document else found
