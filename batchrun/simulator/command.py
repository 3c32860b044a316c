"""Serving the simulator by itself, until a signal ends it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio

from batchrun.errors import JobError
from batchrun.simulator.server import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.simulator.config import SimulatorConfig


def serve_simulator(
    config: SimulatorConfig, port: int = 0, *, announce: Callable[[str], object] = print
) -> None:
    """Serve on loopback until SIGINT or SIGTERM.

    Args:
        config: how the simulated provider behaves.
        port: 0 takes a free one.
        announce: is told the base URL once the server listens.

    Raises:
        JobError: when the port cannot be used.
    """
    try:
        anyio.run(_serve, config, port, announce)
    except OSError as error:
        raise JobError(f"port {port} cannot be used: {error.strerror or error}") from None


async def _serve(config: SimulatorConfig, port: int, announce: Callable[[str], object]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as server:
            announce(
                await server.start(
                    lambda *, task_status: Simulator(config).serve(port, task_status=task_status)
                )
            )
            async for _ in signals:
                server.cancel_scope.cancel()
                return
