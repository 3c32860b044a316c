"""How a run chooses workers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from batchrun.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.dispatch import Assignment, Dispatcher
    from batchrun.records import UnfinishedAttempt
    from batchrun.workers.owner import WorkerLauncher


@dataclass(frozen=True, slots=True)
class WorkersFactory:
    """Makes dispatchers that have other processes send the requests.

    Attributes:
        count: number of workers; None for a suitable number.
        on: the cluster where they run; None for this machine.
    """

    count: int | None = None
    on: RayCluster | None = None
    name: str = "workers"

    def create(self, assignment: Assignment) -> Dispatcher:
        """Return the dispatcher of one run."""
        from batchrun.workers.owner import WorkersDispatcher  # noqa: PLC0415 - slow to load

        return WorkersDispatcher(assignment, self._launcher())

    def lost(self, unfinished: Sequence[UnfinishedAttempt]) -> Sequence[UnfinishedAttempt]:
        """Return all of them: the workers of a dead owner cannot report to anyone."""
        return unfinished

    def _launcher(self) -> WorkerLauncher:
        """Return what starts the workers.

        Raises:
            JobError: when ray is not installed.
        """
        if self.on is None:
            from batchrun.workers.processes import LocalProcesses  # noqa: PLC0415 - slow to load

            return LocalProcesses(self.count)
        if find_spec("ray") is None:
            raise JobError('--on ray: ray is not installed; run: pip install "batchrun[ray]"')
        from batchrun.workers.ray_cluster import RayActors  # noqa: PLC0415 - it is optional

        return RayActors(self.on.address, self.count)


@dataclass(frozen=True, slots=True)
class RayCluster:
    """An existing Ray cluster.

    Attributes:
        address: `HOST:PORT`; None for the cluster of this machine, or of the Ray job.
    """

    address: str | None = None

    @classmethod
    def of(cls, text: str) -> RayCluster:
        """Read `ray` or `ray:ADDRESS`.

        Raises:
            JobError: when it is neither.
        """
        engine, _, address = text.partition(":")
        if engine != "ray":
            raise JobError(f'--on {text}: workers can run on "ray" or "ray:ADDRESS"')
        return cls(address or None)


WORKERS = WorkersFactory()
