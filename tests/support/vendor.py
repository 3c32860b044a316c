"""The simulator in a thread of its own: a vendor with batch endpoints that outlives the runs of a test."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from anyio.from_thread import start_blocking_portal

from batchrun.simulator import Simulator, SimulatorConfig
from tests.support.provider import LONGEST_S

if TYPE_CHECKING:
    from collections.abc import Iterator

# Batches that are not done before a test cancels them, which takes a tenth of that time.
CANCELED: dict[str, Any] = {"batch_s": 40}


class Clock:
    """Unix time, which can be put forward and made faster."""

    def __init__(self, age_s: float) -> None:
        self._from, self._since, self._speed = time.time() - age_s, time.monotonic(), 1.0

    def __call__(self) -> float:
        return self._from + (time.monotonic() - self._since) * self._speed

    def change(self, seconds: float, speed: float) -> None:
        self._from, self._since, self._speed = self() + seconds, time.monotonic(), speed


class Vendor:
    """A simulator that is being served.

    Attributes:
        url: the base URL.
    """

    def __init__(self, url: str, simulator: Simulator, clock: Clock) -> None:
        self.url = url
        self._simulator = simulator
        self._clock = clock

    def pass_time(self, seconds: float, speed: float = 1.0) -> None:
        """Put the clock forward: batches that take less time are done. `speed`: of later time."""
        self._clock.change(seconds, speed)

    @property
    def requests(self) -> int:
        """How many calls have arrived."""
        return self._simulator.usage.requests

    @property
    def answers(self) -> int:
        """How many calls have been answered."""
        return sum(self._simulator.usage.statuses.values())

    def come_to_rest(self) -> None:
        """Wait until every call that has arrived is answered, or its caller is gone."""
        deadline = time.monotonic() + LONGEST_S
        while self.requests > self.answers:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def usage(self) -> dict[str, Any]:
        """Return what was requested and billed."""
        found: dict[str, Any] = httpx.get(f"{self.url}/usage", timeout=LONGEST_S).json()
        return found


def kind_of(request: httpx.Request) -> str:
    """Return what a call to a batch endpoint is."""
    path = request.url.path
    if request.method == "POST":
        ends = {"/cancel": "cancel", "/files": "upload"}
        return next((kind for end, kind in ends.items() if path.endswith(end)), "create")
    if request.method == "DELETE":
        return "delete"
    if path.endswith(("/results", "/content")):
        return "results"
    return "list" if path.endswith("/batches") else "get"


@contextmanager
def vendor(*, step_s: float | None = None, age_s: float = 0, **config: Any) -> Iterator[Vendor]:
    """Serve a simulator; batches take a tenth of a second unless said otherwise.

    With `step_s`, its time goes on by this many seconds with each call that arrives, and not otherwise.
    With `age_s`, its clock is this many seconds behind, so that its batches are that old.
    """
    passing = Clock(age_s)
    start = passing()

    def clock() -> float:
        if step_s is None:
            return passing()
        return start + step_s * simulator.usage.requests

    simulator: Simulator = Simulator(
        SimulatorConfig(**{"batch_s": 0.1, **config}),
        wall_clock=clock,
    )
    with start_blocking_portal() as portal:
        scope = portal.call(anyio.CancelScope)

        async def serve(*, task_status: anyio.abc.TaskStatus[str]) -> None:
            with scope:
                await simulator.serve(task_status=task_status)

        future, url = portal.start_task(serve)
        try:
            yield Vendor(url, simulator, passing)
        finally:
            portal.call(scope.cancel)
            future.result(LONGEST_S)
