"""Regular expressions of a job file, in RE2 syntax: every pattern takes linear time and bounded memory."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any

from batchrun.errors import short

# Where answers end is what matters; also linear time adds up.
LONGEST_TEXT = 1_000_000
# RE2 is linear in the text, but its compiled form grows with the pattern.
LONGEST_PATTERN = 10_000


class Pattern:
    """A regular expression.

    Raises:
        ValueError: if it is not valid; the message follows the name of a key.
    """

    def __init__(self, source: str) -> None:
        import re2  # noqa: PLC0415 - few jobs have patterns

        options = re2.Options()
        options.log_errors = False
        if len(source) > LONGEST_PATTERN:
            raise ValueError(f"is longer than {LONGEST_PATTERN:,} characters")
        try:
            self._pattern: Any = re2.compile(source, options)
        except re2.error as error:
            raise ValueError(
                f"is not a pattern in RE2 syntax, which has no lookahead, lookbehind or back "
                f"references: {short(_reason(error), 200)}"
            ) from None
        except UnicodeEncodeError:
            raise ValueError(
                "contains half of a surrogate pair, which is not a character"
            ) from None

    def is_in(self, text: str) -> bool:
        """Return whether the pattern matches anywhere in a text."""
        return self._pattern.search(_readable(text)) is not None

    def find(self, text: str) -> str | None:
        """Return the first group of the last match, or the whole match; None without a match.

        The last match counts, because a model corrects itself later in the text.
        """
        found = deque(self._pattern.finditer(_readable(text)), maxlen=1)
        if not found:
            return None
        last = found.pop()
        taken = [group for group in last.groups() if group is not None]
        return str(taken[0] if taken else last.group())


@lru_cache(maxsize=1_024)
def pattern_of(source: str) -> Pattern:
    """Return the pattern of a row; the latest ones are cached."""
    return Pattern(source)


def _readable(text: str) -> str:
    """Return the end of a text, with invalid characters replaced."""
    return text[-LONGEST_TEXT:].encode(errors="replace").decode()


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
