"""Limits requests: rates, concurrency, pauses, money, and too many errors.

Limits are kept for each base URL, model and key: an *endpoint*. What the job sets is an upper bound; below
it, the provider's own limits are followed. `Limits` is the `Admission` of live dispatch. A request passes, in
this order:

1. **Money** (`budgets.py`): its highest possible cost must be left of `max_cost_usd`.
2. **Configured requests per minute** (`buckets.ConfiguredRequests`): aiolimiter.
3. **The circuit breaker** (`circuit_breaker.py`): when nearly all requests fail, all pause. Then one probe is sent,
   then twice as many after each step in which none failed.
4. **Concurrency** (`concurrency.py`): grows while more in flight brings more answers.
5. **Rates** (`allowances.py`): token buckets with the lowest of the configured, reported and learned rates
   (`load.py`).

How a rate is learned:

a. Refusals that the headers do not explain are counted. Below `TOLERATED` of all requests they have no effect.
b. Above that, the endpoint pauses until something is accepted again. What is accepted from one such pause to
   the next is a *measure* (`rate_estimator.py`).
c. When a measure is exact enough, a *trial* (`trials.py`) sends 95 % of its rate, for as many requests as would
   have had eight refusals.
d. If at most a third of these occur, the rate is a limit. After each refusal the run sends 5 % less, and then
   returns along a cubic curve to the limit and beyond it, so that a limit that grows is found. CUBIC and the
   adaptive retry mode of the AWS SDKs do the same.
e. If more occur, the number in flight is tested in the same way.
f. If that changes nothing either, these refusals do not depend on the load. The load returns to what it was,
   and refused requests pause one at a time. The trial is repeated after ten times as long as it took, then after
   twice as long each time.

Outages differ from limits: the number of accepted requests between two of them varies.

Many limiters lower the concurrency at each refusal. That was measured and not used: with 2 % of random refusals
it lost 90 % of the throughput. The reason for each constant is in a comment beside it.
`tests/limits/test_load.py` checks the result against simulated providers, and
`python -m benchmarks.limits --simulated` prints it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
