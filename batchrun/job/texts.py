"""The texts of a request: the system prompt and the turns, with their marks for the cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from batchrun.errors import quoted
from batchrun.formats.tool_calls import cache_mark
from batchrun.formats.tool_definitions import read_cache

if TYPE_CHECKING:
    from batchrun.formats import WireFormat
    from batchrun.job.reader import Section

TEXT_SOURCES = ("prompt", "messages", "messages_column")
ROLES = ("user", "assistant", "system", "developer")
SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class TurnTexts:
    """The turns of a job: (role, template) pairs, and the cache times of marked turns, by number."""

    texts: tuple[tuple[str, str], ...] = ()
    cached: tuple[tuple[int, str], ...] = ()


def read_system(
    section: Section, wire_format: WireFormat
) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return the blocks of the system prompt; a text is one block without marks."""
    given = section.raw("system")
    if given is None:
        return ()
    if isinstance(given, str):
        return ((given, {}),)
    if not isinstance(given, list) or not given:
        section.problem("system", f"must be text or an array of text blocks, not {quoted(given)}")
        return ()
    nothing: tuple[str, dict[str, Any]] = ("", {})
    return tuple(
        section.check("system", partial(_read_block, block, wire_format), nothing)
        for block in given
    )


def _read_block(given: object, wire_format: WireFormat) -> tuple[str, dict[str, Any]]:
    block = {"type": "text", "text": given} if isinstance(given, str) else given
    text = block.get("text") if isinstance(block, dict) else None
    if (
        not isinstance(block, dict)
        or not isinstance(text, str)
        or block.get("type", "text") != "text"
    ):
        raise ValueError(f'a block must be text or {{ type = "text", text = … }}: {quoted(given)}')
    if not text.strip():
        raise ValueError("a block is empty; remove it")
    marks = {key: value for key, value in block.items() if key not in {"type", "text", "cache"}}
    if (ttl := read_cache(block.get("cache"), wire_format)) is not None:
        marks["cache_control"] = cache_mark(ttl)
    return text, marks


def read_turns(section: Section, wire_format: WireFormat) -> TurnTexts:
    """Return the turns of `prompt` or `messages`; none with `messages_column`."""
    prompt = section.get("prompt", str)
    turns = section.get("messages", list)
    given = [key for key in TEXT_SOURCES if key in section]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        section.problem(
            "prompt",
            f"set exactly one of prompt, prompt_file, messages, messages_column; found {found}",
        )
    if prompt is not None:
        if not prompt.strip():
            section.problem("prompt", "is empty")
        return TurnTexts((("user", prompt),))
    if turns is None:
        return TurnTexts()
    nothing: tuple[str, str, str | None] = ("user", "", None)
    checked = [
        section.check("messages", partial(_read_turn, number, turn, wire_format), nothing)
        for number, turn in enumerate(turns, 1)
    ]
    texts = tuple((role, text) for role, text, _ in checked)
    section.check("messages", partial(_check_order, texts, wire_format), None)
    cached = tuple((n, ttl) for n, (_, _, ttl) in enumerate(checked) if ttl is not None)
    return TurnTexts(texts, cached)


def _check_order(turns: tuple[tuple[str, str], ...], wire_format: WireFormat) -> None:
    roles = [role for role, _ in turns]
    if "user" not in roles:
        raise ValueError('needs a turn with role = "user"')
    spoken = next(n for n, role in enumerate(roles) if role not in SYSTEM_ROLES)
    late = next((n for n, role in enumerate(roles) if n > spoken and role in SYSTEM_ROLES), None)
    if late is not None and not wire_format.capabilities.system_turns:
        raise ValueError(
            f"turn {late + 1}: the {wire_format.name} format has the system prompt at the beginning "
            f"only; move the {roles[late]} turn there, or use another role"
        )


def _read_turn(number: int, turn: object, wire_format: WireFormat) -> tuple[str, str, str | None]:
    if not isinstance(turn, dict) or not {"role", "content"} <= set(turn) <= {
        "role",
        "content",
        "cache",
    }:
        raise ValueError(f"turn {number} must be {{ role = …, content = … }}: {quoted(turn)}")
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        known = f"{', '.join(ROLES[:-1])} or {ROLES[-1]}"
        raise ValueError(f"turn {number}: role must be {known}, not {quoted(role)}")
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"turn {number}: content must be text, not {quoted(content)}")
    try:
        ttl = read_cache(turn.get("cache"), wire_format)
    except ValueError as error:
        raise ValueError(f"turn {number}: {error}") from None
    return role, content, ttl
