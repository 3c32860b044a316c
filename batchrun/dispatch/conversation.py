"""Conversations: answers that another request has to follow.

The model calls tools, and is told what they gave; or the provider paused a turn of its own tools, which
goes back as it came. Every turn is in the checkpoint before anything follows from it: it is paid for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import orjson

from batchrun import formats
from batchrun.records import Ending

if TYPE_CHECKING:
    from batchrun.dispatch.ports import Journal, Tools
    from batchrun.records import Completion, PlannedRequest, Turn

# As many as [tools] max_turns has by default.
MAX_TURNS = 10


class Conversation:
    """Takes the turns of a conversation.

    Args:
        journal: keeps the turns.
        tools: carry out calls; None leaves calls to the user.
        max_turns: how many turns a conversation may have.
    """

    def __init__(self, journal: Journal, tools: Tools | None, max_turns: int) -> None:
        self._journal = journal
        self._tools = tools
        self._max_turns = max_turns

    def goes_on(self, completion: Completion) -> bool:
        """Say whether another request has to follow an answer."""
        if completion.ending is Ending.PAUSED and completion.tool_calls is None:
            return completion.turn is not None
        return self._tools is not None and self._tools.wants(completion)

    def ends(self, turns: int) -> bool:
        """Say whether a conversation with this many turns has reached its bound."""
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
        """Say whether turns of earlier executions can be gone on from."""
        return self._tools is not None or all(turn.results == "[]" for turn in turns)

    async def follow(self, request: PlannedRequest, turn: Turn) -> PlannedRequest:
        """Return the request that follows a turn; its tools run first, if they have not yet."""
        if turn.results is None and self._tools is not None:
            turn = replace(turn, results=await self._tools.run(turn.calls))
            with anyio.CancelScope(shield=True):
                await self._journal.turn(turn)
        wire = formats.continued(request.request.format, request.wire, turn)
        return replace(request, wire=wire, turns=(*request.turns, turn))


def _has_tools(request: PlannedRequest) -> bool:
    """Say whether a request offers tools, those that the provider runs included."""
    return bool(orjson.loads(request.wire.body).get("tools"))


def concluded(completion: Completion, request: PlannedRequest) -> Completion:
    """Return the last answer of a conversation with what the turns before it brought."""
    is_json = request.request.answer is not None
    return formats.with_turns(completion, request.turns, is_json=is_json)
