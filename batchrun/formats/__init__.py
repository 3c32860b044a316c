"""The wire formats: how each API's requests, answers, streams and errors are written.

`of(name)` returns the `WireFormat` with a name. A new format is registered in `FORMATS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.formats.batches import (
    BatchAnswer,
    BatchFormat,
    BatchLimits,
    BatchOutcome,
    BatchProblem,
    BatchService,
    BatchState,
    RemoteBatch,
)
from batchrun.formats.chat import CHAT
from batchrun.formats.limit_headers import limit_state, seconds_until_reset
from batchrun.formats.messages import MESSAGES
from batchrun.formats.parsing import BILLED_STATUSES, InvalidResponse, describe_error
from batchrun.formats.streaming import StreamReader
from batchrun.formats.tool_calls import SCHEMA_TOOL, turn, with_turns
from batchrun.formats.wire_format import Capabilities, WireFormat

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS: dict[str, WireFormat] = {each.name: each for each in (MESSAGES, CHAT)}
DEFAULT = MESSAGES.name


def of(name: str) -> WireFormat:
    """Return the format with a name.

    Raises:
        KeyError: if no format has this name.
    """
    return FORMATS[name]


def use_another(can: Callable[[WireFormat], bool]) -> str:
    """Return advice such as `use format = "chat"`: the formats that can do something."""
    names = [f'"{name}"' for name, each in FORMATS.items() if can(each)]
    return f"use format = {' or '.join(names)}"


__all__ = [
    "BILLED_STATUSES",
    "DEFAULT",
    "FORMATS",
    "SCHEMA_TOOL",
    "BatchAnswer",
    "BatchFormat",
    "BatchLimits",
    "BatchOutcome",
    "BatchProblem",
    "BatchService",
    "BatchState",
    "Capabilities",
    "InvalidResponse",
    "RemoteBatch",
    "StreamReader",
    "WireFormat",
    "describe_error",
    "limit_state",
    "of",
    "seconds_until_reset",
    "turn",
    "use_another",
    "with_turns",
]
