"""sqlite-utils, without the libraries that it would bring along.

Where pandas and NumPy are installed it imports both, to store their values. Nothing here does, and
pandas alone takes half a second of every command.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def _as_if_without(*names: str) -> Iterator[None]:
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))  # an import of what is None there fails
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


with _as_if_without("pandas", "numpy"):
    from sqlite_utils import Database, Migrations

__all__ = ["Database", "Migrations"]
