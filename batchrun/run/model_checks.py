"""Checks by the name of the model: whether it has a price, and which parameters it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.errors import JobError, quoted, short
from batchrun.formats.parameters import is_template
from batchrun.pricing import near_model, near_provider, price_book

if TYPE_CHECKING:
    from batchrun.job import Job


def check_price(job: Job) -> None:
    """Check that a cost cap can be enforced. If the model differs by row, each row is checked before it is sent.

    Raises:
        JobError: when the model's price is not known.
    """
    model = _unpriced_model(job)
    if job.limits.max_cost_usd is not None and model is not None:
        raise JobError(
            f"[limits] max_cost_usd: the price of {short(model)} is not known{_why_unpriced(job, model)}, so "
            "the cap could not be kept; give the price in [price], or use a model that the price list "
            "has"
        )


def request_hints(job: Job) -> list[str]:
    """Return hints about the parameters of the job."""
    hints = (_model_hint(job), _refused_hint(job))
    return [hint for hint in hints if hint is not None]


def _refused_hint(job: Job) -> str | None:
    """Return a hint if parameters are not sent because the model refuses them."""
    request = job.request
    if is_template(request.model) or "model" in request.from_columns:
        return None
    given = {*request.parameters, *request.from_columns}
    refused = request.rules(request.model, request.parameters.get("effort")).refused & given
    if not refused:
        return None
    return (
        f"[request] {', '.join(sorted(refused))}: not sent, because {short(request.model)} does not accept "
        f"{'it' if len(refused) == 1 else 'them'}"
    )


def _model_hint(job: Job) -> str | None:
    """Return a hint if the model may be misspelt. It may also be a model that only this server has."""
    model, request = _unpriced_model(job), job.request
    if model is None:
        return None
    if (near := near_model(model, request.provider, request.base_url)) is not None:
        return (
            f'[request] model: the price list has no {short(model)} (did you mean "{near}"?); its cost will '
            "be unknown"
        )
    if request.provider is not None and (name := near_provider(request.provider)) is not None:
        return (
            f'[request] provider: the price list has no {request.provider} (did you mean "{name}"?); '
            "costs will be unknown"
        )
    return None


def _unpriced_model(job: Job) -> str | None:
    """Return the model of all rows if its price is not known."""
    model = job.request.model
    if is_template(model) or "model" in job.request.from_columns:
        return None
    return model if price_book(job).highest(1, 1, model, service_tier(job)) is None else None


def service_tier(job: Job) -> str | None:
    """Return the service tier that every request asks for; None if rows may differ."""
    tier = job.request.parameters.get("service_tier")
    return None if tier is None or is_template(tier) else str(tier)


def _why_unpriced(job: Job, model: str) -> str:
    """Return the probable reason why the price is not known."""
    request, tier = job.request, service_tier(job)
    if (
        near := near_model(model, request.provider, request.base_url)
    ) is not None and near != model:
        return f' (did you mean "{near}"?)'
    book = price_book(job)
    if book.highest(1, 1, model) is not None:
        return f" with service_tier = {quoted(tier)}"
    if not book.knows_provider:
        return f" at {request.provider_name}"
    return ""
