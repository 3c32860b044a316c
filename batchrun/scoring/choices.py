"""Finding the one of several choices that a text picks: `B`, `(B)`, `Answer: B`, `B) Paris`.

A text that picks none, or several without saying which is the answer, picks none.
"""

from __future__ import annotations

import re
from collections import deque
from functools import lru_cache
from string import ascii_uppercase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_TEXT = 100_000
_GAP = re.compile(r"[\s_-]+")  # "how_to" is said as "How to"
_NEXT_WORD = re.compile(r"\s+([^\W\d_]{1,30})")
_CONJUNCTIONS = {"and", "as", "because", "but", "is", "or", "since"}
_AROUND = " \t\r\n\"'`“”‘’«»*_.:;,!()[]{}<>$\\"
# What comes between "answer" and the choice; a fixed, short stretch, so that nothing backtracks.
_ANNOUNCED = r"\b(?:answer|choice|option|label|category)\b(?:\s+is)?\s*[:=]?[\s*_(\[{{\"'`$]{{0,9}}"
_BOXED = r"\\boxed\{{\s*(?:\\text\{{)?\s*\(?"


class Choices:
    """The labels that an answer may pick.

    Args:
        labels: as they are to be spelled; none stands for the letters A to Z.
    """

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = tuple(labels) or tuple(ascii_uppercase)
        self._by_fold = {_folded(label): label for label in self.labels}
        self._has_letters = all(len(label) == 1 for label in self.labels)
        longest_first = sorted(self.labels, key=len, reverse=True)
        one = "|".join(_GAP.sub(r"[\\s_-]{1,3}", _escaped(label)) for label in longest_first)
        flags = 0 if self._has_letters else re.IGNORECASE
        one = rf"(?<!\w)({one})(?!\w)"
        self._announced = re.compile(rf"(?i:{_ANNOUNCED.format()}){one}", flags)
        self._boxed = re.compile(rf"{_BOXED.format()}{one}", flags)
        self._begins = re.compile(rf"[\s*_(\[]{{0,9}}{one}[\s*_]{{0,3}}[)\].:]", flags)
        self._mentioned = re.compile(one, flags)

    def find(self, text: str) -> str | None:
        """Return the choice that a text picks, None when it picks none."""
        text = text[-LONGEST_TEXT:]
        whole = self._by_fold.get(_folded(text))
        if whole is not None:
            return whole
        for pattern in (self._boxed, self._announced):
            if (found := _last(pattern, text)) is not None:
                return self._spelled(found)
        if (begins := self._begins.match(text)) is not None:
            return self._spelled(begins)
        mentioned = {
            self._spelled(found)
            for found in self._mentioned.finditer(text)
            if not (self._has_letters and _is_word(found, text))
        }
        return mentioned.pop() if len(mentioned) == 1 else None

    def of(self, expected: object) -> str | None:
        """Return the choice that a cell names: by its label, or by its number from 0."""
        label = self._by_fold.get(_folded(str(expected)))
        if label is not None:
            return label
        is_number = isinstance(expected, int) and not isinstance(expected, bool)
        if is_number and 0 <= int(str(expected)) < len(self.labels):
            return self.labels[int(str(expected))]
        return self.find(str(expected))

    def _spelled(self, found: re.Match[str]) -> str:
        return self._by_fold[_folded(found[1])]


@lru_cache(maxsize=16)
def choices_of(labels: tuple[str, ...]) -> Choices:
    """Return the choices for these labels."""
    return Choices(labels)


def _escaped(label: str) -> str:
    return " ".join(re.escape(part) for part in _GAP.split(label))


def _folded(text: str) -> str:
    return _GAP.sub(" ", text.strip(_AROUND) or text.strip()).casefold()


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _is_word(found: re.Match[str], text: str) -> bool:
    """Whether a letter is rather a word of the sentence: "A dog", "I think"."""
    if found[1] not in {"A", "I"}:
        return False
    following = _NEXT_WORD.match(text, found.end())
    return following is not None and following[1].lower() not in _CONJUNCTIONS
