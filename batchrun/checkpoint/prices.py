"""By which prices each execution counted, kept beside what it counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from batchrun.history import PriceUse

if TYPE_CHECKING:
    from batchrun.checkpoint.sqlite import Database
    from batchrun.checkpoint.store import Checkpoint

# The same price in several executions is listed once, as of its latest use.
_PRICES = """SELECT model, conditions, source, max(as_of_us), matched, rates FROM prices
    GROUP BY model, conditions, source, matched, rates ORDER BY max(execution), model, conditions"""
_INSERT = """INSERT INTO prices (execution, model, conditions, source, as_of_us, matched, rates)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""


def note_price(store: Checkpoint, price: PriceUse, execution: int | None = None) -> None:
    """Record by which price an execution counts the costs of a model; by default, the latest."""
    rates = None
    if price.rates is not None:
        rates = orjson.dumps({**price.rates, "tiers": price.tiers}).decode()
    with store.transaction():
        store.db.execute(
            _INSERT,
            (
                store.execution if execution is None else execution,
                price.model,
                price.conditions,
                price.source,
                price.as_of_us,
                price.matched,
                rates,
            ),
        )


def prices(db: Database) -> tuple[PriceUse, ...]:
    """Return the prices that a run was counted by."""
    return tuple(_price(row) for row in db.execute(_PRICES))


def _price(row: tuple[Any, ...]) -> PriceUse:
    model, conditions, source, as_of_us, matched, rates = row
    if rates is None:
        return PriceUse(model, source, as_of_us, matched, conditions=conditions)
    found = orjson.loads(rates)
    tiers = tuple((start, tier) for start, tier in found.pop("tiers", ()))
    return PriceUse(model, source, as_of_us, matched, found, tiers, conditions)
