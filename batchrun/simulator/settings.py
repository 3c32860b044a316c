"""The settings of the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RATES = ("error_rate", "rate_limit_rate", "stream_error_rate", "invalid_json_rate")
_BATCH_RATES = ("batch_expiry_rate", "lost_create_rate", "torn_download_rate")


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """How the simulated provider behaves.

    Attributes:
        requests_per_minute: limit; None for unlimited.
        tokens_per_minute: limit on input and `max_tokens` at admission, corrected afterwards by
            what was used; None for unlimited.
        latency_ms: mean time to an answer; each takes 0.5 to 1.5 times that, a stream to its end.
        error_rate: share of requests that fail with 500, 529 (messages) or 503 (chat), unbilled.
        rate_limit_rate: share of requests that get a 429 with a short `retry-after`, unbilled.
        seed: another seed gives other answers, latencies and errors.
        api_key: the only key that is accepted; None accepts any, and none.
        stream_error_rate: share of streams that break off, with an error event or without an end;
            they are billed.
        invalid_json_rate: share of structured answers that violate their schema.
        limit_headers: whether answers have rate-limit headers; a 429 has `retry-after` in any case.
        batch_s: mean time that a batch takes, in seconds; each takes 0.5 to 1.5 times that.
        batch_expiry_rate: share of batches that expire before all of their requests are answered.
        lost_create_rate: share of batches whose creation gets no answer although they exist.
        torn_download_rate: share of downloads of results that break off.
        enqueued_tokens: limit on the tokens of a model's open batches; None for unlimited.
        batch_directory: keeps batches for the next process; None forgets them.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    latency_ms: float = 0.0
    error_rate: float = 0.0
    rate_limit_rate: float = 0.0
    seed: int = 0
    api_key: str | None = None
    stream_error_rate: float = 0.0
    invalid_json_rate: float = 0.0
    limit_headers: bool = True
    batch_s: float = 2.0
    batch_expiry_rate: float = 0.0
    lost_create_rate: float = 0.0
    torn_download_rate: float = 0.0
    enqueued_tokens: int | None = None
    batch_directory: Path | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "enqueued_tokens"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}")
        for name in ("latency_ms", "batch_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in (*RATES, *_BATCH_RATES):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.error_rate + self.rate_limit_rate > 1:
            raise ValueError("error_rate and rate_limit_rate together must not exceed 1")
