"""Runs the program that prints a short-lived key: when a run begins, and when the key is old or refused."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anyio
import anyio.to_thread

from batchrun.errors import JobError, quoted
from batchrun.formats.credentials import MASK, without_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TIMEOUT_S = 60.0
# Clouds give out tokens for an hour or less; their programs keep them and renew them in time.
MOST_AGE_S = 15 * 60.0
LONGEST_KEY = 64 * 1024
_SHOWN_LETTERS = 500
# Texts of a server may still repeat a key that was renewed.
_KEPT_KEYS = 5


@dataclass(frozen=True, slots=True)
class KeyRenewal:
    """One run of the program after the first. This record never contains a key.

    Attributes:
        reason: why it ran.
        error: why there is no new key; None if there is one.
    """

    reason: Literal["refused", "aged"]
    error: str | None = None


class KeyCommand:
    """The key that a program prints, stored in memory only.

    Args:
        arguments: the program and its arguments; no shell is involved.
        folder: where it runs.
        key: a key that it has printed already.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path | None, key: str | None = None
    ) -> None:
        self.arguments = tuple(arguments)
        self._folder = folder
        self._keys: tuple[str, ...] = () if key is None else (key,)
        self._renewed = time.monotonic()
        self._lock: anyio.Lock | None = None
        self._renewals: list[KeyRenewal] = []

    def __repr__(self) -> str:
        return f"KeyCommand({self.arguments[0]} …)"

    @property
    def key(self) -> str:
        """The newest key; empty before the first."""
        return self._keys[0] if self._keys else ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The last keys, newest first."""
        return self._keys

    def run(self) -> None:
        """Run the program and store the key that it prints.

        Raises:
            JobError: if it fails or prints no key; with its message, without credentials.
        """
        key = self._printed()
        self._renewed = time.monotonic()
        self._keys = (key, *(known for known in self._keys if known != key))[:_KEPT_KEYS]

    def _printed(self) -> str:
        name = self.arguments[0]
        try:
            done = subprocess.run(  # noqa: S603 - the job's own program, without a shell
                self.arguments,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError:
            raise _failure(f"the program {quoted(name)} was not found") from None
        except subprocess.TimeoutExpired:
            raise _failure(f"{quoted(name)} did not end within {TIMEOUT_S:g} s") from None
        except OSError as error:
            raise _failure(f"{quoted(name)} cannot be run ({error.strerror})") from None
        printed = done.stdout[:LONGEST_KEY].decode("utf-8", "replace").strip()
        if done.returncode != 0:
            said = self._shown(done.stderr, printed)
            raise _failure(f"{quoted(name)} failed with exit code {done.returncode}{said}")
        if not printed or not printed.isascii() or not printed.isprintable() or " " in printed:
            found = "nothing" if not printed else "more than one word"
            raise _failure(f"{quoted(name)} must print a key and nothing else; it printed {found}")
        return printed

    def _shown(self, stderr: bytes, printed: str) -> str:
        text = stderr[-LONGEST_KEY:].decode("utf-8", "replace")
        for secret in (*self._keys, *printed.split()):
            text = text.replace(secret, MASK)
        text = " ".join(without_credentials(text).split())
        return f": {text[-_SHOWN_LETTERS:]}" if text else ""

    async def renew(self, used: str) -> bool:
        """Get another key than `used`, which was refused; return whether there is one.

        Raises:
            JobError: if the program fails.
        """
        await self._run_unless(lambda: self.key != used, "refused")
        return self.key != used

    async def renew_if_old(self) -> None:
        """Run the program again if its key is old; if that fails, keep the key."""
        if self._is_fresh():
            return
        try:
            await self._run_unless(self._is_fresh, "aged")
        except JobError:
            # The old key may still be valid: try again after the same time, not for every request.
            self._renewed = time.monotonic()

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._renewed < MOST_AGE_S

    async def _run_unless(
        self, is_done: Callable[[], bool], reason: Literal["refused", "aged"]
    ) -> None:
        """Run the program once for all tasks that wait for it."""
        self._lock = self._lock or anyio.Lock()
        async with self._lock:
            # Another task may have run it while this one waited for the lock.
            if is_done():
                return
            try:
                await anyio.to_thread.run_sync(self.run)
            except JobError as error:
                self._renewals.append(KeyRenewal(reason, str(error)))
                raise
            self._renewals.append(KeyRenewal(reason))

    def note_renewal(self, renewal: KeyRenewal) -> None:
        """Store a renewal for the log; another process may have made it."""
        self._renewals.append(renewal)

    def taken_renewals(self) -> list[KeyRenewal]:
        """Return the renewals since the last call, for the log."""
        taken, self._renewals = self._renewals, []
        return taken


def _failure(reason: str) -> JobError:
    return JobError(f"[request] api_key_command: {reason}")
