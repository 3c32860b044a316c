"""A real browser without a window, steered by its DevTools over a pipe: no port, no network."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ANSWER_S = 120.0
# It would look for updates, sync and translate; and as root it has no sandbox.
OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--hide-scrollbars",
    "--font-render-hinting=none",
)


def find() -> str | None:
    """Return where a browser is, None when there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One process for any number of pages."""

    def __init__(self, program: str, profile: str) -> None:
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        # It reads commands from 3 and writes answers to 4, so ours must be elsewhere.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (commands, answers)]
        os.close(commands)
        os.close(answers)
        self._pid = os.posix_spawn(
            program,
            [program, *OPTIONS, f"--user-data-dir={profile}"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, ends[0], 3),
                (os.POSIX_SPAWN_DUP2, ends[1], 4),
            ],
            setpgroup=0,
        )
        for fd in ends:
            os.close(fd)
        self._last = 0
        self._unread = b""
        self.events: list[dict[str, Any]] = []
        self.ask("Browser.getVersion")

    def close(self) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._to)
        os.close(self._from)

    def ask(self, method: str, session: str | None = None, **given: object) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are kept."""
        self._last += 1
        command: dict[str, object] = {"id": self._last, "method": method, "params": given}
        if session is not None:
            command["sessionId"] = session
        _write(self._to, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_S
        while (message := self._next(deadline)).get("id") != self._last:
            self.events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    def wait_for(self, session: str, method: str) -> None:
        """Wait for an event, which is kept as all others are."""
        deadline = time.monotonic() + ANSWER_S
        while not any(e["method"] == method for e in self.of(session)):
            self.events.append(self._next(deadline))

    def of(self, session: str) -> list[dict[str, Any]]:
        """Return the events of a page."""
        return [event for event in self.events if event.get("sessionId") == session]

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            read = os.read(self._from, 1 << 20) if ready else b""
            if not read:
                raise TimeoutError("the browser does not answer" if not ready else "it is gone")
            self._unread += read
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


class Page:
    """A page of its own with what it said and asked for."""

    def __init__(
        self, browser: Browser, *, width: int = 1280, dark: bool = False, paper: bool = False
    ) -> None:
        self._browser = browser
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        self._target = target
        self._session: str = browser.ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        media = "print" if paper else "screen"
        self._ask("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._browser.ask("Target.closeTarget", targetId=self._target)

    def open(self, file: Path) -> None:
        """Show a file, and wait until it is there."""
        self._ask("Page.navigate", url=file.absolute().as_uri())
        self._browser.wait_for(self._session, "Page.loadEventFired")

    def run(self, expression: str) -> Any:
        """Return the value of an expression."""
        found = self._ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def type(self, text: str) -> None:
        """Type where the focus is."""
        self._ask("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        for kind in ("rawKeyDown", "char", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "char" else {}
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, **text)

    def picture(self, file: Path, height: int | None = None, top: int = 0) -> None:
        """Keep what it looks like, from `top` to its end or for so many pixels."""
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {
            "x": 0,
            "y": top,
            "width": size["width"],
            "height": min(height or 1 << 20, size["height"] - top),
            "scale": 1,
        }
        found = self._ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def print(self, file: Path) -> None:
        """Print it to a PDF."""
        file.write_bytes(base64.b64decode(self._ask("Page.printToPDF")["data"]))

    def complaints(self) -> list[str]:
        """Return what it said on its console: errors, warnings, refusals by its policy."""
        said = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
        return [json.dumps(e["params"]) for e in self._events() if e["method"] in said]

    def requests(self) -> list[str]:
        """Return the addresses of everything that it wanted to load."""
        wanted = "Network.requestWillBeSent"
        found = [e["params"]["request"]["url"] for e in self._events() if e["method"] == wanted]
        return [url[:200] for url in found]

    def _events(self) -> list[dict[str, Any]]:
        self._ask("Runtime.evaluate", expression="0")  # what happened before is reported before
        return self._browser.of(self._session)

    def _ask(self, method: str, **given: object) -> dict[str, Any]:
        return self._browser.ask(method, self._session, **given)


@contextmanager
def browsing(program: str) -> Iterator[Browser]:
    """Start a browser, and end it with all its processes."""
    with tempfile.TemporaryDirectory(
        prefix="batchrun-browser-", ignore_cleanup_errors=True
    ) as home:
        browser = Browser(program, home)
        try:
            yield browser
        finally:
            browser.close()


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
