"""Transactions of a time that is yet to come: a clock or a zone of the producer is wrong.

They are no events until then: features, reports and labels do not see them. Here: which they are, and the raw files that
they came from. Nothing is read where the statistics of silver's files end before now. Not here: who is told (`assets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from upsell_assets.bronze.layout import Files
from upsell_assets.bronze.tables import table_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import parquet, reader
from upsell_assets.lake.files import root_of
from upsell_assets.lake.tables import Lake

SHOWN = 20


@dataclass(frozen=True)
class FutureEvent:
    """A transaction, its time (UTC), and its raw file (None: bronze has no such row any more)."""

    transaction: str
    at: datetime
    file: str | None


@dataclass(frozen=True)
class FutureEvents:
    """How many there are, and some of them, the latest first."""

    count: int = 0
    shown: tuple[FutureEvent, ...] = ()


def future_events(lake: Lake, transactions: str, contract: Contract, now: datetime) -> FutureEvents:
    """The transactions after `now` (UTC).

    Args:
        lake: where the tables lie.
        transactions: silver's table.
        contract: that of the bronze table which it is made from.
        now: the present.

    Raises:
        UnknownTableError: one of the tables has not been made.
    """
    silver = lake.open(transactions)
    actions = pa.table(silver.get_add_actions(flatten=True))
    if "max.dtTransacao" in actions.column_names:
        newest = actions["max.dtTransacao"]
        late = pc.or_kleene(pc.is_null(newest), pc.greater(newest, pa.scalar(now, newest.type)))
        actions = actions.filter(late)
    paths = [f"{root_of(silver)}/{path}" for path in actions["path"].to_pylist()]
    if not paths:
        return FutureEvents()
    with reader(lake) as connection:
        connection.execute(
            f"CREATE TEMP TABLE ahead AS SELECT idTransacao AS id, dtTransacao AS moment FROM {parquet(paths)} "
            "WHERE dtTransacao > ?",
            [now],
        )
        [(count,)] = connection.execute("SELECT count(*) FROM ahead").fetchall()
        if not count:
            return FutureEvents()
        connection.execute(
            f"CREATE TEMP TABLE shown AS SELECT id, moment FROM ahead ORDER BY moment DESC, id LIMIT {SHOWN}"
        )
        bronze = lake.open(table_name(contract), silver.transaction_version(table_name(contract)))
        files = Files.of(bronze).table
        # Rows of the future lie in files whose dates end there, or whose dates are not known.
        least = int(now.timestamp() * 1_000_000)
        held = files.filter(pc.fill_null(pc.greater_equal(files["last"], least), True))["path"].to_pylist()
        origin = (
            f"(SELECT idTransaction AS id, _file AS file FROM {parquet(held)})"
            if held
            else "(SELECT '' AS id, '' AS file)"
        )
        rows = connection.execute(
            f"SELECT s.id, s.moment, o.file FROM shown AS s LEFT JOIN {origin} AS o USING (id) ORDER BY s.moment DESC, s.id"
        ).fetchall()
    return FutureEvents(count, tuple(FutureEvent(*row) for row in rows))
