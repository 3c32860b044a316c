"""The registered wire formats, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.formats.chat import CHAT
from batchrun.formats.messages import MESSAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.formats.wire_format import WireFormat

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
