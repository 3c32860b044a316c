"""Phrases around a choice that show whether it is the answer: announced, denied, questioned, withdrawn.

All repetitions in the patterns are short and bounded, so that no pattern backtracks over a long text.
"""

from __future__ import annotations

import re
from collections import deque

LONGEST_CLAUSE = 80
LONGEST_SENTENCE = 300

# What may stand between a phrase and its choice.
MARKS = r"[\s*_(\[{\"'`$]{0,9}"
_CLOSED = r"[*_\"'`)\]}]{0,4}"
_NOUN = (
    r"(?:(?<!\w)(?:(?:answer|choice|option|label|category|classification|class|verdict|prediction)s?"
    r"|r[ée]ponse|respuesta|resposta|risposta|antwort|ответ)(?!\w)|答案|答え|정답)"
)
_LINK = (
    rf"{_CLOSED}(?:\s{{0,3}}(?:[:：=]|(?:is|are|would be|must be|should be|est|es|ist|è|é)(?!\w)"
    r"|是|为|は))"
)
_THEN = r"(?:\s+(?:the|option|choice|letter|label|category|answer))?"
# "answer B" announces, "option B" only names it.
_BARE = r"(?<!\w)answer[*_]{0,3}\s{1,3}"
_CHOSEN = (
    r"(?<!\w)(?:(?:I(?:'d|'m|\sam|\swould|\swill|'ll)?|we)\s(?:choose|chose|pick|select|prefer|say"
    r"|(?:go|going)\s(?:with|for)|opt\sfor|vote\sfor|settle\son)"
    r"|(?:so|but|however|therefore|thus|hence|instead|actually|no|wait),?\s"
    r"(?:it's|it\s(?:is|must\sbe|should\sbe|has\sto\sbe))"
    r"|(?:that\s)?leav(?:es|ing)(?:\sus)?(?:\swith)?(?:\sonly)?)\s(?:option\s|choice\s)?"
)
# With a colon only: "Final: B", but not "the decision is hard".
_HEADED = (
    rf"(?<!\w)(?:final(?:\s(?:decision|pick))?|conclusion|solution|decision|pick|selection|guess){_CLOSED}"
    r"\s?[:：]"
)
ANNOUNCED = (
    rf"(?i:(?:{_NOUN}{_LINK}(?P<denied>\s{{0,3}}not(?!\w))?\s{{0,9}}(?:[:：])?{_THEN}|{_BARE}"
    rf"|{_HEADED}|{_CHOSEN}))"
)
# "A? No, B.": a correction announces its choice only if that is all that it says.
CORRECTED = (
    r"(?i:(?:(?<!\w)(?:(?:no|nope|wait|hmm+|actually|rather|correction|sorry)\s?[,.:;!—–-]{1,3}"
    r"|(?:actually|but|so|thus|hence|therefore|sondern|sino|mais),?)\s|(?:不|不是|不对)[,.。、])"
    r"\s{0,3}(?:(?:I\smean|make\sthat)\s)?)"
)
ENDS_CLAUSE = (
    r"(?i:[\s*_\"'`)\]}]{0,4}(?:[.!;\n。](?!\w)|\Z|,?\s(?:because|since)(?!\w)|,\s{1,2}not(?!\w)))"
)
_IS = rf"{_CLOSED}\s{{0,3}}(?:is|was|seems|would be|must be)(?!\w)"
_GOOD = (
    r"\s{1,3}(?P<also>also\s)?(?:clearly\s|indeed\s|therefore\s|thus\s)?(?:the\s)?"
    r"(?:best|correct|right|answer)(?P<too>\s(?:too|as\swell))?"
)
# "Is it B? Yes." asserts as well.
ASSERTED = rf"(?i:(?:{_IS}{_GOOD}|{_CLOSED}\?\s{{1,3}}yes)(?!\w))"
# Weaker: "B is better than A", "B fits best", "B remains".
PREFERRED = (
    rf"(?i:{_CLOSED}\s{{0,3}}(?:(?:is|seems|would be)\s(?:an?\s|the\s)?"
    r"(?:(?:better|stronger|likelier)(?=(?:\s\w{1,20}){0,2}(?:\sthan\s|[.!;\n]|\Z))|more\s\w{1,20}\sthan)"
    r"|it\sis|remains|(?:fits|works|matches|suits)(?:\sit)?\s(?:best|better))(?!\w))"
)
_WRONG = (
    r"(?:incorrect|wrong|false|irrelevant|out|(?:ruled|crossed)\s(?:out|off)|eliminated|excluded"
    r"|impossible|implausible|unlikely)"
)
_NOT_SO = r"not\s(?:right|correct|it)|incorrect|wrong"
DENIED = re.compile(
    rf"{_CLOSED}\s{{0,3}}(?:(?:is|was|are|would be|can|could|does|do|seems?)(?:n't|\s{{1,2}}not)(?!\w)"
    rf"|cannot(?!\w)|(?:is|was|are|would be)\s{{1,2}}(?:\w{{1,15}}\s)?{_WRONG}(?!\w))"
    # "B. No, that's wrong.", "B? No."
    rf"|{_CLOSED}[?.!,;:—–-]{{0,3}}\s{{0,2}}(?:(?:hmm+|oh|no|wait|actually|sorry)[,.!…]{{0,3}}\s){{1,3}}"
    rf"(?:that|this|it)(?:'s|\sis|\swas)\s(?:{_NOT_SO})(?!\w)"
    rf"|{_CLOSED}[?.!,;—–-]{{0,3}}\s{{0,2}}that(?:'s|\sis|\swas)\s(?:{_NOT_SO})\s{{0,2}}(?:[.!,;\n]|\Z)"
    rf"|{_CLOSED}\?\s{{0,2}}(?:hmm+[,.…]{{0,3}}\s)?(?:no|nope)(?!\w)",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"(?:(?<!\w)(?:not|no(?!\s(?:doubt|question))|never|neither|nor|cannot|hardly|than|over"
    r"|without(?!\s(?:a\s|any\s)?(?:doubt|question))|except|excluding|rather than|instead of"
    r"|(?:ruled?|ruling|cross(?:ed|ing)?) (?:out|off)|(?:eliminat|exclud|discard|reject|dismiss)(?:e|ed|es|ing|s)?"
    r"|unlikely|kein(?:e[nmrs]?)?|nicht|weder|pas|ni|не|нет|ни)|n't)(?!\w)"
    r"(?:[\s*_\"'`(]+[\w']+){0,4}[\s*_\"'`(\[]*\Z"
    r"|(?:不是|不选|并非|(?<!\w)non-?|(?:incorrect|wrong|false)\s(?:answer|choice|option|label)\sis\s)"
    r"[\s*_\"'`(\[]*\Z",
    re.IGNORECASE,
)
# "The wrong answer is B", "if the answer is B": what follows is announced, but not as the answer.
_UNWANTED = re.compile(
    r"(?<!\w)(?:(?:incorrect|wrong|false|worst|cannot|can't|falsche|mauvaise|错误)"
    r"|(?:if|whether|unless|suppose|supposing|assume|assuming|is|was|could|would|thought|think)"
    r"(?:\sthat)?\s(?:the|my|your)(?:\s(?:correct|right|final|best))?)\s{0,2}\Z",
    re.IGNORECASE,
)
_THINKS = re.compile(r"(?<!\w)(?:I|we)\sthink(?:\sthat)?\s(?:the|my)[\w\s]{0,20}\Z", re.IGNORECASE)
_CLAUSE = re.compile(
    r"[.!?;:,\n]|\b(?:but|however|though|sondern|sino|mais|aber)\b|而是", re.IGNORECASE
)
# Between two choices that are said together: "A and B", "A, (B)", "A or maybe B".
ANOTHER = (
    r"[*_\"'`)\]}\s]{0,5}(?:,|/|&|\+|(?<!\w)(?:and|or|as well as)(?!\w))"
    r"(?:\s{0,2}(?:and|or)(?!\w))?(?:\s(?:maybe|perhaps|possibly|even|also)(?!\w))?"
)
JOINS = re.compile(r"(?<!\w)(?:and|or|nor|both)(?!\w)|&|/", re.IGNORECASE)
_CORRECTS = re.compile(
    r"(?<!\w)(?:but|however|wait|actually|no|hmm+|instead|rather|correction|sorry|mistake"
    r"|reconsider\w*|second thought|first)(?!\w)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?\n。？！]+")
