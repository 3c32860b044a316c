"""Finds the one of several choices that a text picks: `B`, `(B)`, `Answer: B`, `B) Paris`.

An announced answer takes precedence over a mention. A text picks none if it mentions none, or several without
saying which is the answer, or if it only says what the answer is not.
"""

from __future__ import annotations

import re
from functools import lru_cache
from string import ascii_uppercase
from typing import TYPE_CHECKING

from batchrun.evaluation.answer_text import (
    LONGEST_TEXT,
    marked_answer,
    normalized,
    without_thoughts,
)
from batchrun.evaluation.choice_phrases import (
    ANNOUNCED,
    ANOTHER,
    ASSERTED,
    CORRECTED,
    DENIED,
    ENDS_CLAUSE,
    JOINS,
    LONGEST_CLAUSE,
    MARKS,
    PREFERRED,
    is_asked,
    is_corrected,
    is_negated,
    is_questioned,
    is_wanted,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_GAP = re.compile(r"[\s_-]+")  # "how_to" is said as "How to"
_NEXT_WORD = re.compile(r"\s+([^\W\d_]{1,30})")
_CONJUNCTIONS = {"and", "as", "because", "but", "is", "it", "or", "since", "nor", "over", "than"}
_CONJUNCTIONS |= {"fits", "matches", "rather", "remains", "suits", "works", "instead"}
_AFTER_NO = {"alternative", "doubt", "exception", "exceptions", "idea", "longer", "matter", "more"}
_AFTER_NO |= {"need", "other", "others", "question", "reason", "wonder"}
_AROUND = " \t\r\n\"'`“”‘’«»*_.:;,!()[]{}<>$\\"
# Words of languages that are written without spaces may stand directly beside a choice.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
# A label that is a number does not match a part of another number: 1.5, -1.
_BEFORE = rf"(?<![^\W{_CJK}])(?<!\d[.,])(?<![-+](?=\d))"
_AFTER = rf"(?![^\W{_CJK}])(?!(?<=\d)[.,]\d)"
# A line of a list that judges each choice: "A) wrong", "B: yes".
_JUDGED = (
    r"[*_)\]]{0,4}\s{0,2}[:.)—–-]?\s{0,2}[*_]{0,3}(?i:(?:is\s)?(?:(?P<good>correct|right|yes|true)"
    r"|incorrect|wrong|no|false)(?!\w)|(?P<tick>[✓✔✅])|[✗✘❌])[*_\ufe0f]{0,3}\s*(?:[.;,\n]|\Z)"
)
FEWEST_JUDGED = 3


class Choices:
    """The labels that an answer may pick.

    Args:
        labels: the labels in the spelling of predictions; empty stands for the letters A to Z.
    """

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = tuple(labels) or tuple(ascii_uppercase)
        self._by_fold = {_folded(label): label for label in self.labels}
        self._has_letters = all(len(label) == 1 for label in self.labels)
        longest_first = sorted(self.labels, key=len, reverse=True)
        labels_of = "|".join(_GAP.sub(r"[\\s_-]{1,3}", _escaped(label)) for label in longest_first)
        flags = 0 if self._has_letters else re.IGNORECASE
        one = rf"{_BEFORE}({labels_of}){_AFTER}"
        self._announced = re.compile(rf"{ANNOUNCED}{MARKS}(?P<label>{one})", flags)
        self._corrected = re.compile(rf"{CORRECTED}{MARKS}(?P<label>{one})(?={ENDS_CLAUSE})", flags)
        self._another = re.compile(rf"(?i:{ANOTHER})(?:\s(?i:option|choice))?{MARKS}{one}", flags)
        self._beside = re.compile(rf"{one}(?i:{ANOTHER})(?:\s(?i:option|choice))?{MARKS}\Z", flags)
        self._asserted = re.compile(rf"(?P<label>{one}){ASSERTED}", flags)
        self._preferred = re.compile(rf"(?P<label>{one}){PREFERRED}", flags)
        self._judged = re.compile(rf"(?P<label>{one}){_JUDGED}", flags)
        self._item = re.compile(rf"(?:^|(?<=[\s(])){one}([).:\]])", flags | re.MULTILINE)
        end = r"[)\].:]" if self._has_letters else r"[)\].:,]"
        self._begins = re.compile(
            rf"[\s*_(\[]{{0,9}}{one}[\s*_]{{0,3}}(?:{end}|(?i:,?\s(?:because|since|over)(?!\w)))",
            flags,
        )
        self._small = re.compile(rf"{ANNOUNCED}{MARKS}(?P<label>{one})[\s*_)\].]*\Z", re.IGNORECASE)
        self._mentioned = re.compile(one, flags)
        self._anywhere = re.compile(one, re.IGNORECASE)

    def find(self, text: str) -> str | None:
        """Return the choice that a text picks; None if it picks none."""
        # From certain to uncertain: the whole answer, a mark, an announcement, then weaker signs.
        text = normalized_lines(without_thoughts(text[-LONGEST_TEXT:]))
        whole = self._by_fold.get(_folded(text))
        if whole is not None:
            return whole
        marked = marked_answer(text)
        if marked is not None:
            return self._only(_without_latex(marked))
        if self._anywhere.search(text) is None:
            # Without a label the phrases below find nothing, and searching for them takes long.
            return self._alone_in_a_line(text)
        announced = list(self._announcements(text))
        if not announced and self._has_letters:
            small = self._small.search(text)
            announced = [self._spelled(small["label"])] if small and is_wanted(small) else []
        # The last announcement counts, because a model corrects itself later in the text.
        if announced:
            return announced[-1]
        ways = (self._alone_in_a_line, self._judged_right, self._begins_with, self._preferred_to)
        found = (way(text) for way in (*ways, self._only))
        return next((label for label in found if label is not None), None)

    def _alone_in_a_line(self, text: str) -> str | None:
        """Return the choice that is the whole first or last line, if no other line is a choice."""
        lines = [_folded(line) for line in text.strip().split("\n")]
        alone = {self._by_fold[line] for line in lines if line in self._by_fold}
        is_at_an_end = lines[0] in self._by_fold or lines[-1] in self._by_fold
        return alone.pop() if is_at_an_end and len(alone) == 1 else None

    def _judged_right(self, text: str) -> str | None:
        """Return the only choice that a list calls right: `A: no. B: yes. C: no.`."""
        every = [found for found in self._judged.finditer(text) if self._is_at_item(text, found)]
        right = {self._spelled(each["label"]) for each in every if each["good"] or each["tick"]}
        is_list = len({self._spelled(each["label"]) for each in every}) >= FEWEST_JUDGED
        return right.pop() if is_list and len(right) == 1 else None

    @staticmethod
    def _is_at_item(text: str, found: re.Match[str]) -> bool:
        """Return whether a choice is at the beginning of an item of a list."""
        before = text[: found.start()].rstrip(" \t*_([-")
        return not before or before[-1] in "\n.;,:"

    def _begins_with(self, text: str) -> str | None:
        """Return the choice at the start of a text: `B) Paris`, `Yes, because …`."""
        begins = self._begins.match(text)
        if begins is None:
            return None
        another = self._another.match(text, begins.end(1)) if begins[0].endswith(",") else None
        if another is not None and not _is_word(another[1], text, another.end()):
            return None
        label = self._spelled(begins[1])
        is_denied = DENIED.match(text, begins.end(1)) is not None
        return None if is_denied or self._lists_all(text, label) else label

    def _lists_all(self, text: str, label: str) -> bool:
        """Return whether the text repeats the question: `A) Paris B) Rome`."""
        if label != self.labels[0]:
            return False
        items = [(self._spelled(item[1]), item[2]) for item in self._item.finditer(text)]
        return any(
            (self.labels[0], sign) in items and (each, sign) in items
            for each in self.labels[1:2]
            for sign in ").:]"
        )

    def _preferred_to(self, text: str) -> str | None:
        """Return the choice that a text prefers without announcing it: `B fits better than A`."""
        preferred = {
            self._spelled(found["label"])
            for found in self._preferred.finditer(text)
            if not is_negated(text, found.start()) and not is_questioned(text, found.end())
        }
        return preferred.pop() if len(preferred) == 1 else None

    def of(self, expected: object) -> str | None:
        """Return the choice of a cell: by its label, or by its number from 0."""
        label = self._by_fold.get(_folded(normalized(str(expected))))
        if label is not None:
            return label
        is_number = isinstance(expected, int) and not isinstance(expected, bool)
        if is_number and 0 <= int(str(expected)) < len(self.labels):
            return self.labels[int(str(expected))]
        return self.find(str(expected))

    def _announcements(self, text: str) -> Iterator[str | None]:
        """Yield the choices that are announced as the answer, in order; None for several at once."""
        last: str | None = None
        last_end = 0
        for found in self._announcing(text):
            start, end = found.span("label")
            label = self._spelled(found["label"])
            parts = found.groupdict()
            if _is_word(found["label"], text, end):
                continue
            if DENIED.match(text, end) or is_questioned(text, max(end, found.end())):
                continue
            is_other = last is not None and label != last
            is_asserted = "also" in parts
            if parts.get("also") or parts.get("too"):
                label_or_none = None if is_other else label
            elif self._is_one_of_several(label, text, start, end) or (
                is_asserted and is_other and not is_corrected(text, last_end, start)
            ):
                label_or_none = None
            else:
                label_or_none = label
            yield label_or_none
            last, last_end = label_or_none, end

    def _announcing(self, text: str) -> list[re.Match[str]]:
        """Return the phrases that announce, assert or correct a choice, in the order of the choices."""
        asserted = (
            found
            for found in self._asserted.finditer(text)
            if not is_negated(text, found.start("label"))
        )
        announced = (found for found in self._announced.finditer(text) if is_wanted(found))
        every = [*asserted, *announced, *self._corrected.finditer(text)]
        return sorted(every, key=lambda found: found.span("label"))

    def _is_one_of_several(self, label: str, text: str, start: int, end: int) -> bool:
        """Return whether another choice is joined to this one: `A and B`, `A, B`."""
        after = self._another.match(text, end)
        if after is not None and not _is_word(after[1], text, after.end()):
            return self._spelled(after[1]) != label
        beside = self._beside.search(text[max(0, start - LONGEST_CLAUSE) : start])
        return beside is not None and self._spelled(beside[1]) != label

    def _only(self, text: str) -> str | None:
        """Return the only choice that a text mentions without denying it or asking about it."""
        unwanted = {
            found.start("label") for found in self._announced.finditer(text) if not is_wanted(found)
        }
        mentioned = {
            self._spelled(found[1])
            for group in self._groups(text)
            if not self._is_denied(text, group)
            for found in group
            if found.start() not in unwanted
            and not is_negated(text, found.start())
            and not DENIED.match(text, found.end())
            and not is_asked(text, found.start(), group[-1].end())
        }
        return mentioned.pop() if len(mentioned) == 1 else None

    def _groups(self, text: str) -> Iterator[list[re.Match[str]]]:
        """Yield the choices that a text mentions; choices that are named together form one group."""
        group: list[re.Match[str]] = []
        for found in self._mentioned.finditer(text):
            if _is_word(found[1], text, found.end()):
                continue
            another = self._another.match(text, group[-1].end()) if group else None
            if group and (another is None or another.end() != found.end()):
                yield group
                group = []
            group.append(found)
        if group:
            yield group

    @staticmethod
    def _is_denied(text: str, group: list[re.Match[str]]) -> bool:
        """Return whether several choices are denied together: `neither A nor B`, `A and B are wrong`."""
        start, end = group[0].start(), group[-1].end()
        if len(group) == 1 or JOINS.search(text, start, end) is None:
            return False
        return is_negated(text, start) or DENIED.match(text, end) is not None

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


def _is_word(label: str, text: str, end: int) -> bool:
    """Return whether a choice is only a word of the sentence: "A dog", "I think", "I'd", "no doubt"."""
    following = _NEXT_WORD.match(text, end)
    if label.lower() == "no":
        return following is not None and following[1].lower() in _AFTER_NO
    if label not in {"A", "I"}:
        return False
    if label == "I" and text[end : end + 1] == "'":
        return True
    return following is not None and following[1].lower() not in _CONJUNCTIONS
