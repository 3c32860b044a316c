"""Reads keys and secret headers from the environment, and redacts them in what a server sends.

Some providers repeat a key that they refuse, and debugging servers repeat whole requests, in bodies,
headers and answers, escaped or in base64. Records contain `***` instead.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from batchrun.client.key_command import KeyCommand
from batchrun.errors import JobError, short
from batchrun.formats.credentials import MASK, without_credentials
from batchrun.records import Billing, Completion, changed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from batchrun.errors import ProviderFault
    from batchrun.formats import WireFormat
    from batchrun.job import RequestConfig

# A shorter beginning of a secret at the end of a truncated text may be there by chance.
MIN_KEY_PART = 4
# Shorter keys, such as "EMPTY" for a local server, are words and not secrets.
MIN_SECRET = 12
# The value of a secret header is secret unless it is as short as a word.
MIN_HEADER_SECRET = 6
# How to do without a key.
SIMULATOR = "--simulate, or simulate=True in Python"
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})")


@dataclass(frozen=True)
class Credentials:
    """The key and secret headers of a job. They are stored in memory only, and not shown by `repr`.

    Attributes:
        key: the API key; None sends none.
        headers: secret headers by their lower-case names.
        command: prints the key, which then changes; takes the place of `key`.
    """

    key: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    command: KeyCommand | None = None

    @classmethod
    def of(cls, config: RequestConfig, folder: Path | None = None) -> Credentials:
        """Read the variables that a job names from the environment, or run its command in a folder.

        Raises:
            JobError: if a variable is not set or contains invalid characters, or the command failed.
        """
        headers = tuple(
            (name, _secret_header(name, where)) for name, where in config.secret_headers
        )
        if not config.api_key_command:
            return cls(api_key(config), headers)
        command = KeyCommand(config.api_key_command, folder)
        command.run()
        return cls(None, headers, command)

    @property
    def current_key(self) -> str | None:
        """The key to send now; None sends none."""
        return self.key if self.command is None else self.command.key

    @property
    def account(self) -> str:
        """What distinguishes accounts: the key, or the command, because its keys change."""
        return (self.key or "") if self.command is None else " ".join(self.command.arguments)

    def __repr__(self) -> str:
        names = ", ".join(name for name, _ in self.headers)
        return f"Credentials(key={self.current_key and MASK}, headers=({names}))"

    def sent_with(
        self, headers: Iterable[tuple[str, str]], wire_format: WireFormat, auth: str | None
    ) -> list[tuple[str, str]]:
        """Return headers with the key and the secret headers.

        A header of the job replaces the header of the key if it has the same name.

        Args:
            headers: headers of a request, without credentials.
            wire_format: determines how the key is sent.
            auth: how it is sent instead; None for the format's default.
        """
        replaced = {name for name, _ in self.headers}
        plain = [header for header in headers if header[0] not in replaced]
        found = [*plain, *self.headers]
        if (key := self.current_key) is not None:
            name, value = wire_format.key_header(key, auth)
            found += [] if name in dict(found) else [(name, value)]
        return found

    @property
    def redaction(self) -> Redaction:
        """The redaction of these secrets."""
        keys = (self.key,) if self.command is None else self.command.keys
        return _redaction(keys, self.headers)


@lru_cache(8)
def _redaction(keys: tuple[str | None, ...], headers: tuple[tuple[str, str], ...]) -> Redaction:
    secrets = [key for key in keys if key is not None and len(key) >= MIN_SECRET]
    for _, value in headers:
        secrets += [part for part in _parts(value) if len(part) >= MIN_HEADER_SECRET]
    return Redaction(tuple(dict.fromkeys(secrets)))


def _parts(value: str) -> Iterator[str]:
    """Yield a header's value and its secret parts: of `Bearer KEY` the key, of `Basic` the password."""
    yield value
    scheme, _, rest = value.partition(" ")
    if not rest:
        return
    yield rest.strip()
    if scheme.lower() == "basic":
        try:
            user = base64.b64decode(rest.strip(), validate=True).decode()
        except (binascii.Error, ValueError):
            return
        yield user
        yield user.partition(":")[2]


