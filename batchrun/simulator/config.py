"""How the simulated provider behaves."""

from __future__ import annotations

from dataclasses import dataclass

_RATES = ("error_rate", "rate_limit_rate", "stream_error_rate", "invalid_json_rate")


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
        stream_error_rate: share of streams that break off, by an error event or without any end;
            they are billed.
        invalid_json_rate: share of structured answers that violate their schema.
        limit_headers: whether answers tell the limits; a 429 says `retry-after` in any case.
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

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}")
        if self.latency_ms < 0:
            raise ValueError(f"latency_ms must not be negative, got {self.latency_ms}")
        for name in _RATES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.error_rate + self.rate_limit_rate > 1:
            raise ValueError("error_rate and rate_limit_rate together must not exceed 1")
