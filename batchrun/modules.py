"""Python files of the user's that a job names: `[tools] module`, `[score] function`."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from typing import TYPE_CHECKING

from batchrun.errors import JobError

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def import_file(path: Path, key: str) -> ModuleType:
    """Import a Python file as a module.

    Args:
        path: the file.
        key: where the job names it, for messages: `[tools] module`.

    Raises:
        JobError: when it is none or cannot be imported, with the line that failed.
    """
    spec = importlib.util.spec_from_file_location(f"batchrun_user_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise JobError(f"{key}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # As for a script, modules beside it can be imported; it comes last, to hide nothing of ours.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        line = error.lineno if isinstance(error, SyntaxError) else _line_in(path, error)
        place = f"{path}, line {line}" if line else str(path)
        raise JobError(
            f"{key}: {place} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module


def _line_in(path: Path, error: BaseException) -> int | None:
    """Return the last line of the file that an error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else None
