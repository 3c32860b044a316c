"""Tools that are Python functions: `[tools] module` names the file, the calls name the functions.

The return value of a function is sent to the model: text unchanged, anything else as JSON. If a function raises,
takes too long or is called with wrong arguments, the model receives an error, and the conversation continues.
"""

from __future__ import annotations

import inspect
import json
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import orjson

from batchrun import formats
from batchrun.errors import JobError, short
from batchrun.formats.parsing import dumps, loads
from batchrun.job.paths import import_file
from batchrun.records import Ending, changed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from batchrun.dispatch.ports import Journal, Tools
    from batchrun.job import Job
    from batchrun.records import Completion, PlannedRequest, Tool, Turn


# Functions share this process: more threads would only wait for each other.
MAX_THREADS = 32
# A longer output of a function is truncated before it is sent to the model.
MAX_OUTPUT_CHARACTERS = 1_000_000
# Calls of an answer that ended like this may be cut short; they are not carried out.
_UNFINISHED = frozenset({Ending.LENGTH, Ending.REFUSAL, Ending.FILTERED})


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of a call."""

    output: str
    is_error: bool = False


class Toolbox:
    """Carries out the calls of a conversation.

    Args:
        functions: functions by name of the tool; called with its input as keyword arguments.
        timeout_s: maximum duration of one call, in seconds.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]], *, timeout_s: float) -> None:
        self._functions = functions
        self._timeout_s = timeout_s
        self._threads = anyio.CapacityLimiter(MAX_THREADS)

    def wants(self, completion: Completion) -> bool:
        """Return whether the results of an answer's calls must be sent.

        A call of a tool without a function (a tool of the vendor) is left to the user.
        """
        if completion.turn is None or completion.ending in _UNFINISHED:
            return False
        calls = loads(completion.tool_calls or "[]")
        # The legacy function_call has no id: there, the name says what is answered.
        has_ids = "function_call" in completion.turn or all(call["id"] for call in calls)
        are_known = all(str(call["name"]) in self._functions for call in calls)
        return bool(calls) and has_ids and are_known

    async def run(self, calls: str) -> str:
        """Carry out calls (JSON) at the same time; return them with their output (JSON)."""
        listed: list[dict[str, Any]] = loads(calls)
        outcomes = [_Outcome("")] * len(listed)

        async def carry_out(index: int) -> None:
            outcomes[index] = await self._outcome(listed[index])

        async with anyio.create_task_group() as group:
            for index in range(len(listed)):
                group.start_soon(carry_out, index)
        return dumps([_with_output(*pair) for pair in zip(listed, outcomes, strict=True)]).decode()

    async def _outcome(self, call: Mapping[str, Any]) -> _Outcome:
        arguments = call.get("input")
        if not isinstance(arguments, dict):
            return _Outcome("the input is not a JSON object", is_error=True)
        try:
            with anyio.fail_after(self._timeout_s):
                value = await self._call(self._functions[call["name"]], arguments)
            return _Outcome(_as_text(value)[:MAX_OUTPUT_CHARACTERS])
        except TimeoutError as error:
            reason = str(error) or f"no result within {self._timeout_s:g} s"
            return _Outcome(reason, is_error=True)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the model receives any error
            return _Outcome(f"{type(error).__name__}: {error}", is_error=True)

    async def _call(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401
        if inspect.iscoroutinefunction(function):
            return await function(**arguments)
        async with self._threads:
            return await _in_thread(partial(function, **arguments))


async def _in_thread(function: Callable[[], Any]) -> Any:  # noqa: ANN401 - what it returns
    """Run a function in a daemon thread: neither a timeout nor the end of the process waits for it."""
    token, finished = anyio.lowlevel.current_token(), anyio.Event()
    values: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            values.append(function())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is awaited
            errors.append(error)
        with suppress(anyio.RunFinishedError):
            anyio.from_thread.run_sync(finished.set, token=token)

    threading.Thread(target=work, name="batchrun tool", daemon=True).start()
    await finished.wait()
    if errors:
        raise errors[0]
    return values[0]


def toolbox_of(job: Job) -> Toolbox | None:
    """Return the tools of a job; None when the user carries out their calls.

    Raises:
        JobError: when the module cannot be imported or lacks a function.
    """
    config = job.tools
    if config.module is None:
        return None
    functions = load_functions(config.module, job.request.tools)
    return Toolbox(functions, timeout_s=config.timeout_s)


def load_functions(path: Path, tools: Iterable[Tool]) -> dict[str, Callable[..., Any]]:
    """Import a module and return its functions by the names of the tools.

    Raises:
        JobError: when it cannot be imported, or lacks a function for a tool that the job defines.
    """
    module = import_file(path, "[tools] module")
    functions: dict[str, Callable[..., Any]] = {}
    for tool in tools:
        function = getattr(module, tool.name, None)
        if callable(function):
            functions[tool.name] = function
        elif tool.vendor is None:
            raise JobError(
                f"[tools] module: {path} has no function {short(tool.name)}; define it there, or remove "
                "the tool from [request] tools"
            )
    return functions


def _with_output(call: Mapping[str, Any], outcome: _Outcome) -> dict[str, Any]:
    done = {**call, "output": outcome.output}
    return {**done, "is_error": True} if outcome.is_error else done


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))


class Conversation:
    """Continues a conversation turn by turn.

    Args:
        journal: stores the turns.
        tools: carries out calls; None leaves calls to the user.
        max_turns: maximum number of turns of a conversation.
    """

    def __init__(self, journal: Journal, tools: Tools | None, max_turns: int) -> None:
        self._journal = journal
        self._tools = tools
        self._max_turns = max_turns

    def continues(self, completion: Completion) -> bool:
        """Return whether another request must follow an answer."""
        if completion.ending is Ending.PAUSED and completion.tool_calls is None:
            return completion.turn is not None
        return self._tools is not None and self._tools.wants(completion)

    def ends(self, turns: int) -> bool:
        """Return whether a conversation with this many turns has reached `max_turns`."""
        return turns >= self._max_turns

    def too_many_turns(self, request: PlannedRequest) -> tuple[str, str]:
        """Return the error type and message of a conversation that did not end."""
        if self._tools is None and not _has_tools(request):
            return "max_turns", (
                f"the provider paused the answer {self._max_turns} times and did not finish it, "
                "although the request has no tools"
            )
        return "max_turns", (
            f"the model was still working with tools in its turn {self._max_turns}; raise [tools] "
            "max_turns and run again with --retry-errored to continue from there"
        )

    def has_all(self, turns: tuple[Turn, ...]) -> bool:
        """Return whether turns of earlier executions can be continued."""
        return self._tools is not None or all(turn.results == "[]" for turn in turns)

    async def follow(self, request: PlannedRequest, turn: Turn) -> PlannedRequest:
        """Return the request that follows a turn; runs its tools first, if they have not run yet."""
        if turn.results is None and self._tools is not None:
            turn = changed(turn, results=await self._tools.run(turn.calls))
            with anyio.CancelScope(shield=True):
                await self._journal.turn(turn)
        wire = formats.of(request.request.format).continued(request.wire, turn)
        return changed(request, wire=wire, turns=(*request.turns, turn))


def _has_tools(request: PlannedRequest) -> bool:
    """Return whether a request offers tools, including those that the provider runs."""
    return bool(orjson.loads(request.wire.body).get("tools"))


def concluded(completion: Completion, request: PlannedRequest) -> Completion:
    """Return the last answer of a conversation, with the content of its earlier turns."""
    is_json = request.request.answer is not None
    return formats.with_turns(completion, request.turns, is_json=is_json)
