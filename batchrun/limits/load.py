"""Learns from refusals what load a provider accepts: how fast, and how many at a time.

Refusals of a provider that does not report its limits are of two kinds. Some depend on the load: with less
load they end. Others occur at any load, and to send more slowly only costs time. A refusal does not show its
kind; an experiment does. When enough requests are refused, a trial sends a little less for a while than was
accepted before. Fewer refusals prove a limit. As many as before prove that there is none, and the load
returns to what it was.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchrun.limits.rate_estimator import LONG_MEASURE_S, Measure, RateEstimator
from batchrun.limits.trials import (
    NEAR,
    TOLERATED,
    Experiment,
    InFlightLimit,
    Lowered,
    RateUnit,
    Refusal,
    Trial,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# This many refusals beyond those that are tolerated begin a measure or a trial. Of refusals that occur at
# any load, half as many again are tolerated.
NOTICED = 3.0
BACKGROUND_FACTOR = 1.5
# A trial of the rate sends this share of what was accepted before.
TRIAL_FACTOR = 0.95
# A trial that found nothing is repeated if refusals continue: after ten times as long as it took, so
# that trials cost little, and then after twice as long each time.
REST_FACTOR = 10.0
SHORTEST_REST_S, LONGEST_REST_S = 30.0, 600.0
REST_REQUESTS = 300
MOST_DOUBLINGS = 10
# To see whether the number in flight is limited and not the rate, a trial allows a little more in flight
# than a limit of the rate would accept. That number is a guess: a refusal lowers it by a step, at most this
# many times.
MORE_IN_FLIGHT = 1.05
CLOSE_GUESS, ROUGH_GUESS = 4, 8
SHRINK_SHARE = 0.025
# A search that reached this multiple of the average accepted rate may have met another limit.
FAR = 1.2
# After this many refusals below a confirmed limit, the limit has fallen or another one applies.
EARLY_REFUSALS = 3
# Counts that differ by at most this share belong to one limit that was used up each time.
EQUAL_COUNT = 0.1
# After a longer pause the allowance had returned all at once; after a shorter one it had flowed in.
LONG_PAUSE_S = 2.0
# The average latency is that of about twenty answers.
LATENCY_MEMORY = 0.95
SETTLED_FACTOR = 5.0  # a measure of tokens takes at least this many latencies


class LoadControl:
    """Learns the load that an endpoint accepts.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.rates = {unit: RateEstimator(clock) for unit in RateUnit}
        self.in_flight = InFlightLimit(clock)
        self.number = 0  # of the last request that was sent
        self.tokens = 0.0  # that were sent, without what answers did not use
        self.is_active = False  # rates change as time passes
        self.latency_s = 0.0  # of answers, on average
        self._score = 0.0
        self._latest = 0  # number of the latest refusal
        self._marked = 0  # number of the last request before the mark
        self._refused = 0  # requests since then
        self._early = 0  # refusals below the limit in a row
        self._accepted_before: float | None = None  # in the measure before
        self._exhausted: RateUnit | None = None  # what seems to be used up now
        self._exhausted_at = 0.0
        self._reached_per_s = 0.0  # the rate at that time
        self._paused_s = 0.0  # from then until something was accepted
        self._is_periodic = False  # an allowance returns all at once, as with a window per minute
        self._trial: Trial | None = None
        self._background = 0.0  # share that is refused at any load
        self._rest_until = self._in_flight_rest_until = -math.inf
        self._rests = self._in_flight_rests = 0

    @property
    def is_rate_known(self) -> bool:
        """Whether a rate was found that the provider accepts, and no more."""
        return self.is_active and self._trial is None

    def rate_per_s(self, unit: RateUnit) -> float:
        """Return the rate to send at; infinite without a limit.

        The rate includes the share of requests that is refused at any load.
        """
        return self.rates[unit].rate_per_s() / (1 - self._background)

    def note_sent(self, tokens: float) -> None:
        """A request is sent."""
        self.number += 1
        self.tokens += tokens
        if self.is_active:
            for estimator in self.rates.values():
                estimator.note_sent()

    def note_unused(self, tokens: float) -> None:
        """Tokens that were counted as sent turned out not to be used."""
        self.tokens -= tokens

    def note_success(self, latency_s: float, *, was_full: bool) -> None:
        """A request was answered."""
        memory = LATENCY_MEMORY if self.latency_s else 0.0
        self.latency_s = memory * self.latency_s + (1 - memory) * latency_s
        if was_full and self.in_flight.is_known and self._trial is None:
            self.in_flight.grow()

    def note_refusal(self, refused: Refusal, *, counts: bool) -> bool:
        """Learn from a refusal; return whether all requests should pause because a limit is used up.

        Args:
            refused: the refused request.
            counts: it was sent before any pause began, so it is new information.
        """
        self.rates[RateUnit.REQUESTS].note_refused(1, refused.sent_at)
        self.rates[RateUnit.TOKENS].note_refused(refused.tokens, refused.sent_at)
        self._refused += refused.number > self._marked
        if not counts:
            return False
        if self._trial is not None:
            self._judge(self._trial, refused)
            return False
        if not self._is_noticed(refused):
            self._repeat_trial(refused.unit)
            return False
        if self.in_flight.is_known and refused.was_full and self.in_flight.shrink(self.latency_s):
            self._score = 0.0
            return False
        if self.rates[refused.unit].limit_per_s is None:
            measure = self._measure(refused.unit)
            if measure is not None and not measure.is_sufficient:
                return False
        self.note_exhausted(refused.unit)
        return True

    def note_exhausted(self, unit: RateUnit) -> None:
        """All requests pause until one is accepted again."""
        if self._exhausted is None:
            self._exhausted, self._exhausted_at = unit, self._clock()
            self._reached_per_s = self.rates[unit].rate_per_s()
            # Answers return tokens that were reserved for them: the sum at this moment is more exact than
            # the sum at the end of the pause.
            self.rates[RateUnit.TOKENS].freeze(self.tokens)

    def note_recovered(self) -> None:
        """After a pause something was accepted again: use what was accepted since the last pause."""
        unit, self._exhausted = self._exhausted, None
        if unit is not None and self._trial is None:
            self._paused_s = self._clock() - self._exhausted_at
            self._use_measure(unit)
        self.rates[RateUnit.TOKENS].thaw()

    def _use_measure(self, unit: RateUnit) -> None:
        measure = self._measure(unit)
        if measure is None:
            self._accepted_before = self.number - self._refused
            self._mark()
        elif self.rates[unit].limit_per_s is not None:
            self._keep_to_limit(unit, measure)
        elif measure.is_sufficient:
            # A refusal that names tokens is due to a limit of tokens.
            if unit is RateUnit.TOKENS or not self._is_storm(measure):
                self._begin_rate_trial(unit, measure)
            self._mark()

    def end_complete_trial(self, delay_s: float) -> None:
        """End a trial that sent enough without failing; a refusal takes `delay_s` to arrive."""
        trial, now = self._trial, self._clock()
        if trial is None or not trial.is_complete(self.number, now, delay_s):
            return
        if trial.experiment.explains_less(trial.sent_per_s(self.number, now)):
            self._fail(trial)
        else:
            self._pass(trial.experiment)

    def _is_noticed(self, refused: Refusal) -> bool:
        """Count a refusal; return whether there are too many."""
        tolerated = TOLERATED + BACKGROUND_FACTOR * self._background
        gap = max(0, refused.number - self._latest)
        self._latest = max(self._latest, refused.number)
        self._score = max(0.0, self._score - tolerated * gap) + 1
        is_rate_known = self.rates[refused.unit].limit_per_s is not None
        is_expected = is_rate_known or (self.in_flight.is_known and refused.was_full)
        return self._score >= (1.0 if is_expected and not self._background else NOTICED)

    def _repeat_trial(self, unit: RateUnit) -> None:
        """Repeat a trial that found refusals at any load, once its rest is over."""
        if self._background and self._clock() >= self._rest_until:
            measure = self._measure(unit)
            if measure is not None and measure.is_sufficient:
                self._begin_rate_trial(unit, measure)

    def _measure(self, unit: RateUnit) -> Measure | None:
        """Return what was accepted since the mark; None without one."""
        requests = self.number - self._marked
        share = self._refused / max(1, requests)
        accepted, estimator = requests - self._refused, self.rates[unit]
        if unit is RateUnit.REQUESTS:
            return estimator.measure(self.number, accepted, share, 0.0)
        # Tokens are known only with the answer: few of them may be in flight.
        return estimator.measure(self.tokens, accepted, share, SETTLED_FACTOR * self.latency_s)

    def _mark(self) -> None:
        self.rates[RateUnit.REQUESTS].mark(self.number)
        self.rates[RateUnit.TOKENS].mark(self.tokens)
        self._marked, self._refused, self._score = self.number, 0, 0.0

    def _is_storm(self, measure: Measure) -> bool:
        """Return whether long pauses are outages of the provider rather than a limit.

        Between pauses at a limit the same number is accepted each time, between outages any number.
        """
        before, self._accepted_before = self._accepted_before, measure.requests
        if self._paused_s < LONG_PAUSE_S or measure.seconds < LONG_MEASURE_S or before is None:
            return False
        return abs(measure.requests / max(before, 1) - 1) > EQUAL_COUNT

    def _keep_to_limit(self, unit: RateUnit, measure: Measure) -> None:
        """Refusals came at a known limit: correct it if the measure is exact enough."""
        estimator = self.rates[unit]
        self._score = 0.0
        if estimator.is_searching:
            self._end_search(unit, measure)
        elif not estimator.is_below_limit:
            self._early = 0
            if not measure.is_long:
                estimator.dip()
                return
            self._correct(unit, measure)
            if self._may_try_in_flight(unit):
                self._begin_in_flight_trial(unit, measure, MORE_IN_FLIGHT * measure.requests_per_s)
        else:
            self._early += 1
            if self._early > 1 and (self._early < EARLY_REFUSALS or not measure.is_rough):
                estimator.dip()
                return
            if self._early == 1:
                estimator.dip()
            else:
                self._doubt(unit, measure)
        self._mark()

    def _doubt(self, unit: RateUnit, measure: Measure) -> None:
        """Refusals came below the limit: the number in flight is limited, or the limit has fallen."""
        self._early = 0
        if not self._may_try_in_flight(unit):
            self._begin_rate_trial(unit, measure)
            return
        estimator = self.rates[unit]
        estimator.limit(
            min(estimator.limit_per_s or math.inf, measure.per_s), measure.requests_per_s
        )
        self._begin_in_flight_trial(unit, measure, MORE_IN_FLIGHT * measure.requests_per_s)

    def _end_search(self, unit: RateUnit, measure: Measure) -> None:
        """A search met a refusal: use what was accepted, or test if the number in flight is limited."""
        estimator = self.rates[unit]
        # A short measure is less exact than what the trial before has shown.
        shown = 0.0 if measure.is_long else TRIAL_FACTOR * estimator.confirmed_per_s
        estimator.limit(max(shown, measure.per_s), measure.requests_per_s)
        if self._reached_per_s > FAR * measure.per_s and self._may_try_in_flight(unit):
            self._begin_in_flight_trial(unit, measure, self._reached_per_s, ROUGH_GUESS)

    def _correct(self, unit: RateUnit, measure: Measure) -> None:
        """Use what was accepted as the limit; if it is far less, after another trial."""
        estimator = self.rates[unit]
        if measure.per_s < NEAR * estimator.confirmed_per_s:
            self._begin_rate_trial(unit, measure)
            return
        estimator.limit(measure.per_s, measure.requests_per_s)
        estimator.confirm(max(estimator.confirmed_per_s, measure.per_s))

    def _may_try_in_flight(self, unit: RateUnit) -> bool:
        """Return whether it is time to test again if the number in flight is limited, not the rate."""
        is_due = self._clock() >= self._in_flight_rest_until and not self._is_periodic
        return self._trial is None and is_due and unit is RateUnit.REQUESTS

    def _begin_rate_trial(self, unit: RateUnit, measure: Measure) -> None:
        estimator = self.rates[unit]
        is_known = estimator.limit_per_s is not None
        before = estimator.confirmed_per_s if is_known else None
        self._begin(Experiment(Lowered.RATE, unit, measure, before, self.in_flight.most))
        estimator.hold(TRIAL_FACTOR * measure.per_s)

    def _begin_in_flight_trial(
        self,
        unit: RateUnit,
        measure: Measure,
        requests_per_s: float,
        shrinks: int = CLOSE_GUESS,
        *,
        is_second: bool = False,
    ) -> None:
        """Limit the number in flight instead of the rate, to see which of them explains refusals.

        Args:
            unit: of rate.
            measure: what was accepted before.
            requests_per_s: by Little's law, this rate takes the number that is allowed in flight.
            shrinks: how often that number may be lowered.
            is_second: a trial of the rate failed before.
        """
        estimator, before = self.rates[unit], self.in_flight.most
        most = max(1, math.ceil(requests_per_s * self.latency_s))
        self._begin(
            Experiment(
                Lowered.IN_FLIGHT, unit, measure, estimator.limit_per_s, before, is_second=is_second
            ),
            min(most - 1, shrinks),
        )
        estimator.lift()
        self.in_flight.set(min(before, most))

    def _begin(self, experiment: Experiment, shrinks: int = 0) -> None:
        self.is_active = True
        self._trial = Trial(experiment, self.number + 1, self._clock(), shrinks)

    def _judge(self, trial: Trial, refused: Refusal) -> None:
        """Count a refusal in a trial, which may end it."""
        if not trial.includes(refused.number):
            return
        if trial.may_shrink:
            step = max(1, round(SHRINK_SHARE * self.in_flight.most))
            self.in_flight.set(max(1, self.in_flight.most - step))
            trial.shrink(self.number + 1, self._clock())
            if trial.experiment.explains_less(self.in_flight.most / self.latency_s):
                self._fail(trial)
            return
        trial.note_refusal()
        if trial.has_failed:
            self._fail(trial)

    def _pass(self, passed: Experiment) -> None:
        """The load matters: the limit is about what was accepted before the trial."""
        self._trial = None
        self._background, self._rests, self._early = 0.0, 0, 0
        estimator, measure = self.rates[passed.unit], passed.measure
        if passed.lowers is Lowered.RATE:
            # After a long pause the whole allowance of a period was measured: there is no need to search.
            # Not so for tokens: many of them are saved for one large request.
            is_long = self._paused_s >= LONG_PAUSE_S and passed.unit is RateUnit.REQUESTS
            self._is_periodic = self._is_periodic or is_long
            is_new = passed.rate_before is None and passed.unit is RateUnit.REQUESTS
            search = is_new and not self._is_periodic
            estimator.limit(measure.per_s, measure.requests_per_s, search=search)
            estimator.confirm(measure.per_s)
        self._mark()
        self._note_activity()

    def _fail(self, trial: Trial) -> None:
        """As many were refused as before, or less was accepted: return to the load before, and rest."""
        self._trial = None
        failed, measure = trial.experiment, trial.experiment.measure
        estimator = self.rates[failed.unit]
        self.in_flight.set(failed.in_flight_before)
        if failed.rate_before is None:
            estimator.lift()
        else:
            estimator.limit(failed.rate_before, measure.requests_per_s)
        self._mark()
        if failed.lowers is Lowered.RATE and failed.unit is RateUnit.REQUESTS:
            self._begin_in_flight_trial(
                failed.unit, measure, measure.requests_per_s, 0, is_second=True
            )
        else:
            self._rest(trial)
        self._note_activity()

    def _rest(self, trial: Trial) -> None:
        now, failed = self._clock(), trial.experiment
        rest_s = max(SHORTEST_REST_S, REST_FACTOR * (now - trial.begun_at))
        if failed.lowers is Lowered.IN_FLIGHT and not failed.is_second:
            rest_s = max(rest_s, REST_REQUESTS / failed.measure.requests_per_s)
            self._in_flight_rest_until = now + rest_s * 2**self._in_flight_rests
            self._in_flight_rests = min(self._in_flight_rests + 1, MOST_DOUBLINGS)
        else:
            self._background = failed.share
            self._rest_until = now + min(LONGEST_REST_S, rest_s * 2**self._rests)
            self._rests = min(self._rests + 1, MOST_DOUBLINGS)

    def _note_activity(self) -> None:
        is_limited = any(each.limit_per_s is not None for each in self.rates.values())
        self.is_active = is_limited or self._trial is not None
