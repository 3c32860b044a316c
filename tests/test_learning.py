"""The rate of a provider that tells none is found by its refusals. Time is the test's own."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from batchrun.limits.learning import Learner

STEP_S = 0.01
COOLDOWN_S = 1.0
FASTEST_PER_S = 40.0


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Provider:
    """A bucket that refills with `per_minute` and tells nothing but no."""

    clock: Clock
    per_minute: float
    burst: float
    held: float = field(init=False)
    looked_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.held, self.looked_at = self.burst, self.clock()

    def accepts(self, amount: float) -> bool:
        refilled = (self.clock() - self.looked_at) * self.per_minute / 60
        self.held, self.looked_at = min(self.burst, self.held + refilled), self.clock()
        if self.held < amount:
            return False
        self.held -= amount
        return True


@dataclass
class Client:
    """Sends as fast as the learned rate allows; after a refusal it waits for a while."""

    clock: Clock
    learner: Learner
    accepted: int = 0
    refused: int = 0
    credit: float = 0.0
    quiet_until: float = 0.0

    def send_for(self, seconds: float, provider: Provider, amount: float = 1.0) -> None:
        end = self.clock() + seconds
        while self.clock() < end:
            self.clock.now += STEP_S
            pace = min(FASTEST_PER_S * amount, self.learner.per_minute / 60)
            self.credit = min(2 * amount, self.credit + pace * STEP_S)
            if self.credit >= amount and self.clock() >= self.quiet_until:
                self.credit -= amount
                self.send(provider, amount)

    def send(self, provider: Provider, amount: float) -> None:
        sent_at = self.clock()
        self.learner.take(amount)
        if provider.accepts(amount):
            self.accepted += 1
            self.learner.succeeded(sent_at)
            return
        self.refused += 1
        self.quiet_until = sent_at + COOLDOWN_S
        self.learner.refused(amount, sent_at, is_first=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(clock: Clock) -> Client:
    return Client(clock, Learner(clock))


def test_nothing_is_held_back_until_something_is_refused(clock: Clock, client: Client) -> None:
    client.send_for(60, Provider(clock, math.inf, math.inf))
    assert client.learner.per_minute == math.inf
    assert client.accepted == pytest.approx(60 * FASTEST_PER_S, rel=0.01)


@pytest.mark.parametrize("burst_s", [1, 10, 60])
@pytest.mark.parametrize("per_minute", [120, 600, 1_500])
def test_the_rate_is_found_with_few_refusals(
    clock: Clock, client: Client, per_minute: float, burst_s: float
) -> None:
    provider = Provider(clock, per_minute, burst=max(2.0, per_minute * burst_s / 60))
    client.send_for(180, provider)
    accepted, refused = client.accepted, client.refused
    client.send_for(300, provider)
    later = client.accepted - accepted
    assert later >= 0.85 * per_minute * 5
    assert client.refused - refused <= 0.05 * later
    assert client.refused <= 0.05 * client.accepted


@pytest.mark.parametrize("amount", [50.0, 4_000.0])
def test_tokens_are_learned_as_requests_are(clock: Clock, client: Client, amount: float) -> None:
    provider = Provider(clock, 300 * amount, burst=20 * amount)
    client.send_for(180, provider, amount)
    assert client.learner.per_minute == pytest.approx(300 * amount, rel=0.15)


def test_a_limit_that_rises_is_followed(clock: Clock, client: Client) -> None:
    provider = Provider(clock, 300, burst=20)
    client.send_for(120, provider)
    provider.per_minute = 900
    client.send_for(240, provider)
    accepted = client.accepted
    client.send_for(60, provider)
    assert client.accepted - accepted >= 0.85 * 900


def test_a_limit_that_falls_is_followed(clock: Clock, client: Client) -> None:
    provider = Provider(clock, 900, burst=20)
    client.send_for(120, provider)
    provider.per_minute = 300
    client.send_for(240, provider)
    accepted, refused = client.accepted, client.refused
    client.send_for(120, provider)
    assert client.accepted - accepted >= 0.85 * 600
    assert client.refused - refused <= 0.05 * 600


def test_refusals_that_no_rate_avoids_teach_none(clock: Clock, client: Client) -> None:
    """One in twelve is refused at whatever pace: to go slower would only cost time."""
    rng = random.Random(5)

    class Overloaded(Provider):
        def accepts(self, amount: float) -> bool:
            return rng.random() > 1 / 12

    provider = Overloaded(clock, math.inf, math.inf)
    client.send_for(300, provider)
    accepted = client.accepted
    client.send_for(300, provider)
    # What the cooldowns leave: eleven answers take as many steps, and one second is waited.
    ideal = 300 * 11 / (12 / FASTEST_PER_S + COOLDOWN_S)
    assert client.accepted - accepted >= 0.6 * ideal


def test_what_was_not_used_does_not_count(clock: Clock) -> None:
    """A reservation of 100 tokens settled at 40 has taken 40 from the provider's bucket."""
    learner = Learner(clock)
    refuse(learner, clock, 100, 20)
    for _ in range(2):
        for _ in range(100):
            clock.now += 0.1
            learner.take(100)
            learner.refund(60)
            learner.succeeded(clock())
        refuse(learner, clock, 100, 1)
    assert learner.per_minute == pytest.approx(0.95 * 40 * 10 * 60, rel=0.05)


def test_answers_to_what_was_sent_before_the_refusal_dare_nothing(clock: Clock) -> None:
    learner = Learner(clock)
    for _ in range(50):
        clock.now += 0.1
        learner.take(1)
    refuse(learner, clock, 1, 5)
    learned = learner.per_minute
    learner.succeeded(clock() - 1)
    assert learner.per_minute == learned
    clock.now += 0.1
    learner.succeeded(clock())
    assert learner.per_minute > learned


def refuse(learner: Learner, clock: Clock, amount: float, times: int) -> None:
    """Send so many requests at once that are all refused."""
    clock.now += 0.1
    for number in range(times):
        learner.take(amount)
        learner.refused(amount, clock(), is_first=number == 0)
