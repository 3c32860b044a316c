"""Finding the one of several choices that a text picks: `B`, `(B)`, `Answer: B`, `B) Paris`.

What a text announces as its answer counts more than what it mentions. A text that picks none, or several
without saying which is the answer, picks none; so does one that only says what the answer is not.
"""

from __future__ import annotations

import re
from collections import deque
from functools import lru_cache
from string import ascii_uppercase
from typing import TYPE_CHECKING

from batchrun.evaluation.answer_text import (
    LONGEST_TEXT,
    marked_answer,
    normalized,
    without_thoughts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_GAP = re.compile(r"[\s_-]+")  # "how_to" is said as "How to"
_NEXT_WORD = re.compile(r"\s+([^\W\d_]{1,30})")
_CONJUNCTIONS = {"and", "as", "because", "but", "is", "or", "since", "nor"}
_AROUND = " \t\r\n\"'`“”‘’«»*_.:;,!()[]{}<>$\\"
# Words of languages that are written without spaces may stand directly beside a choice.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
# A label that is a number does not match a part of another number: 1.5, -1.
_BEFORE = rf"(?<![^\W{_CJK}])(?<!\d[.,])(?<![-+](?=\d))"
_AFTER = rf"(?![^\W{_CJK}])(?!(?<=\d)[.,]\d)"
# Fixed, short stretches, so that nothing backtracks.
_MARKS = r"[\s*_(\[{\"'`$]{0,9}"
_NOUN = (
    r"(?:(?<!\w)(?:(?:answer|choice|option|label|category|classification|class|verdict|prediction)s?"
    r"|r[ée]ponse|respuesta|resposta|risposta|antwort|ответ)(?!\w)|答案|答え|정답)"
)
_LINK = (
    r"[*_\"'`)\]]{0,4}(?:\s{0,3}(?:[:：=]|(?:is|are|would be|must be|should be|est|es|ist|è|é)(?!\w)"
    r"|是|为|は))"
)
_THEN = r"(?:\s+(?:the|option|choice|letter|label|category|answer))?"
# "answer B" announces, "option B" only names it.
_BARE = r"(?<!\w)answer[*_]{0,3}\s{1,3}"
_CHOSEN = (
    r"(?<!\w)(?:(?:I(?:'d|\sam|\swould|\swill|'ll)?|we)\s(?:choose|chose|pick|select|go\swith)"
    r"|(?:so|but|therefore|thus|hence),?\s(?:it's|it\s(?:is|must\sbe)))\s(?:option\s|choice\s)?"
)
_ANNOUNCED = (
    rf"(?i:(?:{_NOUN}{_LINK}(?P<denied>\s{{0,3}}not(?!\w))?\s{{0,9}}(?:[:：])?{_THEN}|{_BARE}"
    rf"|{_CHOSEN}))"
)
_IS = r"[*_\"'`)\]]{0,4}\s{0,3}(?:is|was|seems|would be|must be)(?!\w)"
_GOOD = r"\s{1,3}(?:clearly\s|indeed\s|therefore\s|thus\s)?(?:the\s)?(?:best|correct|right|answer)"
_BAD = (
    r"[*_\"'`)\]]{0,4}\s{0,3}(?:(?:is|was|are|would be|can|could|does|do)(?:n't|\s{1,2}not)(?!\w)|cannot(?!\w)"
    r"|(?:is|was|are|would be)\s{1,2}(?:\w{1,15}\s)?(?:incorrect|wrong|false|irrelevant|ruled out))"
)
_NEGATION = re.compile(
    r"(?:(?<!\w)(?:not|no|never|neither|nor|cannot|hardly|without|except|excluding|rather than|instead of"
    r"|ruled? out|unlikely|kein(?:e[nmrs]?)?|nicht|weder|pas|ni|не|нет|ни)|n't)(?!\w)"
    r"(?:[\s*_\"'`(]+[\w']+){0,4}[\s*_\"'`(\[]*\Z"
    r"|(?:不是|不选|并非|(?<!\w)non-?|(?:incorrect|wrong|false)\s(?:answer|choice|option|label)\sis\s)"
    r"[\s*_\"'`(\[]*\Z",
    re.IGNORECASE,
)
# "The wrong answer is B": what follows is announced, but not as the answer.
_UNWANTED = re.compile(
    r"(?<!\w)(?:incorrect|wrong|false|worst|cannot|can't|falsche|mauvaise|错误)\s{0,2}\Z",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.!?;:,\n]|\b(?:but|however|though)\b", re.IGNORECASE)
_ANOTHER = r"[*_\"'`)\]}\s]{0,5}(?:,|/|&|\+|and|or|as well as)(?:\s{0,2}(?:and|or)(?!\w))?"
LONGEST_CLAUSE = 80


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
        labels_of = "|".join(_GAP.sub(r"[\\s_-]{1,3}", _escaped(label)) for label in longest_first)
        flags = 0 if self._has_letters else re.IGNORECASE
        one = rf"{_BEFORE}({labels_of}){_AFTER}"
        other = rf"{_BEFORE}({labels_of}){_AFTER}"
        self._announced = re.compile(rf"{_ANNOUNCED}{_MARKS}(?P<label>{one})", flags)
        self._another = re.compile(
            rf"(?i:{_ANOTHER})(?:\s(?i:option|choice))?{_MARKS}{other}", flags
        )
        self._asserted = re.compile(rf"{one}(?i:{_IS}{_GOOD})(?!\w)", flags)
        self._denied = re.compile(rf"(?i:{_BAD})")
        end = r"[)\].:]" if self._has_letters else r"[)\].:,]"
        self._begins = re.compile(rf"[\s*_(\[]{{0,9}}{one}[\s*_]{{0,3}}{end}", flags)
        self._small = re.compile(
            rf"{_ANNOUNCED}{_MARKS}(?P<label>{one})[\s*_)\].]*\Z", re.IGNORECASE
        )
        self._mentioned = re.compile(one, flags)

    def find(self, text: str) -> str | None:
        """Return the choice that a text picks, None when it picks none."""
        text = normalized_lines(without_thoughts(text[-LONGEST_TEXT:]))
        whole = self._by_fold.get(_folded(text))
        if whole is not None:
            return whole
        marked = marked_answer(text)
        if marked is not None:
            return self._only(_without_latex(marked))
        announced = list(self._announcements(text))
        if not announced and self._has_letters:
            small = self._small.search(text)
            announced = [self._spelled(small["label"])] if small and _is_wanted(small) else []
        if announced:
            return announced[-1]
        return self._begins_with(text) or self._only(text)

    def _begins_with(self, text: str) -> str | None:
        """Return the choice that stands at the start of a text: `B) Paris`, `Yes, because …`."""
        begins = self._begins.match(text)
        if begins is None or (begins[0].endswith(",") and self._another.match(text, begins.end(1))):
            return None
        label = self._spelled(begins[1])
        return None if self._lists_all(text, label) else label

    def _lists_all(self, text: str, label: str) -> bool:
        """Say whether the text repeats the question: `A) Paris B) Rome`."""
        return label == self.labels[0] and all(
            re.search(rf"(?<!\w){re.escape(each)}\)", text) for each in self.labels[:2]
        )

    def of(self, expected: object) -> str | None:
        """Return the choice that a cell names: by its label, or by its number from 0."""
        label = self._by_fold.get(_folded(normalized(str(expected))))
        if label is not None:
            return label
        is_number = isinstance(expected, int) and not isinstance(expected, bool)
        if is_number and 0 <= int(str(expected)) < len(self.labels):
            return self.labels[int(str(expected))]
        return self.find(str(expected))

    def _announcements(self, text: str) -> Iterator[str | None]:
        """Yield what is announced as the answer, in order; None for several choices at once."""
        asserted = (
            found for found in self._asserted.finditer(text) if not _negated(text, found, 1)
        )
        announced = (found for found in self._announced.finditer(text) if _is_wanted(found))
        every = [(found.start(1), found.end(1), found[1]) for found in asserted]
        every += [(f.start("label"), f.end("label"), f["label"]) for f in announced]
        for start, end, label in sorted(every):
            if self._has_letters and _is_word(label, text, end):
                continue
            if self._denied.match(text, end):
                continue
            if self._is_one_of_several(label, text, start, end):
                yield None
            else:
                yield self._spelled(label)

    def _is_one_of_several(self, label: str, text: str, start: int, end: int) -> bool:
        """Say whether another choice stands beside this one: `A and B`, `A, B`."""
        after = self._another.match(text, end)
        if after is not None and not (self._has_letters and _is_word(after[1], text, after.end())):
            return self._spelled(after[1]) != self._spelled(label)
        before = text[max(0, start - LONGEST_CLAUSE) : start]
        beside = re.search(
            rf"(?P<first>{self._mentioned.pattern})(?i:{_ANOTHER}){_MARKS}\Z", before
        )
        return beside is not None and self._spelled(beside["first"]) != self._spelled(label)

    def _only(self, text: str) -> str | None:
        """Return the only choice that a text mentions without denying it."""
        mentioned = {
            self._spelled(found[1])
            for found in self._mentioned.finditer(text)
            if not (self._has_letters and _is_word(found[1], text, found.end()))
            and not _negated(text, found, 1)
            and not self._denied.match(text, found.end())
        }
        return mentioned.pop() if len(mentioned) == 1 else None

    def _spelled(self, label: str) -> str:
        return self._by_fold[_folded(label)]


@lru_cache(maxsize=16)
def choices_of(labels: tuple[str, ...]) -> Choices:
    """Return the choices for these labels."""
    return Choices(labels)


def normalized_lines(text: str) -> str:
    """Return a text in one Unicode form, line by line."""
    return "\n".join(normalized(line) for line in text.split("\n"))


def _without_latex(text: str) -> str:
    return re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*", " ", text)


def _escaped(label: str) -> str:
    return " ".join(re.escape(part) for part in _GAP.split(normalized(label)))


def _folded(text: str) -> str:
    return _GAP.sub(" ", text.strip(_AROUND) or text.strip()).casefold()


def _negated(text: str, found: re.Match[str], group: int) -> bool:
    """Say whether the clause before a choice denies it: "this is not billing"."""
    start = found.start(group)
    before = text[max(0, start - LONGEST_CLAUSE) : start]
    clause = deque(_CLAUSE.finditer(before), maxlen=1)
    rest = before[clause[0].end() :] if clause else before
    return _NEGATION.search(rest) is not None


def _is_wanted(announced: re.Match[str]) -> bool:
    """Say whether an announcement is one of the answer, rather than of what is not: "The wrong answer is B"."""
    before = announced.string[max(0, announced.start() - 20) : announced.start()]
    return announced["denied"] is None and _UNWANTED.search(before) is None


def _is_word(label: str, text: str, end: int) -> bool:
    """Whether a letter is rather a word of the sentence: "A dog", "I think"."""
    if label not in {"A", "I"}:
        return False
    following = _NEXT_WORD.match(text, end)
    return following is not None and following[1].lower() not in _CONJUNCTIONS
