"""How a run chooses workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.dispatch import Assignment, Dispatcher
    from batchrun.records import UnfinishedAttempt


@dataclass(frozen=True, slots=True)
class WorkersFactory:
    """Makes dispatchers that have processes of this machine send the requests.

    Attributes:
        count: how many processes.
    """

    count: int = 1
    name: str = "workers"

    def create(self, assignment: Assignment) -> Dispatcher:
        """Return the dispatcher of one run."""
        from batchrun.workers.owner import WorkersDispatcher  # noqa: PLC0415 - slow to load
        from batchrun.workers.processes import LocalProcesses  # noqa: PLC0415 - slow to load

        return WorkersDispatcher(assignment, LocalProcesses(self.count))

    def lost(self, unfinished: Sequence[UnfinishedAttempt]) -> Sequence[UnfinishedAttempt]:
        """Return all: the workers of an owner that has died can tell nobody."""
        return unfinished


WORKERS = WorkersFactory()
