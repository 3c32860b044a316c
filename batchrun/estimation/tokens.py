"""Estimate the tokens of a prompt from its characters.

No tokenizer fits: those of newer models are not public, and the others are megabytes per model family.
The tables below hold measured tokens per character of each script, for four tokenizers (OpenAI's
cl100k and o200k, an older one of Claude, DeepSeek's), over tickets in 18 languages, documents, code
and JSON. `expected` is their geometric mean; `low` and `high` are the lowest and highest of the four.

For English and code, `expected` is within 10 % of each tokenizer over many rows, and within 20 % for
a single text or JSON; for other languages in Latin script within 35 %; for other scripts within a
factor of two, which is how much the tokenizers differ. A few real answers (`--sample`) are more exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.estimation.image_tokens import image_bounds
from batchrun.formats.content_blocks import document_of

if TYPE_CHECKING:
    from batchrun.records import Attachment, Request


# Tokens of a message for its role and delimiters.
TURN_TOKENS = 3
# An image whose size is not known, such as one with an address: about one megapixel.
IMAGE_TOKENS = (85, 1_500, 1_600)
# Providers may add instructions about the use of tools before the tools themselves.
MOST_FOR_TOOLS = 350
_IMAGES = frozenset({"image", "image_url"})
# A page of a PDF. Claude's documentation: its text, and an image of it, about 2,300 together.
PAGE_TOKENS = (500, 2_300, 4_600)
# Pages of a PDF that is given by URL, which nothing is known of.
_PAGES_AT_ADDRESS = (1, 5, 100)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A number of tokens: the expected one, and a lower and an upper bound."""

    low: float = 0.0
    expected: float = 0.0
    high: float = 0.0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, factor: float) -> Tokens:
        return Tokens(self.low * factor, self.expected * factor, self.high * factor)


_TURN = Tokens(TURN_TOKENS, TURN_TOKENS, TURN_TOKENS)


def _bytes(*ranges: tuple[int, int]) -> bytes:
    return bytes(code for first, last in ranges for code in range(first, last + 1))


# Tokens per character, by the first byte of the character in UTF-8, which depends on its script.
_ASCII = (
    (_bytes((0x61, 0x7A), (0x20, 0x20)), Tokens(0.214, 0.224, 0.236)),  # lower case, spaces
    (_bytes((0x41, 0x5A)), Tokens(0.251, 0.303, 0.362)),
    (_bytes((0x30, 0x39)), Tokens(0.521, 0.763, 0.928)),
    (
        _bytes((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)),
        Tokens(0.472, 0.528, 0.570),
    ),
    (_bytes((0x00, 0x1F), (0x7F, 0x7F)), Tokens(0.049, 0.073, 0.156)),  # line ends
)
_OTHERS = (
    # Accented Latin letters, which also split the words around them.
    (_bytes((0xC2, 0xCD)), Tokens(1.079, 2.042, 3.335)),
    (_bytes((0xCE, 0xD3)), Tokens(0.334, 0.519, 0.795)),  # Greek, Cyrillic
    (_bytes((0xD4, 0xDF)), Tokens(0.363, 0.632, 1.084)),  # Hebrew, Arabic
    (_bytes((0xE0, 0xE0)), Tokens(0.365, 0.724, 1.454)),  # Devanagari, Thai …
    (_bytes((0xE1, 0xE1)), Tokens(0.5, 1.0, 2.0)),  # Vietnamese, Georgian …
    (_bytes((0xE2, 0xE2)), Tokens(0.886, 0.966, 1.061)),  # dashes, quotes, symbols
    (_bytes((0xE3, 0xE3)), Tokens(0.703, 0.865, 1.082)),  # kana
    (_bytes((0xE4, 0xE9)), Tokens(0.516, 0.728, 0.949)),  # Han
    (_bytes((0xEA, 0xED)), Tokens(0.679, 0.958, 1.339)),  # Hangul
    (_bytes((0xEE, 0xF7)), Tokens(1.237, 1.886, 2.568)),  # emoji
)


def text_tokens(text: str) -> Tokens:
    """Return the tokens of a text."""
    low = expected = high = 0.0
    content = text.encode(errors="replace")
    for members, each in _ASCII if text.isascii() else (*_ASCII, *_OTHERS):
        count = len(content) - len(content.translate(None, members))
        low += count * each.low
        expected += count * each.expected
        high += count * each.high
    return Tokens(low, expected, high)


# Many rows have the same system prompt, tools and schema.
_shared_text_tokens = lru_cache(maxsize=16)(text_tokens)


def prompt_tokens(request: Request) -> tuple[Tokens, Tokens]:
    """Return the input tokens of a request, and the part of them that is the system prompt."""
    texts: list[str] = []
    extra = sum(map(_attachment_tokens, request.attachments), Tokens())
    for message in request.messages:
        extra += _collect_texts(message.content, texts)
        if message.extra:
            texts.append(_json(message.extra))
    system = _system_tokens(request)
    tokens = text_tokens("\n".join(texts)) + _TURN * len(request.messages) + extra
    return tokens + system + _schema_tokens(request), system


def _attachment_tokens(attachment: Attachment) -> Tokens:
    if not attachment.is_document:
        if attachment.pixels is None or not all(attachment.pixels):
            return Tokens(*IMAGE_TOKENS)
        return Tokens(*image_bounds(*attachment.pixels))
    if attachment.url is not None:
        counts = zip(PAGE_TOKENS, _PAGES_AT_ADDRESS, strict=True)
        return Tokens(*(page * pages for page, pages in counts))
    if attachment.pages:
        return Tokens(*PAGE_TOKENS) * attachment.pages
    return text_tokens(attachment.data or "")


def _system_tokens(request: Request) -> Tokens:
    if request.system is None:
        return Tokens()
    texts: list[str] = []
    _collect_texts(request.system, texts)
    return _shared_text_tokens("\n".join(texts)) + _TURN


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
    described = (_shared_text_tokens(_json(part)) for part in parts)
    return sum(described, Tokens(high=MOST_FOR_TOOLS))


def _collect_texts(content: object, texts: list[str]) -> Tokens:
    """Append the texts of a message's content to `texts`; return the tokens of what is no text."""
    found = Tokens()
    if isinstance(content, str):
        texts.append(content)
        return found
    for block in content if isinstance(content, list | tuple) else ():
        kind = block.get("type")
        if kind in _IMAGES:
            found += Tokens(*IMAGE_TOKENS)
        elif (document := document_of(block)) is not None:
            found += _attachment_tokens(document)
        elif kind == "text":
            texts.append(str(block.get("text", "")))
        elif kind == "tool_result":
            found += _collect_texts(block.get("content"), texts)
        else:
            texts.append(_json(block))
    return found


def _json(value: object) -> str:
    return orjson.dumps(value, default=str).decode()
