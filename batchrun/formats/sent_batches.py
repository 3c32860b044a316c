"""A batch as its run stores it: what was sent, its stage, and its state at the vendor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrun.formats.remote_batches import BatchState, RemoteBatch


class BatchStage(StrEnum):
    """The progress of a batch in its run."""

    INTENDED = "intended"  # it is about to be created, or its creation was not confirmed
    SENT = "sent"  # the vendor has it
    COLLECTED = "collected"  # all its results are in the checkpoint
    VOID = "void"  # the vendor does not have it, or refused it as a whole; nothing was billed


# What a batch has when its record was damaged on the disk: it is looked for at the vendor again.
DAMAGED, UNKNOWN_ACCOUNT = "damaged", ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentBatch:
    """A batch of a run. Times are microseconds since 1970 UTC.

    Attributes:
        tag: prefix of the `custom_id` of each of its requests.
        stage: its stage.
        account: a digest of the API key that it was sent with.
        base_url: where it was sent.
        model: the model of all its requests; None if they have several.
        rows: number of its requests.
        tokens: estimated input tokens of its requests.
        queued_tokens: input tokens of all open batches of its model when it was sent.
        is_primer: whether other batches wait for it, because it fills the prompt cache.
        intended_us: when it was about to be created.
        input_file: the vendor's id of the uploaded requests.
        remote_id: the vendor's id.
        is_proven: whether `remote_id` is certainly this batch.
        refused_ids: batches of the vendor that turned out to be others.
        state: state at the vendor at the last check.
        done: number of answered requests at the last check; `failed`: of failed ones.
        created_us: when the vendor created it; likewise `expires_us`, `ended_us` and
            `results_expire_us`.
        closed_us: when it was collected or found to be void.
        reason: why it is void, or that its record was damaged.
        out: number of its requests whose outcome is not in the checkpoint.
        reserved: highest possible cost of those, in pico-dollars; None without a cost limit.
    """

    tag: str
    stage: BatchStage
    account: str
    base_url: str
    model: str | None
    rows: int
    tokens: int
    queued_tokens: int
    is_primer: bool
    intended_us: int
    input_file: str | None = None
    remote_id: str | None = None
    is_proven: bool = True
    refused_ids: tuple[str, ...] = ()
    state: BatchState | None = None
    done: int | None = None
    failed: int | None = None
    created_us: int | None = None
    expires_us: int | None = None
    ended_us: int | None = None
    results_expire_us: int | None = None
    closed_us: int | None = None
    reason: str | None = None
    out: int = 0
    reserved: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether its results may still arrive."""
        return self.stage in {BatchStage.INTENDED, BatchStage.SENT}

    def seen(self, remote: RemoteBatch) -> SentBatch:
        """Return the batch with its present state at the vendor."""
        facts: dict[str, Any] = remote_facts(remote)
        return replace(self, remote_id=remote.id, **facts)


_FACTS = ("state", "done", "failed", "created_us", "expires_us", "ended_us", "results_expire_us")


def remote_facts(remote: RemoteBatch) -> dict[str, Any]:
    """Return the vendor's facts about a batch, by the names of `SentBatch`."""
    facts = {name: getattr(remote, name) for name in _FACTS}
    return {name: value for name, value in facts.items() if value is not None}


@dataclass(frozen=True, slots=True)
class BatchMember:
    """A request of a batch whose outcome is not in the checkpoint.

    Attributes:
        number: number of its attempt.
        failures: attempts so far that count towards `[retry] max_attempts`.
        reserved: highest possible cost in pico-dollars; None without a cost limit.
    """

    number: int
    failures: int
    reserved: int | None
