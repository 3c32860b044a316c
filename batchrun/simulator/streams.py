"""How an answer is handed out over time: cut into pieces, spread over the latency, broken off."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.simulator.dice import Dice

_LONGEST_PIECE = 24  # characters
_BURSTS = 12  # most writes of one stream; each costs a turn of the loop
_BURST_BYTES = 200
_FIRST_SHARE = 0.4  # of the latency passes before the first event


@dataclass(frozen=True, slots=True)
class Burst:
    """What is sent at once, and the seconds before it."""

    wait_s: float
    data: bytes


@dataclass(frozen=True, slots=True)
class EventStream:
    """The body of a streamed answer.

    Attributes:
        bursts: its parts, which end anywhere: inside an event, a word or a character.
        torn: the connection is closed without an end of the body.
    """

    bursts: tuple[Burst, ...]
    torn: bool = False


def cut_text(text: str, dice: Dice) -> Iterator[str]:
    """Yield a text in pieces of 1 to 24 characters, which end inside words too."""
    start = 0
    while start < len(text):
        end = start + 1 + dice.below(_LONGEST_PIECE)
        yield text[start:end]
        start = end


def break_off(events: list[bytes], error_event: bytes, dice: Dice) -> tuple[list[bytes], bool]:
    """Return the events of a stream that fails on its way, and whether the connection is torn.

    One half fails by an error event. The other just ends: of these, one half closes the connection
    inside the body, and one half ends the body as if all was said, only without the end marker.
    """
    least = min(4, len(events) - 1)
    begun = events[: least + dice.below(len(events) - least)]
    if dice.below(2):
        return [*begun, error_event], False
    return begun, dice.below(2) == 1


def spread(events: list[bytes], latency_s: float, dice: Dice) -> tuple[Burst, ...]:
    """Cut the events' bytes anywhere, and spread them over the latency."""
    data = b"".join(events)
    ends = sorted(dice.below(len(data)) for _ in range(min(_BURSTS - 1, len(data) // _BURST_BYTES)))
    cuts = [0, *ends, len(data)]
    waits = [latency_s * _FIRST_SHARE]
    waits += [latency_s * (1 - _FIRST_SHARE) / len(ends)] * len(ends) if ends else []
    parts = (data[start:end] for start, end in itertools.pairwise(cuts))
    return tuple(Burst(wait_s, part) for wait_s, part in zip(waits, parts, strict=True) if part)
