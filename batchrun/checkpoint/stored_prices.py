"""The prices that the costs of a run are computed with, and computing the costs again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint.encoding import (
    BILLING,
    COSTS,
    MONEY,
    PRICE_COLUMNS,
    PRICES,
    SENT,
    USAGE,
    money_row,
)
from batchrun.checkpoint.file import usable
from batchrun.pricing.totals import PriceUse
from batchrun.records import Billing, Cost, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.checkpoint.sqlite import Database
    from batchrun.checkpoint.store import Checkpoint


# The same price in several executions is listed once, as of its latest use.
_PRICES = """SELECT model, conditions, source, max(as_of_us), matched, rates FROM prices
    GROUP BY model, conditions, source, matched, rates ORDER BY max(execution), model, conditions"""
_INSERT = f"""INSERT INTO prices ({", ".join(PRICE_COLUMNS)})
    VALUES ({", ".join("?" for _ in PRICE_COLUMNS)})"""  # noqa: S608 - our own names
_SEAL_PRICE = PRICES.seal("id = ?")
CHUNK = 5_000
_TO_COUNT = f"""SELECT request_id, number, execution, started_us, latency_s, model, asked_model,
    {", ".join((*USAGE, *BILLING))} FROM attempts d
    WHERE NOT ({SENT.differs("d")}) AND (request_id, number) > (?, ?) AND latency_s IS NOT NULL
    AND (output_tokens IS NOT NULL OR stated_cost IS NOT NULL)
    ORDER BY request_id, number LIMIT ?"""  # noqa: S608 - our own names, as below
_REPLACE_COST = f"""UPDATE attempts SET {", ".join(f"{name} = ?" for name in MONEY)}
    WHERE request_id = ? AND number = ?"""  # noqa: S608
_SEAL_COST = COSTS.seal("request_id = ? AND number = ?")


def note_price(store: Checkpoint, price: PriceUse, execution: int | None = None) -> None:
    """Record the price that an execution uses for a model; by default the latest execution."""
    rates = None
    if price.rates is not None:
        rates = orjson.dumps({**price.rates, "tiers": price.tiers}).decode()
    with store.transaction():
        cursor = store.db.execute(
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
        store.db.execute(_SEAL_PRICE, (cursor.lastrowid,))


def prices(db: Database) -> tuple[PriceUse, ...]:
    """Return the prices that the costs of a run were computed with."""
    return tuple(_price(row) for row in db.execute(_PRICES))


def _price(row: tuple[Any, ...]) -> PriceUse:
    model, conditions, source, as_of_us, matched, rates = row
    if rates is None:
        return PriceUse(model, source, as_of_us, matched, conditions=conditions)
    found = orjson.loads(rates)
    tiers = tuple((start, tier) for start, tier in found.pop("tiers", ()))
    return PriceUse(model, source, as_of_us, matched, found, tiers, conditions)


@dataclass(frozen=True, slots=True)
class PricedAttempt:
    """The facts about an attempt that its cost is computed from.

    Attributes:
        key: key of the request; `number` is the number of the attempt.
        execution: number of the execution that sent it.
        ended_at: when it was answered.
        model: the model that answered; `asked_model` is the requested one.
    """

    key: int
    number: int
    execution: int
    ended_at: datetime
    model: str | None
    asked_model: str | None
    usage: Usage
    billing: Billing


def providers(db: Database) -> dict[int, tuple[str | None, str | None]]:
    """Return provider and base URL of each execution; both None if they were not recorded."""
    rows = db.execute("SELECT id, provider, base_url FROM executions")
    return {key: (provider, base_url) for key, provider, base_url in rows}


def attempts_to_count(db: Database) -> Iterator[list[PricedAttempt]]:
    """Yield the attempts with usage, in chunks; damaged ones are left out."""
    last = (0, 0)
    while rows := db.execute(_TO_COUNT, (*last, CHUNK)).fetchall():
        last = rows[-1][:2]
        yield [_priced(row) for row in rows]


def _priced(row: tuple[Any, ...]) -> PricedAttempt:
    key, number, execution, started_us, latency_s, model, asked_model, *rest = row
    ended_us = started_us + (latency_s or 0.0) * 1e6
    facts = dict(zip(BILLING.values(), rest[len(USAGE) :], strict=True))
    return PricedAttempt(
        key,
        number,
        execution,
        datetime.fromtimestamp(ended_us / 1e6, UTC),
        model,
        asked_model or model,
        Usage(**dict(zip(USAGE.values(), rest, strict=False))),
        Billing(**facts),
    )


def write_costs(db: Database, costs: Sequence[tuple[PricedAttempt, Cost | None]]) -> None:
    """Replace the costs of attempts."""
    db.conn.executemany(
        _REPLACE_COST, [(*money_row(cost), one.key, one.number) for one, cost in costs]
    )
    db.conn.executemany(_SEAL_COST, [(one.key, one.number) for one, _ in costs])


def forget_prices(db: Database) -> None:
    """Delete the recorded prices."""
    db.execute("DELETE FROM prices")


@dataclass(frozen=True, slots=True)
class GivenPrice:
    """The `[price]` and the provider that were given to `recost`; either may be None."""

    section: dict[str, Any] | None = None
    provider: str | None = None


def keep_given_price(store: Checkpoint, given: GivenPrice) -> None:
    """Store the prices to compute a run's costs with, until others are given."""
    text = None
    if given != GivenPrice():
        text = orjson.dumps({"section": given.section, "provider": given.provider}).decode()
    with usable(store.path), store.transaction():
        store.update_run("given_price = ?", text)


def given_price(store: Checkpoint) -> GivenPrice:
    """Return the prices that were given to `recost`; None if there were none."""
    with usable(store.path):
        row = store.db.execute("SELECT given_price FROM run").fetchone()
    if row is None or not row[0]:
        return GivenPrice()
    try:
        return GivenPrice(**orjson.loads(row[0]))
    except (TypeError, ValueError):
        return GivenPrice()  # what is kept of the run is damaged, which is found before it is used
