"""Digests of a job and its input, which show whether a run must be planned again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from batchrun.errors import OutputError
from batchrun.source import Source

if TYPE_CHECKING:
    from batchrun.job import Job


# Keys of [input] that change what is read from a file.
READ_AS = ("separator", "quote", "escape", "encoding", "sheet")


def same_input(job: Job, signature: str) -> Source:
    """Open the input of a run, if it is unchanged since the run.

    Raises:
        JobError: if it cannot be read.
        OutputError: if it has changed.
    """
    source = Source(job.input)
    if not signature.endswith(input_signature(job, source)):
        raise OutputError(
            f"{job.input.path}: has changed since the run, so its results cannot be matched to "
            "the rows. Run the job again: only new rows are sent"
        )
    return source


def plan_signature(job: Job, source: Source) -> str:
    """Return `<digest of the requests>:<digest of the input>`."""
    # Where the provider is reached changes no request (a server on this machine changes its port), nor
    # does what is done with answers once they are there.
    request = replace(
        job.request,
        provider=job.request.provider_name,
        base_url="",
        keep_raw=False,
        reject=(),
    )
    return f"{_digest(asdict(request))}:{input_signature(job, source)}"


def _digest(facts: object) -> str:
    """Return a digest of values as JSON: records by the names of their fields.

    The order of keys counts, as it does in the body of a request.
    """
    text = json.dumps(facts, default=_plain, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(value: object) -> object:
    """Convert a value for JSON: sets to sorted lists, all others to text."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def input_signature(job: Job, source: Source) -> str:
    """Return a digest that changes when the input's files change, or which of their rows are read."""
    facts: tuple[object, ...] = (job.input.id, source.stamps)
    if job.input.where is not None:
        facts = (*facts, job.input.where)
    given = {key: value for key in READ_AS if (value := getattr(job.input, key)) is not None}
    return _digest((*facts, given) if given else facts)
