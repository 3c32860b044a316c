"""Stored records that have changed on the disk, and their copies in the outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun import checkpoint, output
from batchrun.errors import DAMAGE_REMEDY, Record, RecordsDamaged
from batchrun.job.reader import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batchrun.errors import Damage, DamagedRecord
    from batchrun.job import OutputConfig


USAGE_FILE = "usage.parquet"
MOST_DESCRIBED = 5
# Records that are restored, and those whose copies are looked for in one pass over a file.
MOST_RESTORED = 100_000
CHUNK = 1_000
# Which files repeat which records.
_COPIED = (Record.ANSWER, Record.ATTEMPT, Record.START)


def check_intact(
    store: checkpoint.Checkpoint,
    directory: Path,
    config: OutputConfig,
    records: Iterable[Record] = tuple(Record),
) -> None:
    """Check that all stored records, or those of these kinds, match their checksums.

    Raises:
        RecordsDamaged: names the damaged records, the files with correct copies, and what to do.
    """
    try:
        checkpoint.check_intact(store, records)
    except RecordsDamaged as error:
        shown = described(store, error.damage, directory, config)[:MOST_DESCRIBED]
        rows = "; ".join(f"{record.where}{problem}" for record, problem in shown)
        more = error.damage.count - len(shown)
        others = f" (and {more:,} more)" if more else ""
        remedy = remedy_for(error.damage, directory)
        message = f"{store.path}: {rows}{others}. No output was written; {remedy}"
        raise RecordsDamaged(message, error.damage) from None


def remedy_for(damage: Damage, directory: Path) -> str:
    """Return what to do about damaged records."""
    kinds = {each.record for each in damage.first}
    if damage.count == len(damage.first) and kinds <= {*checkpoint.COUNTED}:
        return f"count the costs again with: batchrun recost {directory}"
    return DAMAGE_REMEDY


def described(
    store: checkpoint.Checkpoint, damage: Damage, directory: Path, config: OutputConfig | None
) -> list[tuple[DamagedRecord, str]]:
    """Describe damaged records, and name the output file with a correct copy."""
    if config is None:
        return [(record, str(record)) for record in damage.first]
    found = _copies(store, damage.first, directory, config)
    return [(one, _described(one, found.get(one), config)) for one in damage.first]


def _described(
    record: DamagedRecord, copy: tuple[str, Mapping[str, Any]] | None, config: OutputConfig
) -> str:
    if record.record not in _COPIED:
        return str(record)
    if copy is not None:
        return f"{record}; {copy[0]} has the right copy"
    files = _files_with(record.record, config)
    return f"{record}; {listed(files)} {'does' if len(files) == 1 else 'do'} not have it either"


def restore_copies(store: checkpoint.Checkpoint, directory: Path, config: OutputConfig) -> int:
    """Restore the damaged answers and attempts that an output has; return their number."""
    damage = checkpoint.find_damage(store, _COPIED, MOST_RESTORED)
    restored = 0
    for start in range(0, len(damage.first), CHUNK):
        records = damage.first[start : start + CHUNK]
        for record, (_, values) in _copies(store, records, directory, config).items():
            checkpoint.restore_values(store, record, values)
            restored += 1
    return restored


def _copies(
    store: checkpoint.Checkpoint,
    records: Sequence[DamagedRecord],
    directory: Path,
    config: OutputConfig,
) -> dict[DamagedRecord, tuple[str, Mapping[str, Any]]]:
    """Return the file with the original values of a damaged record, and these values by column."""
    found: dict[DamagedRecord, tuple[str, Mapping[str, Any]]] = {}
    for kind in _COPIED:
        for name in _files_with(kind, config):
            missing = [one for one in records if one.record is kind and one not in found]
            ids = {one.custom_id for one in missing if one.custom_id is not None}
            if not ids:
                continue
            rows = output.rows_called(directory / name, ids, config.prefix)
            for one in missing:
                for row in _rows_of(one, rows):
                    values = checkpoint.right_values(store, one, row)
                    if values is not None:
                        found[one] = (name, values)
                        break
    return found


def _rows_of(
    record: DamagedRecord, rows: Mapping[str, Sequence[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    for row in rows.get(record.custom_id or "", ()):
        if record.record is Record.ANSWER or row.get("attempt") == record.number:
            yield row


def _files_with(record: Record, config: OutputConfig) -> Sequence[str]:
    return config.files if record is Record.ANSWER else (USAGE_FILE,)
