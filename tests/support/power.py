"""What a power failure leaves: a command's system calls are recorded, and replayed on a disk that forgets.

The disk keeps what was flushed and nothing else, as POSIX allows: of a file the bytes at its last
`fsync`, of a directory the names at the `fsync` of that directory. `strace` records the calls, so
that SQLite's, Python's and polars' are all seen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.conftest import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CALLS = (
    "openat,close,write,pwrite64,writev,sendto,sendmsg,ftruncate,fsync,fdatasync,"
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,link,linkat"
)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+)")
_FILE = re.compile(r"\d+<((?:\\x[0-9a-f]{2})*)>")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(?:, )?")


@cache
def _cannot_trace() -> str | None:
    """Say why system calls cannot be recorded here, None when they can be."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-qq", "-o", os.devnull, "true"], check=False, capture_output=True
    )
    return None if tried.returncode == 0 else "strace may not trace processes here"


def require_strace() -> None:
    """Skip a test where there is no strace; in CI that is a failure."""
    if (reason := _cannot_trace()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def traced(trace: Path, *arguments: str | Path) -> tuple[int, str]:
    """Run the command to its end with its calls recorded; return its exit code and stderr."""
    done = subprocess.run(
        [
            *("strace", "-f", "-y", "-qq", "-xx", "-s", "50000000"),
            *("-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(trace)),
            *(sys.executable, "-m", "batchrun", *map(str, arguments)),
        ],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=480,
    )
    return done.returncode, done.stderr


@dataclass(frozen=True)
class SystemCall:
    """A call that succeeded: its name, its arguments as text, and what it returned.

    `file` is the path of the descriptor that it was about, `texts` are its strings.
    """

    name: str
    arguments: str
    result: int
    file: str
    texts: tuple[bytes, ...]

    @property
    def offset(self) -> int:
        """The last argument, as a number."""
        return int(self.arguments.rpartition(", ")[2])


def calls(trace: Path) -> Iterator[SystemCall]:
    """Yield the recorded calls in order; one that others interrupted counts where it returned."""
    begun: dict[str, str] = {}
    with trace.open(encoding="latin-1") as lines:
        for line in lines:
            process, _, text = line.rstrip("\n").partition(" ")
            text = text.strip()
            if text.endswith("<unfinished ...>"):
                begun[process] = text.removesuffix("<unfinished ...>").rstrip()
                continue
            if text.startswith("<..."):
                text = begun.pop(process, "") + _RESUMED.sub("", text, count=1)
            match = _CALL.match(text)
            if match is not None and not match["result"].startswith("-"):
                yield _call(match)


def _call(match: re.Match[str]) -> SystemCall:
    arguments = match["arguments"]
    texts = tuple(map(_bytes, _TEXT.findall(arguments)))
    file = _FILE.match(arguments)
    path = "" if file is None else _bytes(file[1]).decode()
    plain = _TEXT.sub('""', arguments)
    return SystemCall(match["name"], plain, int(match["result"]), path, texts)


def _bytes(written: str) -> bytes:
    return bytes.fromhex(written.replace("\\x", ""))


@dataclass
class _File:
    """What is in a file, and what of it is on the disk."""

    content: bytearray = field(default_factory=bytearray)
    flushed: bytes = b""

    def write(self, at: int, data: bytes) -> None:
        if len(self.content) < at:
            self.content.extend(bytes(at - len(self.content)))
        self.content[at : at + len(data)] = data


@dataclass
class Disk:
    """Everything below a directory, which is empty at first and on the disk itself."""

    root: str
    _names: dict[str, _File | None] = field(default_factory=dict)  # None is a directory
    _flushed_names: dict[str, _File | None] = field(default_factory=dict)
    _places: dict[tuple[str, str], int] = field(default_factory=dict)

    def apply(self, call: SystemCall) -> None:
        """Do what a call did."""
        if call.name in {"fsync", "fdatasync"}:
            self._flush(call.file)
        elif call.name in {"write", "pwrite64"}:
            self._write(call)
        elif call.name == "ftruncate" and (file := self._names.get(call.file)) is not None:
            size = call.offset
            file.write(size, b"")
            del file.content[size:]
        else:
            self._name(call)

    def _write(self, call: SystemCall) -> None:
        file = self._names.get(call.file)
        if file is None:
            return
        data = call.texts[0][: call.result]
        descriptor = call.arguments.partition("<")[0]
        if call.name == "pwrite64":
            file.write(call.offset, data)
        else:
            at = self._places.get((descriptor, call.file), 0)
            file.write(at, data)
            self._places[descriptor, call.file] = at + len(data)

    def _name(self, call: SystemCall) -> None:
        paths = [text.decode() for text in call.texts]
        if not paths or not paths[-1].startswith(self.root):
            return
        path = paths[-1]
        if call.name == "openat":
            self._open(call, path)
        elif call.name.startswith("mkdir"):
            self._names[path] = None
        elif call.name.startswith("unlink"):
            self._names.pop(path, None)
        elif call.name.startswith("rename"):
            self._names[path] = self._names.pop(paths[0])
        elif call.name.startswith("link"):
            self._names[path] = self._names[paths[0]]

    def _open(self, call: SystemCall, path: str) -> None:
        if "O_CREAT" in call.arguments:
            self._names.setdefault(path, _File())
        file = self._names.get(path)
        if file is not None and "O_TRUNC" in call.arguments:
            file.content.clear()
        self._places[str(call.result), path] = 0

    def _flush(self, path: str) -> None:
        if path == self.root or self._names.get(path, self) is None:
            self._flushed_names = {
                name: file
                for name, file in self._flushed_names.items()
                if os.path.dirname(name) != path  # noqa: PTH120 - names, not files
            } | {
                name: file
                for name, file in self._names.items()
                if os.path.dirname(name) == path  # noqa: PTH120
            }
        elif (file := self._names.get(path)) is not None:
            file.flushed = bytes(file.content)

    def after_power_failure(self, place: Path, *, names_survive: bool) -> None:
        """Write what is left into an empty directory.

        Args:
            place: where.
            names_survive: whether the disk was quick with names, and slow with content, as journals
                may be; otherwise it kept only the names that were flushed.
        """
        names = self._names if names_survive else self._flushed_names
        place.mkdir()
        for name in sorted(names):
            path = place / os.path.relpath(name, self.root)
            if name.endswith("-shm") or not path.parent.is_dir():
                continue  # SQLite makes it anew; or its directory is gone
            if (file := names[name]) is None:
                path.mkdir()
            else:
                path.write_bytes(file.flushed)
