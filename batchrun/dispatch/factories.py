"""The ways in which this process itself dispatches: live, and in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.dispatch.batch import BatchDispatcher
    from batchrun.dispatch.live import LiveDispatcher
    from batchrun.dispatch.ports import Assignment, Dispatcher
    from batchrun.records import UnfinishedAttempt


class LiveFactory:
    """Makes live dispatchers."""

    name = "live"

    def create(self, assignment: Assignment) -> LiveDispatcher:
        """Return a live dispatcher for one run."""
        from batchrun.client import Client, ClientOptions  # noqa: PLC0415 - slow to load
        from batchrun.dispatch.live import LiveDispatcher  # noqa: PLC0415 - slow to load

        request, provider = assignment.job.request, assignment.provider
        simulator, wire_format = provider.simulator, request.wire_format
        reroute = simulator and (wire_format.root(request.base_url), wire_format.root(simulator))
        client = Client(
            wire_format,
            provider.credentials,
            provider.transport,
            ClientOptions(
                timeout_s=assignment.job.retry.timeout_s,
                auth=request.auth,
                keep_raw=request.keep_raw,
                reroute=reroute or None,
            ),
            assignment.admission.answer_memory,
        )
        return LiveDispatcher(
            client,
            assignment.journal,
            assignment.admission,
            accounts=assignment.accounts,
            rules=assignment.rules,
            first=assignment.first,
        )

    def lost(self, unfinished: Sequence[UnfinishedAttempt]) -> Sequence[UnfinishedAttempt]:
        """Return all of them: an answer can only arrive in the process that sent the request."""
        return unfinished


class BatchFactory:
    """Makes batch dispatchers."""

    name = "batch"

    def create(self, assignment: Assignment) -> BatchDispatcher:
        """Return a batch dispatcher for one run."""
        from batchrun.dispatch.batch import BatchDispatcher  # noqa: PLC0415 - slow to load

        if assignment.batches is None:
            raise ValueError("nothing keeps the batches of this run")
        return BatchDispatcher(assignment, assignment.batches)

    def beside(self, dispatcher: Dispatcher, assignment: Assignment) -> BatchDispatcher | None:
        """Return a dispatcher that collects the batches of earlier executions beside another one.

        This is the other dispatcher itself if it works with batches. None if the format has no batches.
        """
        from batchrun.dispatch.batch import BatchDispatcher  # noqa: PLC0415 - slow to load

        if isinstance(dispatcher, BatchDispatcher):
            return dispatcher
        has_batches = assignment.job.request.wire_format.batches is not None
        return self.create(assignment) if has_batches and assignment.batches else None

    def lost(self, unfinished: Sequence[UnfinishedAttempt]) -> Sequence[UnfinishedAttempt]:
        """Return all of them: these are requests that were sent live, never members of batches."""
        return unfinished


LIVE = LiveFactory()
BATCH = BatchFactory()
