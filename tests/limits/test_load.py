"""The load that providers accept is found, and nothing else slows a run down. Time is virtual."""

from __future__ import annotations

import pytest

from tests.support.scenarios import (
    TROUBLES,
    Scenario,
    Trouble,
    all_scenarios,
    play,
    ride_out,
    share_a_limit,
)
from tests.support.simulation import (
    Bucket,
    RandomRefusals,
    Refusal,
    SimulatedProvider,
    Storms,
    simulate,
)


@pytest.mark.parametrize("scenario", [*all_scenarios()], ids=lambda scenario: scenario.name)
def test_what_is_possible_is_used_and_few_are_refused(scenario: Scenario) -> None:
    outcome = play(scenario)
    assert outcome.goodput >= scenario.least_share
    assert outcome.refused <= scenario.most_refused


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_a_trouble_of_all_is_ridden_out_together(trouble: Trouble) -> None:
    recovery = ride_out(trouble)
    assert recovery.seconds <= trouble.most_recovery_s
    assert (recovery.lost, recovery.has_stopped) == (0, False)
    assert recovery.failed <= 2 * trouble.concurrency + 100


def test_two_clients_under_one_limit_both_progress() -> None:
    first, second = share_a_limit()
    rates = [each.accepted_per_s(150, 450) for each in (first, second)]
    assert sum(rates) >= 0.95 * 20
    assert min(rates) >= 0.25 * 20
    assert max(each.refused_share(150, 450) for each in (first, second)) <= 0.03


def test_storms_once_in_a_while_are_not_taken_for_a_limit() -> None:
    spans = [(40, 50), (117, 127), (158, 168), (260, 270)]
    provider = SimulatedProvider(Storms(spans))
    simulate(provider, seconds=330, concurrency=32)
    for start, end in spans:
        assert provider.recovery_s(end, 0.8 * provider.accepted_per_s(20, 40)) <= 10, start
    assert provider.accepted_per_s(290, 330) >= 0.9 * provider.accepted_per_s(20, 40)


def test_long_waits_that_single_rows_are_told_hold_up_no_other() -> None:
    provider = SimulatedProvider(RandomRefusals(0.1, Refusal(retry_after_s=5.0)), latency_s=0.5)
    simulate(provider, seconds=120, concurrency=16)
    assert provider.accepted_per_s(20, 120) >= 0.9 * 0.9 * 32


def test_concurrency_still_grows_where_some_are_refused_at_any_load() -> None:
    provider = SimulatedProvider(RandomRefusals(0.05))
    simulate(provider, seconds=10)
    assert provider.most_in_flight >= 250


def test_random_refusals_that_begin_later_do_not_lower_a_limit_that_is_known() -> None:
    provider = SimulatedProvider(Storms([(120, 600)], share=0.05), Bucket(10, 60), latency_s=0.5)
    simulate(provider, seconds=600)
    assert provider.accepted_per_s(300, 600) >= 0.85 * 10