_QUESTIONED = re.compile(rf"{_CLOSED}\s?[?？]+{_CLOSED}\s*(?=\S)")
_ASKS = re.compile(
    r"\W*(?:(?:so|but|and|hmm+|now)\W{1,3})?(?:(?:is|are|was|does|do|should|which|what|why|how|whether)(?!\w)"
    r"|(?:could|would|can|might)\s(?!be(?!\w)))",
    re.IGNORECASE,
)


def is_negated(text: str, start: int) -> bool:
    """Return whether the clause before a choice at `start` denies it: "this is not billing"."""
    before = text[max(0, start - LONGEST_CLAUSE) : start]
    clause = deque(_CLAUSE.finditer(before), maxlen=1)
    rest = before[clause[0].end() :] if clause else before
    return _NEGATION.search(rest) is not None


def is_questioned(text: str, end: int) -> bool:
    """Return whether a choice is followed by a question mark and more text: "A? Rather B."."""
    return _QUESTIONED.match(text, end) is not None


def is_asked(text: str, start: int, end: int) -> bool:
    """Return whether a choice is part of a question: "Is it A or B? I'd say B."."""
    if is_questioned(text, end):
        return True
    found = _SENTENCE_END.search(text, end, end + LONGEST_SENTENCE)
    if found is None or not {"?", "？"} & set(found[0]):
        return False
    before = text[max(0, start - LONGEST_SENTENCE) : start]
    ends = deque(_SENTENCE_END.finditer(before), maxlen=1)
    sentence = before[ends[0].end() :] if ends else before
    return _ASKS.match(sentence) is not None


def is_wanted(announced: re.Match[str]) -> bool:
    """Return whether an announcement is about the answer, unlike "The wrong answer is B"."""
    before = announced.string[max(0, announced.start() - 30) : announced.start()]
    if announced["denied"] is not None:
        return False
    return _UNWANTED.search(before) is None or _THINKS.search(before) is not None


def is_corrected(text: str, start: int, end: int) -> bool:
    """Return whether a text withdraws a statement between two places: "wait", "however"."""
    return _CORRECTS.search(text, start, end) is not None
