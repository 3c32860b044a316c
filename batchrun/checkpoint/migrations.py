"""The migrations of a checkpoint: which it has had, and how sqlite-utils applies the others.

Nearly every command opens a checkpoint, and hardly any has to migrate one: only that loads sqlite-utils.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchrun.checkpoint.sqlite import Database

    Migration = Callable[[Database], None]

# The name of our migrations, and the table where sqlite-utils notes those that were applied.
_OURS, _TABLE = "batchrun", "_sqlite_migrations"


def applied(db: Database) -> set[str]:
    """Return the names of the migrations that a file has had."""
    if _TABLE not in db.table_names():
        return set()
    found = db.execute(f"SELECT name FROM {_TABLE} WHERE migration_set = ?", (_OURS,))  # noqa: S608 - our own name
    return {name for (name,) in found}


def apply(db: Database, migrations: Sequence[Migration]) -> None:
    """Apply the migrations that a file has not had, in order."""
    if applied(db) >= {each.__name__ for each in migrations}:
        return
    with _as_if_without("pandas", "numpy"):
        import sqlite_utils  # noqa: PLC0415 - see above
    ours = sqlite_utils.Migrations(_OURS)
    for each in migrations:
        ours(name=each.__name__)(_on(db, each))
    ours.apply(sqlite_utils.Database(db.conn, execute_plugins=False))


def _on(db: Database, migration: Migration) -> Callable[[object], None]:
    def migrate(_same: object) -> None:
        migration(db)

    return migrate


@contextmanager
def _as_if_without(*names: str) -> Iterator[None]:
    # sqlite-utils imports them if they are installed, to store their values: half a second.
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))  # an import of what is None there fails
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]
