"""Images and documents as content blocks: written for either format, and converted to the other."""

from __future__ import annotations

import base64
import binascii
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchrun.errors import quoted, short
from batchrun.records import Attachment

if TYPE_CHECKING:
    from collections.abc import Mapping

    Block = Mapping[str, Any]

PDF = "application/pdf"
TEXT = "text/plain"
MEDIA_TYPES = {"image/jpeg", "image/png", "image/gif", "image/webp"}
# OpenAI needs a name for a file whose content is in the request.
DEFAULT_NAME = "document.pdf"
_DATA_URL = re.compile(
    r"data:(?P<media_type>[^;,]*)(;[^;,]*)*;base64,(?P<data>.*)", re.DOTALL | re.IGNORECASE
)
_CHAT_ONLY = {"input_audio", "refusal"}
_MESSAGES_ONLY = {"thinking", "redacted_thinking", "search_result", "container_upload"}
# Of the provider's own tools: server_tool_use, mcp_tool_use, web_search_tool_result …
_MESSAGES_ONLY_ENDS = ("_tool_use", "_tool_result")
_PAGE = re.compile(rb"/Type\s*/Page(?![s\w])")
_BYTES_PER_PAGE = 50_000  # where the pages are compressed


def pdf_pages(content: bytes) -> int:
    """Return the approximate number of pages of a PDF: those visible without decompressing it."""
    found = sum(1 for _ in _PAGE.finditer(content))
    return found or math.ceil(len(content) / _BYTES_PER_PAGE)


def messages_block(attachment: Attachment) -> dict[str, Any]:
    """Write an attachment for the messages format."""
    if attachment.url is not None:
        source = {"type": "url", "url": attachment.url}
    elif attachment.is_document and attachment.media_type == TEXT:
        source = {"type": "text", "media_type": TEXT, "data": attachment.data or ""}
    else:
        data, media_type = attachment.data or "", attachment.media_type or ""
        source = {"type": "base64", "media_type": media_type, "data": data}
    if not attachment.is_document:
        return {"type": "image", "source": source}
    title = {} if attachment.name is None else {"title": attachment.name}
    return {"type": "document", "source": source, **title}


def chat_block(attachment: Attachment) -> dict[str, Any]:
    """Write an attachment for the chat format, which has the text of a document as a text part."""
    if attachment.is_document and attachment.media_type == TEXT:
        from xml.sax.saxutils import quoteattr  # noqa: PLC0415 - it loads all of HTTP

        name = "" if attachment.name is None else f" name={quoteattr(attachment.name)}"
        return {"type": "text", "text": f"<document{name}>\n{attachment.data}\n</document>\n"}
    url = attachment.url or f"data:{attachment.media_type};base64,{attachment.data}"
    if attachment.is_document:
        file = {"filename": attachment.name or DEFAULT_NAME, "file_data": url}
        return {"type": "file", "file": file}
    return {"type": "image_url", "image_url": {"url": url}}


def messages_part(part: Block) -> dict[str, Any]:
    """Return a content block of either format for the messages format.

    Raises:
        ValueError: if the format cannot express it.
    """
    kind = part.get("type")
    if kind in _CHAT_ONLY:
        raise ValueError(f'the messages format has no {short(kind)} content; use format = "chat"')
    if kind == "file":
        return messages_block(_chat_file(part.get("file")))
    return messages_block(_chat_image(part)) if kind == "image_url" else dict(part)


def _chat_image(part: Block) -> Attachment:
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str):
        raise ValueError(f"image_url: must hold a url, not {quoted(given)}")  # noqa: TRY004 - one type
    if isinstance(given, dict) and given.get("detail") not in {None, "auto"}:
        raise ValueError('image_url: the messages format has no detail; use format = "chat"')
    if not url[:5].lower().startswith("data:"):
        return Attachment(url=url)
    media_type, data = _inline(url)
    if media_type not in MEDIA_TYPES:
        raise ValueError(
            f"image_url: must be base64 of {', '.join(sorted(MEDIA_TYPES))} for the messages "
            f"format, not {quoted(media_type)}"
        )
    return Attachment(media_type=media_type, data=data)


def _chat_file(file: object) -> Attachment:
    given = file.get("file_data") if isinstance(file, dict) else None
    if not isinstance(file, dict) or not isinstance(given, str):
        raise ValueError(  # noqa: TRY004 - one type
            "file: must hold file_data for the messages format, which cannot use the file_id of "
            "another provider"
        )
    name = file.get("filename")
    name = name if isinstance(name, str) and name and name != DEFAULT_NAME else None
    if given.startswith(("http://", "https://")):
        return Attachment(url=given, is_document=True, name=name)
    media_type, data = _inline(given)
    if media_type == TEXT:
        return Attachment(media_type=TEXT, data=_decoded(data), is_document=True, name=name)
    if media_type != PDF:
        raise ValueError(
            f"file: must be base64 of {PDF} or {TEXT} for the messages format, not "
            f"{quoted(media_type)}"
        )
    return Attachment(media_type=PDF, data=data, is_document=True, name=name)


def _inline(url: str) -> tuple[str, str]:
    """Return the media type and the base64 of a data URL; for another URL, its start and empty text."""
    found = _DATA_URL.fullmatch(url)
    return (found["media_type"].lower(), found["data"]) if found else (url[:40], "")


def _decoded(data: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise ValueError("file: is not base64 of UTF-8 text") from None


def chat_part(block: Block) -> dict[str, Any]:
    """Return a content block of either format for the chat format.

    Raises:
        ValueError: if the format cannot express it.
    """
    kind = str(block.get("type"))
    if kind in _MESSAGES_ONLY or kind.endswith(_MESSAGES_ONLY_ENDS):
        raise ValueError(
            f'the chat format has no {short(kind)} content; leave it out, or use format = "messages"'
        )
    if kind == "document":
        return chat_block(_messages_document(block))
    if kind != "image":
        return dict(block)
    source = block.get("source")
    match source:
        case {"type": "url", "url": str(url)}:
            return chat_block(Attachment(url=url))
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return chat_block(Attachment(media_type=media_type, data=data))
    raise ValueError(f"image: the chat format takes a url or base64 source, not {quoted(source)}")


def image_data(block: Block) -> str | None:
    """Return the base64 of the image in a content block of either format; None for one at an address."""
    match block:
        case {"source": {"type": "base64", "data": str(data)}}:
            return data
        case {"image_url": {"url": str(url)} | str(url)} if url.startswith("data:"):
            return url.partition(",")[2]
    return None


def document_of(block: Block) -> Attachment | None:
    """Return the document in a content block of either format, with its pages; None if there is none."""
    try:
        match block.get("type"):
            case "document":
                found = _messages_document(block)
            case "file":
                found = _chat_file(block.get("file"))
            case _:
                return None
        if found.media_type != PDF:
            return found
        return replace(found, pages=pdf_pages(binascii.a2b_base64(found.data or "")))
    except ValueError:  # another kind of source, or damaged
        return None


def _messages_document(block: Block) -> Attachment:
    citations = block.get("citations")
    if block.get("context") or (isinstance(citations, dict) and citations.get("enabled")):
        raise ValueError(
            "document: the chat format has no context or citations; remove them, or use "
            'format = "messages"'
        )
    title, source = block.get("title"), block.get("source")
    name = title if isinstance(title, str) and title else None
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return Attachment(media_type=media_type, data=data, is_document=True, name=name)
        case {"type": "text", "data": str(data)}:
            return Attachment(media_type=TEXT, data=data, is_document=True, name=name)
    raise ValueError(
        f"document: the chat format takes a base64 or text source, not {quoted(source)}"
    )
