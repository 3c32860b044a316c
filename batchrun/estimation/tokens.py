"""How many tokens a prompt has, from its characters.

No tokenizer is at hand that would serve: those of the newer models are not public, and the others
come as megabytes for each family. What is here was measured instead: tokens for each character of a
script, as four tokenizers make them (OpenAI's cl100k and o200k, an older one of Claude, DeepSeek's),
over tickets in 18 languages, documents, code and JSON. The middle is their geometric mean, `low` and
`high` are the fewest and the most that one of them makes.

Of English and code the middle is within 10 % of each of the four over many rows, and within 20 % of
a single text, as of JSON; of other languages in Latin letters within 35 %; of other scripts within a
factor of two, by which the tokenizers differ themselves. A few real answers (`--sample`) say more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.records import Request


# What a turn costs for its role and delimiters.
TURN_TOKENS = 3
# About one megapixel; the Claude documents give width x height / 750, and shrink what is larger.
IMAGE_TOKENS = (85, 1_500, 1_600)
# What providers may say about the use of tools, before any tool of ours.
MOST_FOR_TOOLS = 350
_IMAGES = frozenset({"image", "image_url"})


@dataclass(frozen=True, slots=True)
class Tokens:
    """A number of tokens: what is expected, and the bounds within which it may be."""

    low: float = 0.0
    expected: float = 0.0
    high: float = 0.0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, factor: float) -> Tokens:
        return Tokens(self.low * factor, self.expected * factor, self.high * factor)


def _bytes(*ranges: tuple[int, int]) -> bytes:
    return bytes(code for first, last in ranges for code in range(first, last + 1))


# By the first byte of a character in UTF-8, which tells its script: (bytes, tokens for each).
_ASCII = (
    (_bytes((0x61, 0x7A), (0x20, 0x20)), Tokens(0.214, 0.224, 0.236)),  # small letters, blanks
    (_bytes((0x41, 0x5A)), Tokens(0.251, 0.303, 0.362)),
    (_bytes((0x30, 0x39)), Tokens(0.521, 0.763, 0.928)),
    (
        _bytes((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)),
        Tokens(0.472, 0.528, 0.570),
    ),
    (_bytes((0x00, 0x1F), (0x7F, 0x7F)), Tokens(0.049, 0.073, 0.156)),  # line ends
)
_OTHERS = (
    # Latin letters with marks, which split the words around them, too.
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


@dataclass(frozen=True, slots=True)
class PromptSize:
    """The tokens of a prompt, and of the part of them that is the system prompt."""

    tokens: Tokens
    system: float


class Gauge:
    """Measures the prompts of one job: what its requests have in common is measured once."""

    def __init__(self) -> None:
        self._fixed: dict[int, Tokens] = {}
        self._systems: dict[str, Tokens] = {}

    def measure(self, request: Request) -> PromptSize:
        """Return the tokens that a request takes in."""
        system = Tokens() if request.system is None else self._system(request.system)
        texts: list[str] = []
        images = len(request.images)
        for message in request.messages:
            images += _gather(message.content, texts)
            if message.extra:
                texts.append(_json(message.extra))
        turns = float(len(request.messages) * TURN_TOKENS)
        tokens = text_tokens("\n".join(texts)) + Tokens(turns, turns, turns)
        if images:
            tokens += Tokens(*map(float, IMAGE_TOKENS)) * images
        return PromptSize(tokens + system + self._described(request), system.expected)

    def _system(self, system: str | Sequence[Mapping[str, Any]]) -> Tokens:
        texts: list[str] = []
        _gather(system, texts)
        text = "\n".join(texts)
        if text not in self._systems:
            self._systems = {text: text_tokens(text) + Tokens(*(float(TURN_TOKENS),) * 3)}
        return self._systems[text]

    def _described(self, request: Request) -> Tokens:
        """Return the tokens of tools and of the answer's schema; all rows share the objects."""
        if not request.tools and request.answer is None:
            return Tokens()
        key = id(request.tools) ^ id(request.answer)
        if key not in self._fixed:
            self._fixed[key] = _description(request)
        return self._fixed[key]


def _description(request: Request) -> Tokens:
    tokens = Tokens()
    for tool in request.tools:
        facts = tool.vendor or {
            "name": tool.name,
            "description": tool.description,
            "input_schema": tool.input_schema,
        }
        tokens += text_tokens(_json(facts))
    if request.answer is not None and request.answer.schema is not None:
        tokens += text_tokens(_json(request.answer.schema))
    return tokens + Tokens(high=MOST_FOR_TOOLS)


def _gather(content: object, texts: list[str]) -> int:
    """Add the texts of a message's content; return how many images it has."""
    if isinstance(content, str):
        texts.append(content)
        return 0
    images = 0
    for block in content if isinstance(content, list | tuple) else ():
        kind = block.get("type")
        if kind in _IMAGES:
            images += 1
        elif kind == "text":
            texts.append(str(block.get("text", "")))
        elif kind == "tool_result":
            images += _gather(block.get("content"), texts)
        else:
            texts.append(_json(block))
    return images


def _json(value: object) -> str:
    return orjson.dumps(value, default=str).decode()
