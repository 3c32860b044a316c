"""The URL that requests are posted to, built from the address in a job.

An address is a base URL, such as `https://host` or `https://host/api/v3`, or the whole endpoint with its
query. A version that is already in the address is not added again.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_VERSION = re.compile(r"v\d+(?:(?:alpha|beta)\d*)?", re.IGNORECASE)
_FIRST_VERSION = "/v1"


def endpoint_of(path: str) -> str:
    """Return the end of every endpoint of a format, without the version: its path without `/v1`."""
    return path.removeprefix(_FIRST_VERSION)


def is_endpoint(address: str, path: str) -> bool:
    """Whether an address is a whole endpoint, and not a base URL."""
    return urlsplit(address).path.rstrip("/").endswith(endpoint_of(path))


@lru_cache(maxsize=256)  # for every request
def request_url(address: str, path: str, *, sdk_adds_version: bool) -> str:
    """Return the URL of requests.

    Args:
        address: the address of a job, already checked.
        path: the path of the format, with the version that most servers have.
        sdk_adds_version: whether the vendor's SDK adds the version to every base URL, also to one with a
            version in its middle.
    """
    if is_endpoint(address, path):
        return address
    return (
        address + path if _needs_version(address, sdk_adds_version) else address + endpoint_of(path)
    )


def _needs_version(address: str, sdk_adds_version: bool) -> bool:
    path = urlsplit(address).path.rstrip("/")
    return not has_version(path.rpartition("/")[2] if sdk_adds_version else path)


def has_version(path: str) -> bool:
    """Whether a part of a path is a version, such as `v1` or `v1beta`."""
    return any(_VERSION.fullmatch(part) for part in path.split("/"))


def without_version(address: str) -> str:
    """Return a base URL without the `/v1` at its end, unless another version precedes it."""
    short = address.removesuffix(_FIRST_VERSION).rstrip("/")
    return address if has_version(urlsplit(short).path) else short


def root_of(url: str, path: str) -> str:
    """Return the common start of all URLs of an API: a URL of requests without its end and query."""
    parts: SplitResult = urlsplit(url)
    plain = parts._replace(query="", fragment="").geturl().rstrip("/")
    return plain.removesuffix(endpoint_of(path))
