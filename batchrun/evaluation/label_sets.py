"""Sets of labels in a cell or an answer: `bug, billing`, `["bug", "billing"]`, or a list of lines."""

from __future__ import annotations

import re

from batchrun.evaluation.answer_text import fold, without_markdown
from batchrun.evaluation.choices import choices_of
from batchrun.evaluation.json_values import find_json

MOST_LABELS = 1_000
_BETWEEN = re.compile(r"[,;\n|]|\s(?:and|&)\s")
_LEAD = re.compile(r"\A[\w ]{0,30}:\s")
# What stands for an empty set.
_NOTHING = {"", "none", "[]", "n/a", "no labels", "nothing", "null"}


def read_labels(value: object, choices: tuple[str, ...] = ()) -> frozenset[str]:
    """Return the labels of a cell or an answer.

    Labels that differ only in spelling count as one. With `choices`, labels get the spelling of a choice; other
    text stays as a separate label, so that it counts as a wrong one.
    """
    texts = [str(each) for each in value] if isinstance(value, list) else _parts(str(value or ""))
    known = {fold(label.replace("_", " ")): label for label in choices}
    found = {}
    for text in texts[:MOST_LABELS]:
        plain = fold(without_markdown(text).replace("_", " ")) if known else fold(text)
        if plain not in _NOTHING:
            found[plain] = known.get(plain) or _picked(text, choices) or plain
    return frozenset(found.values())


def _picked(text: str, choices: tuple[str, ...]) -> str | None:
    return choices_of(choices).find(text) if choices else None


def _parts(text: str) -> list[str]:
    try:
        value = find_json(text, list)
    except ValueError:
        value = None
    if isinstance(value, dict):
        value = next((inner for inner in value.values() if isinstance(inner, list)), None)
    if isinstance(value, list):
        return [str(each) for each in value]
    return _BETWEEN.split(_LEAD.sub("", without_markdown(text).strip()))
