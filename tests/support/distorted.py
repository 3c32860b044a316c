"""A transport to the simulator that changes what arrives: a vendor whose batches are not as they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from batchrun.client import PyreqwestTransport
from tests.support.vendor import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable


class DistortingTransport(httpx.AsyncBaseTransport):
    """Carries calls to a vendor and changes the answers.

    Args:
        change: from the kind of a call, its status and body to those that arrive.

    Attributes:
        kinds: the calls so far, see `kind_of`.
    """

    def __init__(self, change: Callable[[str, int, bytes], tuple[int, bytes]]) -> None:
        self._change = change
        self._inner = PyreqwestTransport(connections=4)
        self.kinds: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        kind = kind_of(request)
        self.kinds.append(kind)
        response = await self._inner.handle_async_request(request)
        status, body = self._change(kind, response.status_code, await response.aread())
        headers = {"content-type": response.headers.get("content-type", "")}
        return httpx.Response(status, headers=headers, content=body, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()
