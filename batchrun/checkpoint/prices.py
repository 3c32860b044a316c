"""By which prices each execution counted, kept beside what it counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from batchrun.history import PriceUse

if TYPE_CHECKING:
    from batchrun.checkpoint.sqlite import Database
    from batchrun.checkpoint.store import Checkpoint

# The same price in several executions is told once, as of its latest use.
_PRICES = """SELECT model, source, max(as_of_us), matched, rates FROM prices
    GROUP BY model, source, matched, rates ORDER BY max(execution), model"""


def note_price(store: Checkpoint, price: PriceUse) -> None:
    """Record by which price this execution counts the costs of a model."""
    rates = None
    if price.rates is not None:
        rates = orjson.dumps({**price.rates, "tiers": price.tiers}).decode()
    told = (store.execution, price.model, price.source, price.as_of_us, price.matched, rates)
    with store.transaction():
        store.db.execute("INSERT OR REPLACE INTO prices VALUES (?, ?, ?, ?, ?, ?)", told)


def prices(db: Database) -> tuple[PriceUse, ...]:
    """Return the prices that a run was counted by."""
    return tuple(_price(row) for row in db.execute(_PRICES))


def _price(row: tuple[Any, ...]) -> PriceUse:
    model, source, as_of_us, matched, rates = row
    if rates is None:
        return PriceUse(model, source, as_of_us)
    found = orjson.loads(rates)
    tiers = tuple((start, tier) for start, tier in found.pop("tiers", ()))
    return PriceUse(model, source, as_of_us, matched, found, tiers)
