"""Damaged records of batches: their values from before the damage, or a new look at the vendor.

A batch was paid for as soon as it is at the vendor, so that no batch is given up because of a damaged
record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.checkpoint import encoding
from batchrun.checkpoint.columns import OUT
from batchrun.checkpoint.integrity import KINDS
from batchrun.errors import Record
from batchrun.formats.sent_batches import DAMAGED, UNKNOWN_ACCOUNT, BatchStage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchrun.checkpoint.sqlite import Database
    from batchrun.checkpoint.store import Checkpoint

_BYTE_VALUES, _INTEGER_BITS = 256, 63
_LOOK_AGAIN = f"""UPDATE batches AS d SET stage = iif(is_out, '{BatchStage.INTENDED}',
        '{BatchStage.COLLECTED}'), reason = '{DAMAGED}', account = '{UNKNOWN_ACCOUNT}',
    remote_id = NULL, refused_ids = NULL, state = NULL, is_proven = 1, is_primer = 0,
    rows = members, intended_us = coalesce(first_us, intended_us)
    FROM (SELECT count(*) AS members, min(started_us) AS first_us,
        coalesce(max({OUT}), 0) AS is_out FROM attempts WHERE batch = ?1) WHERE id = ?1"""  # noqa: S608 - our own names, as below


def restore_batches(store: Checkpoint) -> None:
    """Restore damaged batches; those that cannot be are looked for at the vendor again."""
    damaged = KINDS[Record.BATCH].condition
    for (key,) in store.db.execute(f"SELECT d.id FROM batches d WHERE {damaged}").fetchall():  # noqa: S608
        if (values := _values_before(store.db, key)) is not None:
            names = ", ".join(f"{name} = ?" for name in values)
            store.db.execute(f"UPDATE batches SET {names} WHERE id = ?", (*values.values(), key))  # noqa: S608
            continue
        store.db.execute(_LOOK_AGAIN, (key,))
        store.db.execute(encoding.BATCHES.seal("id = ?"), (key,))


def _values_before(db: Database, key: int) -> Mapping[str, Any] | None:
    """Return the one value that gives the checksum that was written; None if more have changed."""
    names = encoding.BATCHES.columns
    columns = ", ".join(f"CAST({name} AS BLOB), typeof({name})" for name in names)
    expected, *found = db.execute(
        f"SELECT checksum, {columns} FROM batches WHERE id = ?",  # noqa: S608
        (key,),
    ).fetchone()
    stored = dict(zip(names, zip(found[::2], found[1::2], strict=True), strict=True))
    row = {name: value for name, (value, _) in stored.items()}
    for name, (value, kind) in stored.items():
        for candidate in () if value is None or name == "id" else _nearly(value, kind):
            written = candidate.encode() if isinstance(candidate, str) else b"%d" % candidate
            if encoding.BATCHES.of({**row, name: written}) == expected:
                return {name: candidate}
    return None


def _nearly(value: bytes, kind: str) -> Iterator[str | int]:
    """Yield the texts that differ in one byte, or the numbers that differ in one bit."""
    if kind == "integer":
        yield from (int(value) ^ (1 << bit) for bit in range(_INTEGER_BITS))
        return
    for place in range(len(value)):
        for byte in range(_BYTE_VALUES):
            changed = value[:place] + bytes([byte]) + value[place + 1 :]
            if changed.isascii():
                yield changed.decode()
