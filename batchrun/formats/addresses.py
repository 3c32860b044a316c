"""Checks of what a request has besides its body: base URL, key variable, extra headers.

Error messages do not contain values that may be secret.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from batchrun.formats.credentials import check_url, is_credential

if TYPE_CHECKING:
    from collections.abc import Mapping


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# As long as keys, without the words of a name, and with digits.
_KEY_LIKE = re.compile(r"(?=.*\d)[A-Za-z0-9]{32,}\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_ENDPOINTS = ("/messages", "/chat/completions", "/completions", "/responses")
# These describe the transfer of a request; a wrong one breaks every request.
_TRANSPORT_HEADERS = frozenset({"content-length", "transfer-encoding", "connection"})


def check_base_url(given: str, *, allow_http: bool) -> str:
    """Return the part of a URL before `/v1`.

    Raises:
        ValueError: if it is not a base URL, or would send the key unencrypted.
    """
    check_url(given)
    url = given.rstrip("/").removesuffix("/v1").rstrip("/")
    parts = _split(url)
    if "?" in url or "#" in url:
        raise ValueError("must not have a query or fragment")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError('must start with https:// and contain a host, such as "https://host"')
    if url.endswith(_ENDPOINTS):
        raise ValueError('must be the part before /v1, such as "https://host"')
    if parts.scheme == "http" and not (allow_http or _is_loopback(parts.hostname)):
        raise ValueError(
            f"plain http to {parts.hostname} would send the key and the data unencrypted; use "
            "https, or allow it with allow_http = true"
        )
    return url


def _split(url: str) -> SplitResult:
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("must be a URL without spaces, backslashes or control characters")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL ({error})") from None
    return parts


def provider_of(base_url: str) -> str:
    """Return the provider of a base URL: its host, with the port if it is not the default.

    A server on this machine is `localhost` without its port, which can change at each start.
    """
    parts = urlsplit(base_url)
    host, port = parts.hostname or "", parts.port
    if _is_loopback(host):
        return "localhost"
    usual = port in {None, 443 if parts.scheme == "https" else 80}
    return host if usual else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_key_variable(name: str) -> None:
    """Check the name of an environment variable; empty means: no key.

    Raises:
        ValueError: if it is not a valid name, or may be the key itself.
    """
    if name and (not _VARIABLE.match(name) or is_credential(name) or _KEY_LIKE.match(name)):
        raise ValueError(
            "must be the name of an environment variable, such as ANTHROPIC_API_KEY, not the key "
            "itself"
        )


def check_headers(headers: Mapping[str, object]) -> None:
    """Check that headers can be sent.

    Raises:
        ValueError: naming the header, never its value.
    """
    seen: set[str] = set()
    for name, value in headers.items():
        if not _HEADER_NAME.match(name):
            raise ValueError(f"{name!r:.80} is not a valid header name")
        if name.lower() in _TRANSPORT_HEADERS:
            raise ValueError(f"{name} is set by batchrun; remove it")
        if name.lower() in seen:
            raise ValueError(f"{name} appears twice (case is ignored); remove one")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValueError(f"{name} must be one line of printable ASCII text")
        seen.add(name.lower())
