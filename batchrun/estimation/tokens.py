"""Estimate the input tokens of a request: its texts, images, documents, tools and schema."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.estimation.image_tokens import image_bounds
from batchrun.estimation.tokenizers import Tokens, family_of, text_tokens
from batchrun.formats.content_blocks import document_of, image_data
from batchrun.render.image_sizes import image_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import Attachment, Request


# An image whose size is not known, such as one with an address: about one megapixel.
IMAGE_TOKENS = (85, 1_500, 1_600)
# Providers may add instructions about the use of tools before the tools themselves.
MOST_FOR_TOOLS = 350
_IMAGES = frozenset({"image", "image_url"})
# A page of a PDF. Claude's documentation: its text, and an image of it, about 2,300 together.
PAGE_TOKENS = (500, 2_300, 4_600)
# Pages of a PDF that is given by URL, which nothing is known of.
_PAGES_AT_ADDRESS = (1, 5, 100)


# Many rows have the same system prompt, tools and schema.
_shared_text_tokens = lru_cache(maxsize=16)(text_tokens)


def prompt_tokens(request: Request) -> tuple[Tokens, Tokens]:
    """Return the input tokens of a request, and the part of them that is the system prompt."""
    texts: list[str] = []
    model, family = request.model, family_of(request.model)
    extra = sum((_attachment_tokens(each, model) for each in request.attachments), Tokens())
    for message in request.messages:
        extra += _collect_texts(message.content, texts, model)
        if message.extra:
            texts.append(_json(message.extra))
    system = _system_tokens(request)
    tokens = sum((text_tokens(text, model) for text in texts), family.request + extra)
    tokens += family.message * len(request.messages)
    return tokens + system + _schema_tokens(request), system


def _image_tokens(block: Mapping[str, Any], model: str) -> Tokens:
    """Return the tokens of an image in a conversation."""
    data = image_data(block)
    size = None if data is None else image_size(data)
    return Tokens(*(image_bounds(*size, model) if size and all(size) else IMAGE_TOKENS))


def _attachment_tokens(attachment: Attachment, model: str) -> Tokens:
    if not attachment.is_document:
        if attachment.pixels is None or not all(attachment.pixels):
            return Tokens(*IMAGE_TOKENS)
        return Tokens(*image_bounds(*attachment.pixels, model))
    if attachment.url is not None:
        counts = zip(PAGE_TOKENS, _PAGES_AT_ADDRESS, strict=True)
        return Tokens(*(page * pages for page, pages in counts))
    if attachment.pages:
        return Tokens(*PAGE_TOKENS) * attachment.pages
    return text_tokens(attachment.data or "", model)


def _system_tokens(request: Request) -> Tokens:
    if request.system is None:
        return Tokens()
    texts: list[str] = []
    _collect_texts(request.system, texts, request.model)
    found = _shared_text_tokens("\n".join(texts), request.model)
    return found + family_of(request.model).message


def _schema_tokens(request: Request) -> Tokens:
    """Return the tokens of the tools and of the schema of the answer."""
    schema = None if request.answer is None else request.answer.schema
    if not request.tools and request.answer is None:
        return Tokens()
    parts: list[Any] = [
        tool.vendor
        or {
            "name": tool.name,
            "description": tool.description,
            "input_schema": tool.input_schema,
        }
        for tool in request.tools
    ]
    parts += [] if schema is None else [schema]
    described = (_shared_text_tokens(_json(part), request.model) for part in parts)
    return sum(described, Tokens(high=MOST_FOR_TOOLS))


def _collect_texts(content: object, texts: list[str], model: str) -> Tokens:
    """Append the texts of a message's content to `texts`; return the tokens of other content."""
    found = Tokens()
    if isinstance(content, str):
        texts.append(content)
        return found
    for block in content if isinstance(content, list | tuple) else ():
        kind = block.get("type")
        if kind in _IMAGES:
            found += _image_tokens(block, model)
        elif (document := document_of(block)) is not None:
            found += _attachment_tokens(document, model)
        elif kind == "text":
            texts.append(str(block.get("text", "")))
        elif kind == "tool_result":
            found += _collect_texts(block.get("content"), texts, model)
        else:
            texts.append(_json(block))
    return found


def _json(value: object) -> str:
    return orjson.dumps(value, default=str).decode()
