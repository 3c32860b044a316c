"""Which tokenizer a model has, by its name, and the tokens of a text by it.

With the package bpe-openai (the extra `tokens`), which contains OpenAI's vocabularies, the tokens of OpenAI's
models are counted. Otherwise they are estimated from characters by measured rates: with the rates of the model's
tokenizer if it is known, and with the lowest and highest rates of all tokenizers otherwise.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import warnings
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from batchrun.estimation.characters import NAMES, counts
from batchrun.estimation.token_rates import RATES, TOKENIZERS, TOLERANCE, TOLERANCES

if TYPE_CHECKING:
    from collections.abc import Callable


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


@dataclass(frozen=True, slots=True)
class Family:
    """Models that share a tokenizer.

    Attributes:
        name: name in the output of the estimate.
        models: pattern of the model's name, in lower case and without a provider before it.
        tokenizers: names in `TOKENIZERS`; several if models of the family differ.
        message: tokens of a message for its role and delimiters; `request` are those of a request.
        encoding: the vocabulary in bpe-openai; None if there is none.
    """

    name: str
    models: re.Pattern[str]
    tokenizers: tuple[str, ...]
    message: Tokens = field(default=Tokens(3, 4, 6))
    request: Tokens = field(default=Tokens(0, 3, 8))
    encoding: str | None = None


_CLAUDE_FRAME = (Tokens(2, 3, 5), Tokens(3, 4, 7))
# In each message of OpenAI's: three delimiters and the role; then three that begin the answer.
_OPENAI_FRAME = (Tokens(4, 4, 4), Tokens(3, 3, 3))
CLAUDE_EARLY, CLAUDE_LATE = "Claude 3 to 4.6", "Claude 4.7 and later"
_CLAUDE_CHANGED = (4, 7)
# The first match counts.
FAMILIES = (
    Family(
        "OpenAI's o200k_base",
        re.compile(r"gpt-4o|chatgpt|gpt-4\.[15]|gpt-[5-9]|gpt-oss|o[1-9](?:-|$)|codex"),
        ("o200k",),
        *_OPENAI_FRAME,
        encoding="o200k_base",
    ),
    Family(
        "OpenAI's cl100k_base",
        re.compile(r"gpt-4|gpt-3\.5"),
        ("cl100k",),
        *_OPENAI_FRAME,
        encoding="cl100k_base",
    ),
    Family("Llama 4", re.compile(r"(?:meta-)?llama-?4"), ("llama_4",)),
    Family("Llama 3", re.compile(r"(?:meta-)?llama-?3"), ("llama_3",)),
    Family("Qwen", re.compile(r"qwen|qwq"), ("qwen",)),
    Family("DeepSeek", re.compile(r"deepseek-(?!r1-distill)"), ("deepseek",)),
    Family(
        "Mistral",
        re.compile(r"(?:open-)?(?:mi[sx]tral|ministral|codestral|magistral|devstral|pixtral)"),
        ("tekken", "mistral_sp"),
    ),
)
_CLAUDE_FAMILIES = {
    CLAUDE_EARLY: ("claude_3",),
    CLAUDE_LATE: ("claude_4_7",),
    "Claude": ("claude_3", "claude_4_7"),
}
UNKNOWN = Family("ten tokenizers, since that of the model is not known", re.compile(""), TOKENIZERS)
# "claude-3-5-haiku-20241022" and "claude-haiku-4-5": the numbers before or after the name, without the date.
_CLAUDE = re.compile(r"claude-(?:(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d))?")
# "us.anthropic.", "openai/".
_BEFORE = re.compile(r"^.*/(?=[a-z])|^(?:[a-z-]+\.)*anthropic\.")


def base_name(model: str) -> str:
    """Return a model's name in lower case, without the prefixes and suffixes of clouds and gateways."""
    return _BEFORE.sub("", model.lower().removeprefix("ft:").split(":")[0])


@lru_cache(maxsize=256)
def family_of(model: str) -> Family:
    """Return the family of a model by its name; `UNKNOWN` for other names."""
    name = base_name(model)
    if found := _CLAUDE.match(name):
        return _claude(found.group(1), found.group(2))
    return next((each for each in FAMILIES if each.models.match(name)), UNKNOWN)


@cache
def _claude(major: str | None, minor: str | None) -> Family:
    if major is None:
        name = "Claude"
    else:
        is_late = (int(major), int(minor or 0)) >= _CLAUDE_CHANGED
        name = CLAUDE_LATE if is_late else CLAUDE_EARLY
    return Family(name, _CLAUDE, _CLAUDE_FAMILIES[name], *_CLAUDE_FRAME)


# The library refuses more than 200,000 tokens. A cut adds at most a token or two.
MOST_AT_ONCE = 50_000


@cache
def exact_counter(encoding: str | None) -> Callable[[str], int] | None:
    """Return a function that counts tokens; None if there is no vocabulary for it."""
    if encoding is None:
        return None
    if importlib.util.find_spec("bpe_openai") is None:
        return None
    with warnings.catch_warnings(action="ignore"):  # it opens its files in a deprecated way
        library = importlib.import_module("bpe_openai")
        encode = library.get_encoding(encoding).encode_ordinary

    def count(text: str) -> int:
        text = text.encode("utf-8", "replace").decode()
        places = range(0, len(text), MOST_AT_ONCE)
        return sum(len(encode(text[place : place + MOST_AT_ONCE])) for place in places)

    return count


@cache
def _rates(family: Family) -> list[tuple[tuple[float, ...], ...]]:
    """Return, for each tokenizer, its lowest, expected and highest tokens for each count."""
    found: list[tuple[tuple[float, ...], ...]] = []
    for place in map(TOKENIZERS.index, family.tokenizers):
        rates = [RATES[name][place] for name in NAMES]
        # A negative rate corrects others; it does not vary by itself.
        spread = [
            max(0.0, r) * TOLERANCES.get(n, TOLERANCE) for n, r in zip(NAMES, rates, strict=True)
        ]
        both = list(zip(rates, spread, strict=True))
        found.append((tuple(r - s for r, s in both), tuple(rates), tuple(r + s for r, s in both)))
    return found


def text_tokens(text: str, model: str = "") -> Tokens:
    """Return the tokens of a text for a model.

    Args:
        text: the text.
        model: name of the model; empty or unknown for bounds that hold for many.
    """
    family = family_of(model)
    if (count := exact_counter(family.encoding)) is not None:
        return Tokens(*[float(count(text))] * 3)
    return rated_tokens(text, family)


def rated_tokens(text: str, family: Family) -> Tokens:
    """Return the tokens of a text from its characters, by the rates of a family of models."""
    if not text:
        return Tokens()
    found = [(n, number) for n, number in enumerate(counts(text)) if number]
    sums = [
        [max(1.0, sum(number * bound[n] for n, number in found)) for bound in bounds]
        for bounds in _rates(family)
    ]
    lows, middles, highs = zip(*sums, strict=True)
    middle = math.exp(sum(map(math.log, middles)) / len(middles))
    # Rates say little of a few characters: one token more or less.
    return Tokens(max(1.0, min(lows) - 1), middle, max(highs) + 1)


def lacks_vocabulary(model: str) -> bool:
    """Return whether the tokens of the model could be counted if the extra were installed."""
    encoding = family_of(model).encoding
    return encoding is not None and exact_counter(encoding) is None


def how_counted(model: str) -> str:
    """Return a phrase about how the tokens of a model's prompts are determined."""
    family = family_of(model)
    if exact_counter(family.encoding) is not None:
        return f"counted with {family.name}"
    return f"from the characters, by rates measured for {family.name}"
