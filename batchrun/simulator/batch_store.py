"""Batches that the simulator keeps: their requests and results in files, and how their states move.

Everything about a batch is in files of one directory, so that another process can go on with them.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO

import orjson

from batchrun.simulator.calls import Fault, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.simulator.calls import Json

_ID = re.compile(r"[A-Za-z0-9_-]+\Z")
_VALIDATED = 0.1  # share of its time until a batch is checked
_FINALIZING = 0.9
_CANCELING = 0.1


class Stage(StrEnum):
    """Where a simulated batch is in its life."""

    VALIDATING = "validating"
    RUNNING = "running"
    FINALIZING = "finalizing"
    CANCELING = "canceling"
    DUE = "due"  # its time is over; its results are not worked out yet
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A batch. Times are Unix times in seconds.

    Attributes:
        id: its id.
        wire: the name of its format.
        number: counts batches; a later one has a higher number.
        created: when it was created.
        duration_s: how long it takes.
        rows: number of its requests.
        tokens: of its requests, estimated.
        model: of its first request.
        headers: those of its creation that change answers.
        expires_after: the share of its requests that are answered before it expires; None if it
            does not expire.
        canceled: when it was canceled.
        known: prompt prefixes that were cached when it was created, in hex.
        problem: code, message and line of what is wrong with all of it.
        asked: what its creation said, in the vendor's words.
        counts: outcome of its requests, once it has ended.
        ended: when it ended.
        files: the ids of its result files, by kind.
    """

    id: str
    wire: str
    number: int
    created: float
    duration_s: float
    rows: int
    tokens: int = 0
    model: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    expires_after: float | None = None
    canceled: float | None = None
    known: tuple[str, ...] = ()
    problem: tuple[str, str, int | None] | None = None
    asked: dict[str, object] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    ended: float | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def due(self) -> float:
        """When it ends."""
        whole = self.created + self.duration_s
        if self.canceled is None:
            return whole
        return min(whole, self.canceled + _CANCELING * self.duration_s)

    @property
    def answered_share(self) -> float:
        """The share of its requests that are answered before it ends."""
        share = 1.0 if self.expires_after is None else self.expires_after
        if self.canceled is None:
            return share
        return min(share, (self.canceled - self.created) / max(self.duration_s, 1e-9))

    def progress(self, now: float) -> float:
        """Return the share of its time that is over."""
        return min(1.0, max(0.0, now - self.created) / max(self.duration_s, 1e-9))

    def stage(self, now: float) -> Stage:
        """Return where it is at a time."""
        if self.ended is not None:
            return Stage.ENDED
        if self.problem is not None:
            is_over = self.progress(now) >= _VALIDATED
            return Stage.FAILED if is_over else Stage.VALIDATING
        if now >= self.due:
            return Stage.DUE
        if self.canceled is not None:
            return Stage.CANCELING
        if self.progress(now) < _VALIDATED:
            return Stage.VALIDATING
        return Stage.RUNNING if self.progress(now) < _FINALIZING else Stage.FINALIZING


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An uploaded file, or one with results."""

    id: str
    filename: str
    purpose: str
    created: float
    size: int


class BatchStore:
    """Batches and files in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._batches: dict[str, StoredBatch] = {}
        self._files: dict[str, StoredFile] = {}
        for path in directory.glob("*.batch.json"):
            batch = _read_batch(orjson.loads(path.read_bytes()))
            self._batches[batch.id] = batch
        for path in directory.glob("*.file.json"):
            file = StoredFile(**orjson.loads(path.read_bytes()))
            self._files[file.id] = file

    @property
    def next_number(self) -> int:
        """The number of the next batch."""
        return max((batch.number for batch in self._batches.values()), default=0) + 1

    def newest(self, wire: str) -> list[StoredBatch]:
        """Return the batches of a format, newest first."""
        found = [batch for batch in self._batches.values() if batch.wire == wire]
        return sorted(found, key=lambda batch: -batch.number)

    def batch(self, wire: str, batch_id: str) -> StoredBatch:
        """Return a batch. Raises `RefusedError` if there is none."""
        batch = self._batches.get(batch_id)
        if batch is None or batch.wire != wire:
            raise RefusedError(Fault.NOT_FOUND, f"No batch found with id {batch_id!r}.")
        return batch

    def keep(self, batch: StoredBatch, **changes: object) -> StoredBatch:
        """Store a batch with changes."""
        changed: StoredBatch = replace(batch, **changes)  # type: ignore[arg-type]
        self._batches[batch.id] = changed
        self._write(f"{batch.id}.batch.json", asdict(changed))
        return changed

    def drop(self, batch: StoredBatch) -> None:
        """Delete a batch with its requests and results."""
        del self._batches[batch.id]
        for end in (".batch.json", ".requests", ".results"):
            (self._directory / f"{batch.id}{end}").unlink(missing_ok=True)

    def enqueued_tokens(self, wire: str, model: str, now: float) -> int:
        """Return the tokens of a model's batches that have not ended."""
        over = {Stage.DUE, Stage.ENDED, Stage.FAILED}
        return sum(
            batch.tokens
            for batch in self._batches.values()
            if (batch.wire, batch.model) == (wire, model)
            and batch.problem is None
            and batch.stage(now) not in over
        )

    def forget(self, batch_id: str) -> None:
        """Delete the requests of a batch that was refused, or has ended."""
        self.path(f"{batch_id}.requests").unlink(missing_ok=True)

    def content(self, name: str, mode: str = "rb") -> BinaryIO:
        """Open a file of the directory, such as `ID.requests`."""
        return (self._directory / name).open(mode)  # type: ignore[return-value]

    def path(self, name: str) -> Path:
        """Return where a file is."""
        return self._directory / name

    def file(self, file_id: str) -> StoredFile:
        """Return an uploaded file. Raises `RefusedError` if there is none."""
        found = self._files.get(file_id) if _ID.match(file_id) else None
        if found is None:
            raise RefusedError(Fault.NOT_FOUND, f"No such File object: {file_id}")
        return found

    def files(self) -> list[StoredFile]:
        """Return all files, newest first."""
        return sorted(self._files.values(), key=lambda file: -file.created)

    def keep_file(self, file: StoredFile) -> StoredFile:
        """Store the facts of a file whose content has been written."""
        self._files[file.id] = file
        self._write(f"{file.id}.file.json", asdict(file))
        return file

    def drop_file(self, file: StoredFile) -> None:
        """Delete a file."""
        del self._files[file.id]
        for end in (".file.json", ".content"):
            (self._directory / f"{file.id}{end}").unlink(missing_ok=True)

    def _write(self, name: str, value: Json) -> None:
        # Renamed when it is whole: the process can be killed at any moment.
        new = self._directory / f"{name}.new"
        new.write_bytes(orjson.dumps(value))
        new.replace(self._directory / name)


def _read_batch(value: Json) -> StoredBatch:
    known, problem = tuple(value.pop("known")), value.pop("problem")
    return StoredBatch(**value, known=known, problem=problem and tuple(problem))
