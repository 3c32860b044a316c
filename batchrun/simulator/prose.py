"""Sentences about a prompt: what an answer says when nothing else is asked for."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrun.simulator.dice import Dice

MARK = "(simulated)"

_EXCERPT_CHARACTERS = 4_000  # long prompts are looked at from both ends only
_QUOTED_CHARACTERS = 300
_OPENINGS = (
    "This is mainly about '{0}', with '{1}' close behind.",
    "Two things stand out: '{0}' and '{1}'.",
    "What matters most here is '{0}'; '{1}' comes second.",
    "At its heart this is a question of '{0}' and '{1}'.",
    "Read as a whole, it turns on '{0}' rather than on '{1}'.",
    "The key point seems to be '{0}', seen in the light of '{1}'.",
    "In short: '{0}' first, then '{1}'.",
)
_CONTINUATIONS = (
    "that '{0}' and '{1}' belong together.",
    "mostly a matter of '{0}', and to some degree of '{1}'.",
    "'{0}' before anything else, and '{1}' after it.",
    "about '{0}' at least as much as about '{1}'.",
)
_DETAILS = (
    "The mention of '{0}' makes that clearer.",
    "It would help to look at '{0}' first.",
    "Without '{0}' the rest would be hard to judge.",
    "Taken together with '{0}', the picture is consistent.",
    "Whoever wrote this cares about '{0}'.",
    "The part about '{0}' deserves a closer look.",
    "A short follow-up on '{0}' should settle the rest.",
    "Nothing beyond '{0}' seems urgent.",
    "The wording around '{0}' leaves some room for doubt.",
    "I would come back to '{0}' at the end.",
)
_THOUGHTS = (
    "The user brings up '{0}', so I should start there.",
    "First I weigh '{0}' against what else was said.",
    "Is '{0}' really the point? It seems so.",
    "If '{0}' were left out, little would remain.",
    "Let me look at '{0}' once more.",
    "I could read '{0}' in two ways; the plain one fits better.",
    "So '{0}' settles it.",
)
_FALLBACK_TOPICS = ("the request", "its context", "the wording", "the tone", "the next step")
_TOPIC = re.compile(r"[^\W\d_]{4,24}")
_TOPICS = 8
_DULL_WORDS = (
    "about above after again also answer because been before being below between both cannot could "
    "dear does doing dont down during each even every exactly from further have having hello here hers "
    "however into itself just label labels like made make many might more most much must myself need "
    "once only other otherwise ours ourselves over please same several shall should since some still "
    "such than thank thanks that their theirs them then there these they this those though through "
    "under until upon very want was were what when where whether which while whom whose will with "
    "within without would write your yours yourself"
)
_DULL = frozenset(_DULL_WORDS.split())


def excerpt(text: str) -> str:
    """Return `text`, or both ends of it when it is long."""
    if len(text) <= _EXCERPT_CHARACTERS:
        return text
    half = _EXCERPT_CHARACTERS // 2
    return f"{text[:half]}\n{text[-half:]}"


def find_topics(prompt: str) -> list[str]:
    """Return the words that say most about the prompt: first the frequent, then the long."""
    counts = Counter(_TOPIC.findall(prompt))
    topics: dict[str, str] = {}
    for word in sorted(counts, key=lambda word: (-counts[word], -len(word), word)):
        if word.lower() not in _DULL:
            topics.setdefault(word.lower(), word)
            if len(topics) == _TOPICS:
                break
    return list(topics.values())


def telling_words(text: str) -> set[str]:
    """Return the lower-case words of `text` that say something."""
    return {word.lower() for word in _TOPIC.findall(text)} - _DULL


def talk(topics: list[str], notes: list[str], prefill: str, dice: Dice) -> str:
    """Return the mark, `notes`, and one to four sentences.

    After a prefill they go on in the middle of the first.
    """
    main, second, *others = *dice.sample(topics, 5), *_FALLBACK_TOPICS
    details = dice.sample(_DETAILS, dice.below(4))
    sentences = [
        MARK,
        *notes,
        dice.pick(_CONTINUATIONS if prefill else _OPENINGS).format(main, second),
        *(detail.format(topic) for detail, topic in zip(details, others, strict=False)),
    ]
    gap = " " if prefill and not prefill[-1].isspace() else ""
    return gap + " ".join(sentences)


def think(topics: list[str], dice: Dice) -> str:
    """Return the mark and two to seven sentences of reasoning."""
    told = [*dice.sample(topics, 5), *_FALLBACK_TOPICS]
    sentences = dice.sample(_THOUGHTS, 2 + dice.below(6))
    thoughts = (said.format(topic) for said, topic in zip(sentences, told, strict=False))
    return " ".join((MARK, *thoughts))


def quote(result: str) -> str:
    """Return a sentence that repeats what a tool returned, shortened when it is long."""
    if len(result) > _QUOTED_CHARACTERS:
        result = f"{result[:_QUOTED_CHARACTERS]}…"
    return f'The tool returned "{result}".'


def count_images(number: int) -> str:
    """Return a sentence that says how many images there were."""
    return f"I was shown {number} image{'' if number == 1 else 's'}."
