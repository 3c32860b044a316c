"""Writes sentences about a prompt: the answer if nothing else is asked for."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrun.simulator.calls import PromptText
    from batchrun.simulator.draws import RandomDraws

MARK = "(simulated)"

_EXCERPT_CHARACTERS = 4_000
_QUOTED_CHARACTERS = 300
_OPENINGS = (
    "This is mainly about '{0}', with '{1}' close behind.",
    "Two things stand out: '{0}' and '{1}'.",
    "What matters most here is '{0}'; '{1}' comes second.",
    "The key point seems to be '{0}', together with '{1}'.",
    "In short: '{0}' first, then '{1}'.",
)
_DETAILS = (
    "The mention of '{0}' makes that clearer.",
    "It would help to look at '{0}' first.",
    "Without '{0}' the rest would be hard to judge.",
    "The part about '{0}' deserves a closer look.",
    "A short follow-up on '{0}' should settle the rest.",
    "Nothing beyond '{0}' seems urgent.",
    "The wording around '{0}' leaves some room for doubt.",
    "I would come back to '{0}' at the end.",
)
_FALLBACK_TOPICS = ("the request", "its context", "the wording", "the tone", "the next step")
_TOPIC = re.compile(r"[^\W\d_]{4,24}")
_MOST_TOPICS = 8
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "about above after again also answer because been before being both could does down each "
        "even every exactly from have having hello here into just label labels like made make many "
        "more most must need only other over please same shall should some such than thank thanks "
        "that their them then there these they this those under until very want were what when "
        "where which while will with would write your",
    )
)
RESULT_MARK = "####"  # prompts of arithmetic problems ask for the result behind it
_MOST_NUMBERS = 6
_NUMBER = re.compile(r"(?<![\w.])\d{1,9}(?:,\d{3})*(?:\.\d{1,6})?(?!\w)")


def excerpt(text: str) -> str:
    """Return `text`, or both ends of it when it is long."""
    if len(text) <= _EXCERPT_CHARACTERS:
        return text
    half = _EXCERPT_CHARACTERS // 2
    return f"{text[:half]}\n{text[-half:]}"


def find_topics(text: str) -> list[str]:
    """Return the most characteristic words of `text`: first the frequent, then the long ones."""
    counts = Counter(_TOPIC.findall(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], -len(word), word))
    topics: dict[str, str] = {}
    for word in ranked:
        if word.lower() not in _STOP_WORDS:
            topics.setdefault(word.lower(), word)
            if len(topics) == _MOST_TOPICS:
                break
    return list(topics.values())


def keywords(text: str) -> set[str]:
    """Return the characteristic words of `text` in lower case."""
    return {word.lower() for word in _TOPIC.findall(text)} - _STOP_WORDS


def describe(topics: list[str], draws: RandomDraws) -> str:
    """Return one to four sentences."""
    main, second, *others = *draws.sample(topics, 5), *_FALLBACK_TOPICS
    details = draws.sample(_DETAILS, draws.below(4))
    opening = draws.pick(_OPENINGS).format(main, second)
    said = (detail.format(topic) for detail, topic in zip(details, others, strict=False))
    return " ".join((opening, *said))


def write_prose(prompt: PromptText, topics: list[str], draws: RandomDraws) -> str:
    """Return a whole text: the mark, what was shown or returned, and a few sentences."""
    sentences = [MARK]
    if prompt.images:
        sentences.append(f"I was shown {prompt.images} image{'s' * (prompt.images > 1)}.")
    for result in prompt.results:
        shown = result[:_QUOTED_CHARACTERS]
        sentences.append(f'The tool returned "{shown}{"…" * (shown != result)}".')
    sentences.append(describe(topics, draws))
    gap = " " if prompt.prefill and not prompt.prefill[-1].isspace() else ""
    text = gap + " ".join(sentences)
    if RESULT_MARK in prompt.system or RESULT_MARK in prompt.question:
        text += f"\n{RESULT_MARK} {_guess(excerpt(prompt.question), draws)}"
    return text


def _guess(problem: str, draws: RandomDraws) -> str:
    """Return what may be the result of a problem: a sum, a product or the like of its numbers."""
    found = [float(text.replace(",", "")) for text in _NUMBER.findall(problem)[:_MOST_NUMBERS]]
    first, second, *_ = [*found, 1.0, 1.0]
    guesses = (sum(found), first - second, first * second, first / (second or 1.0))
    return f"{draws.pick(guesses):.10g}"
