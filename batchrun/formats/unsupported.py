"""Parameters that a provider says a model does not support, and requests without them.

Only parameters that do not change the question are left out: not messages, tools, schemas, lengths,
stop sequences, the number of answers, or the tier, which has a separate price.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from batchrun.formats.parsing import dumps, loads
from batchrun.records import changed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from batchrun.errors import ProviderFault
    from batchrun.records import PlannedRequest, WireRequest

# Keys of a body, in either format.
DROPPABLE = (
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "metadata",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "parallel_tool_calls",
)
_STATUSES = frozenset({400, 422})
_UNSUPPORTED = re.compile(
    r"unsupported|not (?:supported|permitted|allowed|accepted|available)|n[o']t support"
    r"|extra inputs|unrecognized|unknown (?:field|name|parameter|argument)|unexpected"
    r"|deprecated|only the default|incompatible",
    re.IGNORECASE,
)
_LONGEST_MESSAGE = 1_000
# A quotation with a space in it may be the row's own words.
_QUOTATION = re.compile(r"""(["'`])(?:(?!\1).)*\s(?:(?!\1).)*\1""", re.DOTALL)
_NAMES = re.compile(rf"(?<![\w.-])({'|'.join(DROPPABLE)})(?![\w-])")


def unsupported_parameter(fault: ProviderFault, sent: bytes | None = None) -> str | None:
    """Return the parameter that a refusal names as not supported; None if it names none.

    Args:
        fault: the refusal.
        sent: the body that was refused, which must have the parameter; None if it is not known.
    """
    if fault.http_status not in _STATUSES:
        return None
    message = _QUOTATION.sub("…", fault.message[:_LONGEST_MESSAGE])
    if _UNSUPPORTED.search(message) is None:
        return None
    asked = None if sent is None else loads(sent)
    names = (found[0] for found in _NAMES.finditer(message))
    return next((name for name in names if asked is None or name in asked), None)


def without_parameters(body: bytes, names: Collection[str]) -> bytes:
    """Return a body without some of its keys; the order of the others stays."""
    asked = loads(body)
    return dumps({key: value for key, value in asked.items() if key not in names})


class DroppedParameters:
    """What `[request] on_unsupported = "drop"` has left out so far, by model.

    Args:
        known: pairs of a model and a parameter, of earlier executions.
        is_on: whether parameters are left out at all.
    """

    def __init__(self, known: Iterable[tuple[str, str]] = (), *, is_on: bool = False) -> None:
        self._is_on = is_on
        self._by_model: dict[str, set[str]] = {}
        for model, name in known:
            self.add(model, name)

    @property
    def known(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a model and a parameter that is left out."""
        return tuple((model, name) for model, names in self._by_model.items() for name in names)

    def add(self, model: str, name: str) -> bool:
        """Leave a parameter out from now on; return whether that is new."""
        names = self._by_model.setdefault(model, set())
        is_new = name not in names
        names.add(name)
        return is_new

    def sent(self, request: PlannedRequest) -> WireRequest:
        """Return a request without the parameters that its model does not support."""
        names = self._by_model.get(request.request.model) if self._is_on else None
        if not names:
            return request.wire
        return changed(request.wire, body=without_parameters(request.wire.body, names))

    def learn(self, model: str, fault: ProviderFault, sent: bytes | None = None) -> str | None:
        """Leave out the parameter that a refusal names from now on; return it, None if there is none."""
        name = unsupported_parameter(fault, sent) if self._is_on else None
        if name is not None:
            self.add(model, name)
        return name
