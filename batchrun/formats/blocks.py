"""Content blocks of the messages format: the fields of a completion that they make up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from batchrun.formats.parsing import as_dicts, as_text, json_or_none

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Every other block belongs to a tool that the provider ran, or is of a kind to come: it is kept.
_OWN_BLOCKS = ("text", "thinking", "redacted_thinking", "tool_use")


class BlockTexts(TypedDict):
    """The fields of a completion that its content blocks make up."""

    texts: tuple[str, ...]
    reasoning: str | None
    citations: str | None
    server_tools: str | None


def block_texts(blocks: Sequence[Mapping[str, Any]]) -> BlockTexts:
    """Return the fields of a completion that its content blocks make up."""
    texts = [as_text(block.get("text")) for block in blocks if block.get("type") == "text"]
    thoughts = [thought for block in blocks if (thought := _thought(block)) is not None]
    citations = [
        citation
        for block in blocks
        if block.get("type") == "text"
        for citation in as_dicts(block.get("citations"))
    ]
    return {
        "texts": ("".join(texts),),
        "reasoning": "\n\n".join(thoughts) or None,
        "citations": json_or_none(citations),
        "server_tools": json_or_none([b for b in blocks if b.get("type") not in _OWN_BLOCKS]),
    }


def _thought(block: Mapping[str, Any]) -> str | None:
    """Return what a thinking block says; a redacted one is encrypted and only said to be there."""
    if block.get("type") == "thinking":
        return as_text(block.get("thinking"))
    return "[redacted]" if block.get("type") == "redacted_thinking" else None
