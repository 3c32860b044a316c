"""Symbolic equality of mathematical answers by math-verify, in a process that can be killed.

An expression of a model can keep a computer algebra system busy forever, and Python cannot interrupt it.
"""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batchrun.errors import JobError, quoted
from batchrun.evaluation.scores import CannotScore

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess


TIMEOUT_S = 10.0
START_S = 60.0  # importing sympy takes seconds on a busy machine
TOO_LONG = f"comparing took longer than {TIMEOUT_S:g} s"
NEEDS = 'needs the package math-verify; install it with: pip install "batchrun[math]"'


def check_math() -> None:
    """Check that the package is installed.

    Raises:
        JobError: if it is not.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise JobError(f'[score] match = "math" {NEEDS}')


class SymbolicMath:
    """Compares expressions in a separate process, which is started with the first expression."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def compare(self, text: str, expected: str) -> tuple[bool, str | None]:
        """Return whether an answer equals the expected expression, and the expression that was read from it.

        Raises:
            CannotScore: when the expected text is not an expression, or comparing takes too long.
        """
        pipe = self._started()
        try:
            pipe.send((text, expected))
            is_done = pipe.poll(TIMEOUT_S)
            is_same, said, problem = pipe.recv() if is_done else (False, None, TOO_LONG)
        except (EOFError, OSError):
            is_done, problem = False, "the process that compares expressions died"
        if not is_done:
            self._end()
        if problem is not None:
            raise CannotScore(problem)
        return is_same, said

    def _started(self) -> Connection:
        if self._process is not None and self._process.is_alive() and self._pipe is not None:
            return self._pipe
        import multiprocessing  # noqa: PLC0415 - few jobs compare formulas

        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()
        try:
            if not self._pipe.poll(START_S):
                raise CannotScore(f"math-verify could not be loaded within {START_S:g} s")
            self._pipe.recv()
        except EOFError:
            raise CannotScore(f"math {NEEDS}") from None
        return self._pipe

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None


def _serve(pipe: Connection) -> None:
    """Compare the pairs that arrive through the pipe, until it is closed."""
    library = importlib.import_module("math_verify")  # takes seconds, and is an extra
    pipe.send("ready")
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            pipe.send(_compare(library, *pipe.recv()))


def _compare(
    library: Any,  # noqa: ANN401 - a module
    text: str,
    expected: str,
) -> tuple[bool, str | None, str | None]:
    options = {"parsing_timeout": None, "raise_on_error": False}
    is_marked = "$" in expected or r"\boxed" in expected
    right = library.parse(expected if is_marked else f"${expected}$", **options)
    if not right:
        return False, None, f"expected is not a mathematical expression: {quoted(expected)}"
    said = library.parse(text, **options)
    if not said:
        return False, None, None
    is_same = library.verify(right, said, timeout_seconds=None)
    return bool(is_same), str(said[0]), None
