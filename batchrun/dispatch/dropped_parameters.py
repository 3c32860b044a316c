"""Parameters that are left out of requests, because the provider said that a model does not support them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchrun.formats.unsupported import unsupported_parameter, without_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchrun.errors import ProviderFault
    from batchrun.records import PlannedRequest, WireRequest


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
            self._by_model.setdefault(model, set()).add(name)

    def sent(self, request: PlannedRequest) -> WireRequest:
        """Return a request as it is sent: without what its model does not support."""
        names = self._by_model.get(request.request.model) if self._is_on else None
        if not names:
            return request.wire
        return replace(request.wire, body=without_parameters(request.wire.body, names))

    def learn(self, model: str, fault: ProviderFault, sent: bytes | None = None) -> str | None:
        """Return the parameter that a refusal names, which is left out from now on; None if none."""
        name = unsupported_parameter(fault, sent) if self._is_on else None
        if name is not None:
            self._by_model.setdefault(model, set()).add(name)
        return name
