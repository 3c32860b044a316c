"""What the simulator says: one of the prompt's labels, or a few sentences about the prompt.

Everything follows from the call and the dice. The text is worked out whole; how it is cut by
`max_tokens` and stop sequences is decided here too, so that a stream can hand it out in pieces.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from batchrun.simulator.dice import Dice
from batchrun.simulator.labels import find_offer, rank_labels

if TYPE_CHECKING:
    from batchrun.simulator.calls import Call

_BYTES_PER_TOKEN = 4
_EXCERPT_CHARACTERS = 4_000  # long prompts are looked at from both ends only
_REDRAWS = 8
_MARK = "(simulated)"

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


class Ending(Enum):
    """Why an answer ends where it does."""

    COMPLETE = auto()
    MAX_TOKENS = auto()
    STOP = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice.

    Attributes:
        text: what is said, after the prefill if there was one.
        tokens: what it costs.
        ending: why it ends.
        stop: the stop sequence that ended it.
    """

    text: str
    tokens: int
    ending: Ending
    stop: str | None = None


def count_tokens(text: str) -> int:
    """Estimate tokens from UTF-8 length: 4 Latin, 2 Cyrillic or 1.3 Chinese characters in each."""
    size = len(text) if text.isascii() else len(text.encode())
    return -(-size // _BYTES_PER_TOKEN)


def compose(call: Call, *key: int | bytes) -> tuple[Answer, ...]:
    """Return the choices for `call`, as different from each other as the prompt allows."""
    prompt = _excerpt(call.prompt)
    in_system = find_offer(_excerpt(call.system))
    if offer := in_system or find_offer(prompt):
        ranked = rank_labels(offer.labels, prompt if in_system else offer.rest, Dice(*key))
        texts = _labels(ranked, call)
    else:
        texts = _prose(prompt or call.system, call, key)
    return tuple(_cut(text, call) for text in texts)


def _labels(ranked: list[str], call: Call) -> list[str]:
    """Return the best labels; of one that the prefill has begun, only the rest."""
    begun = call.prefill.rpartition("\n")[2].strip().lower()
    fitting = [label[len(begun) :] for label in ranked if label.lower().startswith(begun)] or ranked
    return [fitting[place % len(fitting)] for place in range(call.choices)]


def _prose(prompt: str, call: Call, key: tuple[int | bytes, ...]) -> list[str]:
    topics = _topics(prompt)
    texts: list[str] = []
    for place in range(call.choices):
        for redraw in range(_REDRAWS):
            text = _sentences(topics, call.prefill, Dice(*key, place, redraw))
            if text not in texts:
                break
        texts.append(text)
    return texts


def _sentences(topics: list[str], prefill: str, dice: Dice) -> str:
    """Return one to four sentences, which go on in the middle of the first after a prefill."""
    main, second, *others = *dice.sample(topics, 5), *_FALLBACK_TOPICS
    details = dice.sample(_DETAILS, dice.below(4))
    sentences = [
        _MARK,
        dice.pick(_CONTINUATIONS if prefill else _OPENINGS).format(main, second),
        *(detail.format(topic) for detail, topic in zip(details, others, strict=False)),
    ]
    gap = " " if prefill and not prefill[-1].isspace() else ""
    return gap + " ".join(sentences)


def _topics(prompt: str) -> list[str]:
    """Return the words that say most about the prompt: first the frequent, then the long."""
    counts = Counter(_TOPIC.findall(prompt))
    topics: dict[str, str] = {}
    for word in sorted(counts, key=lambda word: (-counts[word], -len(word), word)):
        if word.lower() not in _DULL:
            topics.setdefault(word.lower(), word)
            if len(topics) == _TOPICS:
                break
    return list(topics.values())


def _cut(text: str, call: Call) -> Answer:
    """End the text before the first stop sequence, and within `max_tokens`."""
    ending, stop = Ending.COMPLETE, None
    if found := min(((text.find(stop), stop) for stop in call.stops if stop in text), default=None):
        at, stop = found
        text, ending = text[:at], Ending.STOP
    if call.max_tokens is not None and count_tokens(text) > call.max_tokens:
        room = call.max_tokens * _BYTES_PER_TOKEN
        text = text.encode()[:room].decode(errors="ignore")
        ending, stop = Ending.MAX_TOKENS, None
    return Answer(text, max(1, count_tokens(text)), ending, stop)


def _excerpt(text: str) -> str:
    if len(text) <= _EXCERPT_CHARACTERS:
        return text
    half = _EXCERPT_CHARACTERS // 2
    return f"{text[:half]}\n{text[-half:]}"
