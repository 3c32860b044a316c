"""Finds the part of a text that is the answer, and compares texts without regard to their spelling. No I/O."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from typing import Any

import orjson

# An answer stands at the end, so only the end of a longer text is searched, and only its last boxes.
LONGEST_TEXT = 100_000
MOST_BOXES = 50
LONGEST_BOX = 2_000
# Keys of a JSON object that hold the answer, the most definite first.
ANSWER_KEYS = ("final_answer", "answer", "choice", "label", "category", "result", "prediction")

_THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)>", re.IGNORECASE)
_END_OF_THOUGHTS = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_TAG = re.compile(
    r"<(?P<tag>final_answer|answer|choice|label)>(?P<inner>[^<]{0,2000})</(?P=tag)>", re.IGNORECASE
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
# "\boxed{A}? No.": what a text marks and takes back at once.
_TAKEN_BACK = re.compile(
    r"[$*_`.)\]\\\s]{0,8}(?:[?？]\s{0,3}(?:(?:hmm+|well)\W{1,3})?(?:no|nope|not|wait|actually|rather|incorrect|wrong)"
    r"|(?:is|was|would be)\s(?:not\s(?:right|correct)|incorrect|wrong|false))(?!\w)",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```[\w-]{0,20}[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_PAIRS = (
    re.compile(r"(\*{1,3})(?=\S)([^*\n]{1,2000}?)(?<=\S)\1"),
    re.compile(r"(?<!\w)(_{1,3})(?=\S)([^_\n]{1,2000}?)(?<=\S)\1(?!\w)"),
    re.compile(r"(`{1,3})([^`\n]{1,2000}?)\1"),
    re.compile(r"(~~)([^~\n]{1,2000}?)\1"),
)
_HEADING = re.compile(r"^[ \t]*(?:#{1,6}|>|[-*+])[ \t]+", re.MULTILINE)
_AROUND = " \t\r\n\"'`“”‘’«»„*_~.,;:!?…()[]{}<>"
_SAME = str.maketrans("’‘‛`´“”„«»‐‑‒–—−", "'''''\"\"\"\"\"------")


def without_thoughts(text: str) -> str:
    """Return a text without the thoughts that a model wrote before its answer, in `<think>` or similar tags.

    If the thoughts do not end, because the answer was truncated, the result is empty.
    """
    ends = [found.end() for found in _END_OF_THOUGHTS.finditer(text)]
    rest = text[ends[-1] :] if ends else text
    begin = _THOUGHTS.search(rest)
    return rest if begin is None else rest[: begin.start()]


def marked_answer(text: str) -> str | None:
    r"""Return the part that a text marks as its answer; None if nothing is marked.

    A mark is `\boxed{…}`, a tag such as `<answer>`, or a field such as `answer` of a JSON object. The
    last one counts, and a box takes precedence over a tag. A mark that is withdrawn at once does not
    count: `\boxed{A}? No. The answer is B.`
    """
    text = text[-LONGEST_TEXT:]
    box = _last_box(text)
    if box is not None:
        return box
    tags = [
        found["inner"] for found in _TAG.finditer(text) if not _is_taken_back(text, found.end())
    ]
    return tags[-1] if tags else _answer_field(text)


def _last_box(text: str) -> str | None:
    """Return the content of the last box that is closed and not withdrawn."""
    for found in reversed(deque(_BOX.finditer(text), maxlen=MOST_BOXES)):
        depth = 1
        for place in range(found.end(), min(len(text), found.end() + LONGEST_BOX)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                if _is_taken_back(text, place + 1):
                    break
                return text[found.end() : place]
    return None


def _is_taken_back(text: str, end: int) -> bool:
    return _TAKEN_BACK.match(text, end) is not None


def _answer_field(text: str) -> str | None:
    text = text.strip()
    fenced = _FENCE.findall(text)
    for candidate in (text, *reversed(fenced)):
        if not candidate.lstrip().startswith("{"):
            continue
        try:
            value: Any = orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
        fields = {key.casefold().replace(" ", "_"): field for key, field in value.items()}
        for key in ANSWER_KEYS:
            if key in fields and fields[key] is None:
                return ""  # an answer that says it has none
            if isinstance(field := fields.get(key), str | int | float) and field is not True:
                return str(field)
    return None


def normalized(text: str) -> str:
    """Return a text in one Unicode form (NFKC), with plain quotes and dashes and single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_SAME).split())


def without_markdown(text: str) -> str:
    """Return a text without markdown for emphasis, code, headings and lists."""
    text = _HEADING.sub("", text)
    for pair in _PAIRS:
        text = pair.sub(r"\2", text)
    return text


def fold(text: str) -> str:
    """Return a normal form of a text: texts that differ only in spelling have the same form.

    Differences in case, spaces, markdown, Unicode form, and punctuation around the text are removed.
    """
    plain = normalized(without_markdown(text)).casefold()
    return plain.strip(_AROUND) or plain
