"""A real Jupyter kernel (ipykernel), and what its front end would show of a cell."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from queue import Empty
from typing import TYPE_CHECKING, Any

from tests.conftest import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The first cell imports polars, pandas and pyarrow, perhaps on a machine with much else to do.
TIMEOUT_S = 240.0
LOOK_S = 1.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def is_available() -> bool:
    return find_spec("ipykernel") is not None and find_spec("jupyter_client") is not None


@dataclass
class Cell:
    """What a front end shows of a cell that has ended."""

    printed: str = ""
    error: str = ""
    values: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    widgets: int = 0


class Kernel:
    """One kernel process. `manager` and `client` are those of jupyter_client."""

    def __init__(self, manager: Any, client: Any) -> None:
        self._manager = manager
        self._client = client
        self._shown: dict[str, Cell] = {}

    def begin(self, code: str) -> str:
        """Start a cell; return what `end` takes."""
        return str(self._client.execute(code, stop_on_error=False))

    def end(self, cell: str, timeout_s: float = TIMEOUT_S) -> Cell:
        """Wait for a cell that was begun."""
        return self._watch(cell, timeout_s, "")

    def wait_for(self, cell: str, part: str) -> None:
        """Wait until a cell that was begun has printed this."""
        self._watch(cell, TIMEOUT_S, part)

    def _watch(self, cell: str, timeout_s: float, part: str) -> Cell:
        """Wait until a cell has printed something, or has ended; return what is shown of it."""
        found = self._shown.setdefault(cell, Cell())
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                left_s = max(0.0, deadline - time.monotonic())
                message = self._client.get_iopub_msg(timeout=min(LOOK_S, left_s))
            except Empty:
                if not self._manager.is_alive():
                    raise ChildProcessError(f"the kernel has died: {found}") from None
                continue
            if message["parent_header"].get("msg_id") != cell:
                continue
            if _is_last(message, found):
                assert part in found.printed, found
                return found
            if part and part in found.printed:
                return found
        raise TimeoutError(f"{part or 'the end'} did not come within {timeout_s} s: {found}")

    def run(self, code: str) -> Cell:
        return self.end(self.begin(code))

    def wait_for_output(self) -> None:
        """Wait until output arrives: what a kernel sends before it knows of us is lost."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self.end(self.begin("None"), LOOK_S)
                break
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()


def _is_last(message: dict[str, Any], found: Cell) -> bool:
    """Add a message to what is shown of its cell; say whether it was the last one."""
    content = message["content"]
    match message["msg_type"]:
        case "stream":
            found.printed += content["text"]
        case "error":
            found.error = _COLOUR.sub("", "\n".join(content["traceback"]))
        case "execute_result":
            found.values.append(content["data"]["text/plain"])
            found.pages.append(content["data"].get("text/html", ""))
        case "display_data":
            found.widgets += "application/vnd.jupyter.widget-view+json" in content["data"]
        case "status":
            return bool(content["execution_state"] == "idle")
    return False


@contextmanager
def running_kernel(folder: Path, interrupt_mode: str = "signal") -> Iterator[Kernel]:
    """Run a kernel in a folder.

    Args:
        folder: its working directory.
        interrupt_mode: `signal`, or `message` as a front end on another machine does it.
    """
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
    assert manager.kernel_spec is not None
    manager.kernel_spec.interrupt_mode = interrupt_mode
    manager.start_kernel(cwd=str(folder), env=environment())
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT_S)
        kernel = Kernel(manager, client)
        kernel.wait_for_output()
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
