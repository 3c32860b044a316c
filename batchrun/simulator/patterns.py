"""Texts that match a regular expression: the common part of the syntax, for schema patterns."""

from __future__ import annotations

import re
import string
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.simulator.dice import Dice

    Sampler = Callable[[Dice], str]

_MORE = 3  # how far an open repetition goes beyond its least
_MOST = 1_000  # repetitions of one part, whatever the pattern asks for
_TRIES = 8
_WORD = string.ascii_letters + string.digits + "_"
_PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "
_CLASSES = {
    "d": string.digits,
    "w": _WORD,
    "s": " ",
    "D": string.ascii_letters,
    "W": " -",
    "S": string.ascii_letters + string.digits,
}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}
_EMPTY = "bBAZ"
_REPEAT = re.compile(r"([*+?])|\{(\d*)(,?)(\d*)\}")
_GROUP = re.compile(r"\?(?::|P?<\w+>)")


def sample_pattern(pattern: str, dice: Dice) -> str | None:
    """Return a text that matches `pattern`; None when none was found."""
    try:
        sampler, check = _compile(pattern)
    except (re.error, ValueError, IndexError, RecursionError):
        return None
    drawn = (sampler(dice) for _ in range(_TRIES))
    return next(filter(check.search, drawn), None)


@lru_cache(maxsize=256)
def _compile(pattern: str) -> tuple[Sampler, re.Pattern[str]]:
    check = re.compile(pattern)
    parser = _Parser(pattern)
    sampler = parser.alternatives()
    if parser.place < len(pattern):
        raise ValueError(pattern)
    return sampler, check


class _Parser:
    """Reads a pattern once, from the left, into functions that draw a matching text."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.place = 0

    def alternatives(self) -> Sampler:
        options = [self._sequence()]
        while self._peek() == "|":
            self.place += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else lambda dice: dice.pick(options)(dice)

    def _sequence(self) -> Sampler:
        parts: list[Sampler] = []
        while (character := self._peek()) and character not in "|)":
            parts.append(self._repeated(self._atom()))
        return lambda dice: "".join(part(dice) for part in parts)

    def _repeated(self, part: Sampler) -> Sampler:
        match = _REPEAT.match(self.pattern, self.place)
        if match is None:
            return part
        self.place = match.end()
        if self._peek() in {"?", "+"}:  # lazy and possessive repetitions match the same texts
            self.place += 1
        low, high = _bounds(match)
        return lambda dice: "".join(part(dice) for _ in range(low + dice.below(high - low + 1)))

    def _atom(self) -> Sampler:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return _any_of(self._class())
        if character == "\\":
            return _any_of(self._escape())
        if character == ".":
            return _any_of(_WORD)
        return _literally("" if character in "^$" else character)

    def _group(self) -> Sampler:
        if self._peek() == "?":
            opening = _GROUP.match(self.pattern, self.place)
            if opening is None:  # what looks around, or refers back
                raise ValueError(self.pattern)
            self.place = opening.end()
        inner = self.alternatives()
        if self._next() != ")":
            raise ValueError(self.pattern)
        return inner

    def _escape(self) -> str:
        """Return the characters that the escape after a backslash stands for."""
        character = self._next()
        if character in _EMPTY:
            return ""
        if character.isdigit() or character in "xuUpPk":
            raise ValueError(self.pattern)
        return _CLASSES.get(character) or _CONTROLS.get(character) or character

    def _class(self) -> str:
        """Return the characters that a bracketed class allows."""
        negated = self._peek() == "^"
        self.place += negated
        allowed: list[str] = []
        while (character := self._next()) != "]" or not allowed:
            members = self._escape() if character == "\\" else character
            is_range = self._peek() == "-" and self.pattern[self.place + 1] != "]"
            if is_range and len(members) == 1:
                self.place += 1
                last = self._next()
                last = self._escape() if last == "\\" else last
                members = "".join(map(chr, range(ord(members), min(ord(last), 0x2FF) + 1)))
            allowed.append(members)
        inside = "".join(allowed)
        return "".join(each for each in _PRINTABLE if each not in inside) if negated else inside

    def _peek(self) -> str:
        return self.pattern[self.place : self.place + 1]

    def _next(self) -> str:
        self.place += 1
        return self.pattern[self.place - 1]


def _bounds(match: re.Match[str]) -> tuple[int, int]:
    """Return the least and the most repetitions that are drawn."""
    sign, low, comma, high = match.groups()
    if sign:
        return {"*": (0, _MORE), "+": (1, 1 + _MORE), "?": (0, 1)}[sign]
    least = min(int(low or 0), _MOST)
    if high:
        return least, max(least, min(int(high), _MOST))
    return least, least + _MORE if comma else least


def _any_of(characters: str) -> Sampler:
    return lambda dice: dice.pick(characters) if characters else ""


def _literally(text: str) -> Sampler:
    return lambda _: text
