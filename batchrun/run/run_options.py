"""How to run a job: what the command line and the Python interface ask for apart from the job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from batchrun.dispatch import LIVE, BatchMode
from batchrun.errors import JobError, quoted
from batchrun.simulator import SimulatorConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchrun.client import TransportPort
    from batchrun.dispatch import DispatcherFactory
    from batchrun.run.finished_rows import RowBuffer


# Requests in flight are paid for, so they get this time after the first signal.
GRACE_S = 30.0
# Mean time to an answer of the simulator, if nothing else is set.
LATENCY_MS = 20.0


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run a job, apart from the job itself.

    Attributes:
        simulate: answer with the simulator in this process instead of the provider: True, or how it behaves.
        new: start over; the previous run is kept as DIR.1.
        retry_errored: retry every failed row, including those that failed permanently.
        quiet: show no progress and no messages.
        yes: continue without asking, even if many paid answers would no longer be used.
        ask: asks the user a question; None when nobody can answer.
        log_file: a file to which a JSON line is appended for each event.
        grace_s: seconds that requests in flight may take after the first signal.
        transport: carries the requests; None for the network.
        dispatcher: the dispatcher factory.
        workers: send from this many processes of this machine; `auto` for a suitable number; None
            sends from this process.
        batches: what to do with open batches.
        on: `ray` or `ray:ADDRESS` for workers on a Ray cluster: `workers` of them, or one on each node.
        rows: send only these rows, by ordinal, and write no outputs; None for all.
        rows_to: receives each row as soon as it has its result; None for no receiver.
    """

    simulate: SimulatorConfig | bool | None = None
    new: bool = False
    retry_errored: bool = False
    quiet: bool = False
    yes: bool = False
    ask: Callable[[str], bool] | None = None
    log_file: Path | None = None
    grace_s: float = GRACE_S
    transport: TransportPort | None = None
    dispatcher: DispatcherFactory = LIVE
    workers: int | Literal["auto"] | None = None
    batches: BatchMode = BatchMode.WAIT
    on: str | None = None
    rows: frozenset[int] | None = None
    rows_to: RowBuffer | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.simulate, SimulatorConfig | bool | None):
            raise JobError(
                f"simulate must be True or a SimulatorConfig, not {quoted(self.simulate)}; for example: "
                "simulate=batchrun.SimulatorConfig(latency_ms=50)"
            )

    @property
    def simulator(self) -> SimulatorConfig | None:
        """How the simulator behaves; None to ask the provider."""
        if isinstance(self.simulate, SimulatorConfig):
            return self.simulate
        return SimulatorConfig(latency_ms=LATENCY_MS) if self.simulate else None
