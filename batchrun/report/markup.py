"""HTML whose texts are escaped by construction: whatever is not `Markup` already is text."""

from __future__ import annotations

import html

# What HTML cannot hold, and what would turn the direction of the text around it.
_UNFIT = dict.fromkeys(
    (
        *range(9),
        11,
        12,
        *range(14, 32),
        *range(127, 160),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ),
    "�",
)


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Return text as HTML that shows it; HTML stays as it is."""
    if isinstance(text, Markup):
        return text
    fit = str(text).translate(_UNFIT).encode("utf-8", "replace").decode()
    return Markup(html.escape(fit, quote=True))


def joined(*parts: object) -> Markup:
    """Return the parts one after the other; None is nothing."""
    return Markup("".join(escaped(part) for part in parts if part is not None))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Return an element. `cls` stands for `class`, `_` for `-`; an attribute of None is left out."""
    given = "".join(
        f' {"class" if key == "cls" else key.replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")
