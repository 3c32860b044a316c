"""The port between the owner and one worker: whole messages in both directions, in order."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Protocol

import anyio

if TYPE_CHECKING:
    import socket

_LENGTH = struct.Struct("!I")
_BUFFER = 1024 * 1024


class Channel(Protocol):
    """Carries messages. When the other side is gone, both calls raise `anyio.EndOfStream`."""

    @property
    def machine(self) -> str:
        """The machine of the worker; empty for this one."""

    @property
    def why_ended(self) -> str:
        """The reason why the other side is gone, as far as it is known."""

    async def send(self, message: bytes) -> None:
        """Send a message; returns when another may be sent."""

    async def receive(self) -> bytes:
        """Return the next message."""

    async def aclose(self) -> None:
        """Close it. The other side notices that."""


class SocketChannel:
    """Messages over a socket, each preceded by its length in bytes.

    Args:
        connected: a connected stream socket, which it closes.
    """

    machine = ""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    @property
    def why_ended(self) -> str:
        """See `Channel`."""
        return "the connection was closed"

    async def open(self) -> None:
        """Use the socket in this event loop. Call it once, before all other methods."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=_BUFFER)

    async def send(self, message: bytes) -> None:
        """See `Channel`."""
        try:
            self._writer.writelines((_LENGTH.pack(len(message)), message))
            await self._writer.drain()
        except OSError as error:
            raise anyio.EndOfStream from error

    async def receive(self) -> bytes:
        """See `Channel`."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise anyio.EndOfStream from error

    async def aclose(self) -> None:
        """See `Channel`."""
        self._writer.close()
