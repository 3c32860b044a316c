"""Finds the labels that a prompt offers, and ranks them by the words of the prompt.

A prompt offers labels if it announces them ("one of these labels: a, b", "Labels:", "choose from a, b or c",
"with one word: a, b or c") and a list of short items follows, on the line or as bullets, or if it names
the answers ("Answer yes or no"). All other text is prose.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchrun.simulator.draws import RandomDraws

_MAX_LABELS = 100
_MAX_CHARACTERS = 60
_MAX_WORDS = 5

_CLUES = (
    *("one of", "choose", "select", "pick", "labels", "categories", "classes", "classify"),
    *("answer", "reply", "respond", "output", "return", "options", "choices", "/"),
)
# Announces a list: what follows may be inline, bracketed or bullets.
_ANNOUNCED = re.compile(
    r"\b(?:one of|(?:choose|select|pick)\b[^.:\n]{0,40}?\b(?:one|from|among|between)"
    r"|(?:one|single)\s+(?:word|letter|label|category|class|option|number)"
    r"|labels|categories|classes|options|choices)\b[^.:(\[\n]{0,60}?(?:[:(\[]|\bare\b)",
    re.IGNORECASE,
)
# Runs into a list within its sentence, as prose does too: "one of" needs three items to count.
_RUN_IN = re.compile(
    r"\b(?:(one)\s+of|(?:choose|select|pick)\s+(?:from|among|between))\s+", re.IGNORECASE
)
# Names the answers in a sentence: each of them is one word.
_ANSWERS = re.compile(
    r"\b(?:(?:answer|reply|respond|output|return)(?:\s+(?:only|just|exactly|simply|with|as))*"
    r"|classify\b[^.:\n]{0,60}?\bas)\s+(?:either\s+)?",
    re.IGNORECASE,
)
# As in "Sentiment (good/bad/mixed):", behind the noun.
_SLASHED = re.compile(r"\(((?:[\w-]+/)+[\w-]+)\)\s*:")
_ITEM = r"[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]+(\S.*)"
_BULLET = re.compile(_ITEM)
_BULLETS = re.compile(rf"[ \t]*\n(?:[ \t]*\n)?((?:{_ITEM}(?:\n|\Z))+)")
_DESCRIPTION = re.compile(r"\s*:\s|\s+[-–—(]")
_LINE = re.compile(r"[\s:\[({]*([^\n]*)")
_ASIDE = re.compile(r"\s*\([^)\n]*\)")
_LIST_END = re.compile(r"[.!?](?=\s|$)|[)\]}]|\s[-–—]\s|\s(?:and|with)\s+(?:nothing\b|no\s+\w)")
_COMMA = re.compile(r"\s*[,;|]\s*")
_LAST_TWO = re.compile(r"\s+(?:or|and)\s+|\s*/\s*", re.IGNORECASE)
_CONJUNCTION = re.compile(r"^(?:or|and)\s+", re.IGNORECASE)
_AROUND = " \t\"'`“”‘’«»*.:;,"
_ARTICLES = {"the", "a", "an", "my", "our", "your", "their", "these", "those", "this", "that"}
_SMALL_WORDS = {"to", "of", "the", "and", "or", "a", "in", "on", "for", "not"}
_WORD = re.compile(r"[^\W_]+")
_SUFFIX = re.compile(r"(?<=\w{4})(?:lations?|ations?|ings?|ions?|ied|ies|ed|es|s|y)$")


class LabelOffer(NamedTuple):
    """The labels that a text offers, and the text without them."""

    labels: tuple[str, ...]
    rest: str


@lru_cache(maxsize=256)  # all rows of a job share a system prompt
def find_labels(text: str) -> LabelOffer | None:
    """Return the first list of labels in `text`."""
    lower = text.lower()
    if not any(clue in lower for clue in _CLUES):  # ten times as fast as the patterns
        return None
    for start, end, labels in chain(_announced(text), _run_in(text), _answers(text)):
        if 2 <= len(labels) <= _MAX_LABELS and all(map(_is_label, labels)):
            return LabelOffer(labels, f"{text[:start]} {text[end:]}")
    return None


def rank_labels(labels: tuple[str, ...], text: str, draws: RandomDraws) -> list[str]:
    """Return the labels, best first: those whose words or stems are in `text`, then by draw."""
    seen = {stem.lower() for stem in _stem_pattern(labels).findall(text)}
    first = draws.below(len(labels))
    return sorted(
        (*labels[first:], *labels[:first]),
        key=lambda label: sum(map(len, _stems(label) & seen)),
        reverse=True,
    )


def _announced(text: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Yield the start, the end and the items of each announced list."""
    for announced in _ANNOUNCED.finditer(text):
        if bullets := _BULLETS.match(text, announced.end()):
            items = (bullet[1] for bullet in map(_BULLET.match, bullets[1].splitlines()) if bullet)
            labels = _unique(_DESCRIPTION.split(item, maxsplit=1)[0] for item in items)
            yield announced.start(), bullets.end(), labels
        else:
            yield announced.start(), *_inline(text, announced.end())


def _run_in(text: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    for run_in in _RUN_IN.finditer(text):
        end, labels = _inline(text, run_in.end())
        if len(labels) > 2 or not run_in[1]:
            yield run_in.start(), end, labels


def _answers(text: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    for named in _ANSWERS.finditer(text):
        colon = text.find(":", named.end())
        end, labels = _inline(text if colon < 0 else text[:colon], named.end())
        if not any(" " in label for label in labels):
            yield named.start(), end, labels
    for slashed in _SLASHED.finditer(text):
        yield slashed.start(), slashed.end(), _unique(slashed[1].split("/"))


def _inline(text: str, start: int) -> tuple[int, tuple[str, ...]]:
    """Return the end and the items of the list that starts here."""
    line = _LINE.match(text, start)
    if line is None:
        return start, ()
    # Blanked, not removed: positions in the line stay positions in the text.
    listed = _ASIDE.sub(lambda aside: " " * len(aside[0]), line[1])
    if end := _LIST_END.search(listed):
        listed = listed[: end.start()]
    *items, last = _COMMA.split(listed)
    items += _LAST_TWO.split(_CONJUNCTION.sub("", last) if items else last)
    return line.start(1) + len(listed), _unique(items)


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for item in items if (label := item.strip(_AROUND))))


def _is_label(text: str) -> bool:
    words = text.split(None, _MAX_WORDS)
    opens_a_phrase = len(words) > 1 and words[0].lower() in _ARTICLES
    return len(text) <= _MAX_CHARACTERS and len(words) <= _MAX_WORDS and not opens_a_phrase


@lru_cache(maxsize=256)
def _stem_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern whose matches are the labels' stems in a text."""
    stems = sorted({stem for label in labels for stem in _stems(label)}, key=len, reverse=True)
    # A short word must stand alone, but for a plural: "bug" is in "bugs" and not in "bugle".
    ends = (re.escape(stem) + ("" if len(stem) > 3 else r"(?=s?\b)") for stem in stems)
    return re.compile(rf"\b(?:{'|'.join(ends) or '(?!)'})", re.IGNORECASE)


@lru_cache(maxsize=4096)
def _stems(label: str) -> frozenset[str]:
    words = {word.lower() for word in _WORD.findall(label)} - _SMALL_WORDS
    return frozenset(_SUFFIX.sub("", word) for word in words)
