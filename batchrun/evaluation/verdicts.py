"""Reads the verdict of a judge from its answer. An unclear answer gives no verdict. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from batchrun.errors import JobError, quoted
from batchrun.evaluation.answer_text import fold
from batchrun.evaluation.patterns import Pattern

if TYPE_CHECKING:
    from batchrun.job import JudgeConfig


# The error types of a judge's answers that have no verdict.
UNREADABLE_VERDICT, CUT_VERDICT = "unreadable_verdict", "cut_verdict"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of a judge on an answer: its label, its score, and the reasons."""

    label: str
    score: float
    reason: str | None = None


class UnreadableVerdict(Exception):
    """The text of a judge contains no verdict, or more than one; the message says why."""


# A line such as "Verdict: right", "**Final verdict:** right" or "- Verdict = `right`".
_LINE = re.compile(
    r"^[ \t>#*_`-]*(?:final[ \t]+)?verdict[ \t*_`]*[:：=](?P<said>[^\n]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_FENCED = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)
_AROUND = " \t\r\n\"'`“”‘’«»*_.;:,!()[]{}<>$\\"
_NUMBER = re.compile(
    r"(?P<value>[-+−]?\d{1,9}(?:\.\d{1,9})?)(?:\s*(?:/|out of)\s*(?P<of>\d{1,9}))?"
)
_VERDICT_KEYS = ("verdict", "choice", "label", "score", "rating")
_REASON_KEYS = ("reason", "reasons", "reasoning", "explanation", "rationale")
LONGEST_TEXT = 1_000_000


class VerdictReader:
    """Finds the verdict in the answers of one judge.

    Args:
        config: the judge.

    Raises:
        JobError: when its pattern is wrong.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._labels = {_folded(label): label for label in config.choices}
        self._pattern = None if config.answer is None else _pattern(config.answer)

    def read(self, text: str) -> Verdict:
        """Return the verdict of a text.

        Raises:
            UnreadableVerdict: if there is none, or if it is ambiguous.
        """
        text = _THOUGHTS.sub("", text[-LONGEST_TEXT:]).strip()
        if self._pattern is not None:
            return self._by_pattern(self._pattern, text)
        if (found := self._in_json(text)) is not None:
            return found
        lines = list(_LINE.finditer(text))
        if not lines:
            return self._alone(text)
        verdicts = {self.verdict(line["said"]) for line in lines}
        if len(verdicts) > 1:
            labels = " and ".join(sorted(verdict.label for verdict in verdicts))
            raise UnreadableVerdict(f"it has several verdicts: {labels}")
        reason = _LINE.sub("", text).strip(" \t\r\n#*_-`")
        (verdict,) = verdicts
        return Verdict(verdict.label, verdict.score, reason or None)

    def verdict(self, said: object) -> Verdict:
        """Return the verdict that a whole text, or a number, stands for.

        Raises:
            UnreadableVerdict: if it is not a verdict.
        """
        if self._config.scale is not None:
            return self._number(str(said), *self._config.scale)
        label = self._labels.get(_folded(str(said)))
        if label is None:
            raise UnreadableVerdict(
                f"{quoted(str(said).strip())} is none of {', '.join(self._labels.values())}"
            )
        return Verdict(label, self._config.choices[label])

    def _number(self, said: str, low: float, high: float) -> Verdict:
        found = _NUMBER.fullmatch(said.strip(_AROUND))
        if found is None or (found["of"] is not None and float(found["of"]) != high):
            raise UnreadableVerdict(
                f"{quoted(said.strip())} is not a number from {low:g} to {high:g}"
            )
        value = float(found["value"].replace("−", "-"))
        if not low <= value <= high:
            raise UnreadableVerdict(f"{value:g} is outside the scale from {low:g} to {high:g}")
        if self._config.is_whole and value != int(value):
            raise UnreadableVerdict(f"{value:g} is not a whole number")
        return Verdict(f"{value:g}", value)

    def _by_pattern(self, pattern: Pattern, text: str) -> Verdict:
        found = pattern.find(text)
        if found is None:
            raise UnreadableVerdict("the pattern answer finds nothing")
        verdict = self.verdict(found)
        return Verdict(verdict.label, verdict.score, text)

    def _in_json(self, text: str) -> Verdict | None:
        """Return the verdict of a JSON object; None if the text is not one."""
        fenced = _FENCED.match(text)
        try:
            value = orjson.loads(text if fenced is None else fenced[1])
        except orjson.JSONDecodeError:
            return None
        if not isinstance(value, dict):
            return None
        said = [value[key] for key in _VERDICT_KEYS if key in value]
        if len(said) != 1 or isinstance(said[0], bool | dict | list):
            raise UnreadableVerdict('the JSON object does not have one "verdict"')
        verdict = self.verdict(said[0])
        reason = next((value[key] for key in _REASON_KEYS if isinstance(value.get(key), str)), None)
        return Verdict(verdict.label, verdict.score, reason)

    def _alone(self, text: str) -> Verdict:
        """Return the verdict of a text that contains nothing else."""
        try:
            return self.verdict(text)
        except UnreadableVerdict:
            raise UnreadableVerdict("it has no line such as Verdict: X") from None


def _folded(label: str) -> str:
    return fold(label.strip(_AROUND).replace("_", " ").replace("-", " ")) or label


def _pattern(source: str) -> Pattern:
    try:
        return Pattern(source)
    except ValueError as error:
        raise JobError(f"[score.judge] answer: {quoted(source)} {error}") from None
