"""What a run has been: by which prices it was counted, and what each model did. All frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class PriceUse:
    """Which price the costs of a model were counted by.

    Attributes:
        model: as answered.
        source: where the price is from: the price list with its version, or the job file.
        as_of_us: the moment that it holds for, in microseconds since 1970 UTC.
        matched: the model in the price list; None when the price is not known.
        rates: pico-dollars per token (input, output, cache_read, cache_write, cache_write_1h) of a
            short prompt; long ones may have a dearer tier.
    """

    model: str
    source: str
    as_of_us: int
    matched: str | None = None
    rates: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """What one model answered: attempts that succeeded, and the tokens and cost of all of them.

    `cost` is in pico-dollars, None when the price is unknown.
    """

    model: str
    answers: int
    input_tokens: int
    output_tokens: int
    cost: int | None
