"""What text costs: an estimate from its length, the same for every model."""

from __future__ import annotations

_BYTES_PER_TOKEN = 4


def count_tokens(text: str) -> int:
    """Estimate tokens from UTF-8 length: 4 Latin, 2 Cyrillic or 1.3 Chinese characters in each."""
    size = len(text) if text.isascii() else len(text.encode())
    return -(-size // _BYTES_PER_TOKEN)


def cut_to(text: str, tokens: int) -> str:
    """Return the longest beginning of `text` that costs at most `tokens`."""
    return text.encode()[: tokens * _BYTES_PER_TOKEN].decode(errors="ignore")