def api_key(config: RequestConfig) -> str | None:
    """Read the key from the environment variable that the job names; "" names none.

    Raises:
        JobError: when the variable is not set or holds no key.
    """
    variable = config.api_key_env
    if not variable:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise JobError(
            f"the environment variable {short(variable)} is not set. Set it to the API key for "
            f"{config.base_url}, name another variable with [request] api_key_env, or use the "
            f"simulator, which needs no key: {SIMULATOR}"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise JobError(
            f"the environment variable {short(variable)} contains characters that are not valid in an "
            "API key"
        )
    return key


def _secret_header(name: str, variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise JobError(
            f"the environment variable {short(variable)} is not set. Set it to the value of the header "
            f"{name} (see [request] secret_headers), or use the simulator: {SIMULATOR}"
        )
    if not (value.isascii() and value.isprintable()):
        raise JobError(
            f"the environment variable {short(variable)} must be one line of printable ASCII text: it is "
            f"sent as the header {name} (see [request] secret_headers)"
        )
    return value


class Redaction:
    """Removes secrets from texts: literal, escaped for JSON or a URL, and in base64."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._secrets = secrets
        self._found: re.Pattern[str] | None = None
        # Longer ones first: one may be part of another.
        ordered = sorted(secrets, key=len, reverse=True)
        encoded = [part for secret in ordered for part in _in_base64(secret)]
        # What is rewritten keeps its letters and digits, and the longest run of them is looked for
        # first: nearly no text has it.
        self._signs = tuple({_longest_run(part) for part in (*ordered, *encoded)})
        self._plain, self._encoded = ordered, encoded

    def text(self, text: str) -> str:
        """Return a text without the secrets."""
        if not self._may_hold(text):
            return text
        if self._found is None:
            self._found = self._pattern()
        return self._found.sub(MASK, text)

    def _pattern(self) -> re.Pattern[str]:
        patterns = [_pattern(secret) for secret in self._plain]
        patterns += [rf"[\w+/=-]{{0,4}}{_pattern(part)}[\w+/=-]{{0,4}}" for part in self._encoded]
        return re.compile("|".join(patterns))

    def _may_hold(self, text: str) -> bool:
        """Return whether the slow pattern must be tried."""
        if any(sign in text for sign in self._signs):
            return True
        plain = unquote(text) if "%" in text else text
        if "\\u" in plain:
            plain = _ESCAPE.sub(_letter_of, plain)
        return plain is not text and any(sign in plain for sign in self._signs)

    def cut(self, text: str) -> str:
        """Return a truncated text without the secrets, also if the end cuts one short."""
        text = self.text(text)
        for secret in self._secrets:
            for length in range(len(secret) - 1, MIN_KEY_PART - 1, -1):
                if text.endswith(secret[:length]):
                    return text[:-length] + MASK
        return text

    def fault(self, fault: ProviderFault) -> ProviderFault:
        """Return a fault without the secrets, and without anything that looks like a key."""
        return replace(
            fault,
            error_type=without_credentials(self.cut(fault.error_type)),
            message=without_credentials(self.cut(fault.message)),
            request_id=fault.request_id and self.cut(fault.request_id),
            model=fault.model and self.cut(fault.model),
        )

    def completion(self, completion: Completion) -> Completion:
        """Return an answer without the secrets: nearly always the same object."""
        if not self._secrets or not self._may_hold("\n".join(_every_text(completion))):
            return completion
        found = self._changed(completion)
        texts = tuple(self.text(text) for text in completion.texts)
        if texts != completion.texts:
            found["texts"] = texts
        if completion.turn is not None:
            turn = json.dumps(completion.turn, ensure_ascii=False)
            if (struck := self.text(turn)) != turn:
                found["turn"] = json.loads(struck)
        if completion.raw is not None:
            raw = completion.raw.decode("latin-1")
            if (struck := self.text(raw)) != raw:
                found["raw"] = struck.encode("latin-1")
        if billing := self._changed(completion.billing):
            found["billing"] = changed(completion.billing, **billing)
        return changed(completion, **found) if found else completion

    def _changed(self, record: Completion | Billing) -> dict[str, Any]:
        """Return the fields of a record that contain secrets, redacted."""
        values = zip(_TEXT_FIELDS[type(record)], _VALUES[type(record)](record), strict=True)
        struck = ((name, text, self.text(text)) for name, text in values if text is not None)
        return {name: new for name, old, new in struck if new != old}


def _letter_of(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16))


def _in_base64(secret: str) -> Iterator[str]:
    """Yield a secret in base64, for each possible offset in its group of three bytes.

    The letters at both ends, which depend on the surrounding bytes, are omitted.
    """
    content = secret.encode()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + content).decode()
        first = -(-before * 4 // 3)
        end = (before + len(content)) * 4 // 3
        yield encoded[first:end].rstrip("=")


def _longest_run(text: str) -> str:
    runs: list[str] = re.findall(r"[A-Za-z0-9]+", text)
    return max(runs or [text], key=len)


def _pattern(text: str) -> str:
    """Return a pattern for a text in which each letter is literal or escaped."""
    return "".join(map(_letter, text))


def _letter(letter: str) -> str:
    code = ord(letter)
    forms = [re.escape(letter), f"(?i:%{code:02x})", rf"(?i:\\u{code:04x})"]
    if letter in "\"\\/'":
        forms.append(re.escape(f"\\{letter}"))
    # base64 has another alphabet for URLs.
    forms += {"+": ["-"], "/": ["_"], " ": [r"\+"]}.get(letter, [])
    return f"(?:{'|'.join(forms)})"


def _every_text(completion: Completion) -> Iterator[str]:
    yield from completion.texts
    values = (*_VALUES[Completion](completion), *_VALUES[Billing](completion.billing))
    yield from filter(None, values)
    if completion.turn is not None:
        yield json.dumps(completion.turn, ensure_ascii=False)
    if completion.raw is not None:
        yield completion.raw.decode("latin-1")


_TEXT_FIELDS = {
    record: tuple(name for name, kind in record.__annotations__.items() if kind == "str | None")
    for record in (Completion, Billing)
}
_VALUES = {record: attrgetter(*names) for record, names in _TEXT_FIELDS.items()}
