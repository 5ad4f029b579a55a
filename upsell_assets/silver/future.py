"""Transactions of a time that is yet to come: a clock or a zone of the producer is wrong.

They are no events until then: features, reports and labels do not see them. Here: which they are, and the raw files that
they came from; and those whose time has come. Nothing is read where the statistics of silver's files end before. Not
here: who is told (`assets`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from upsell_assets.bronze.layout import SLACK, Files
from upsell_assets.bronze.tables import INGESTED, table_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import parquet, reader
from upsell_assets.lake.files import root_of
from upsell_assets.lake.tables import Lake
from upsell_assets.settings import LOCAL_ZONE

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
    paths = _silver_paths(silver, now)
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
        held = _bronze_paths(bronze, now)
        origin = (
            f"(SELECT idTransaction AS id, _file AS file FROM {parquet(held)})"
            if held
            else "(SELECT '' AS id, '' AS file)"
        )
        rows = connection.execute(
            f"SELECT s.id, s.moment, o.file FROM shown AS s LEFT JOIN {origin} AS o USING (id) ORDER BY s.moment DESC, s.id"
        ).fetchall()
    return FutureEvents(count, tuple(FutureEvent(*row) for row in rows))


def come_true(
    lake: Lake, transactions: str, contract: Contract, since: datetime, until: datetime
) -> dict[date, datetime]:
    """Local days of the transactions whose time came between two instants (UTC, the second excluded), and not they.

    A change of silver touches no day that is yet to come; bronze still knows that they arrived before their time.

    Args:
        lake: where the tables lie.
        transactions: silver's table.
        contract: that of the bronze table which it is made from.
        since: the first instant.
        until: where to end, not after now.

    Returns:
        Local day -> the time of its first such transaction (UTC).
    """
    silver, bronze = lake.find(transactions), lake.find(table_name(contract))
    if silver is None or bronze is None:
        return {}
    paths, held = _silver_paths(silver, since), _bronze_paths(bronze, since)
    if not paths or not held:
        return {}
    with reader(lake) as connection:
        rows = connection.execute(
            f"SELECT CAST(s.moment AT TIME ZONE '{LOCAL_ZONE.key}' AS DATE) AS day, min(s.moment) "
            f"FROM (SELECT idTransacao AS id, dtTransacao AS moment FROM {parquet(paths)} "
            "WHERE dtTransacao >= ? AND dtTransacao < ?) AS s "
            f"JOIN (SELECT idTransaction AS id, {INGESTED} AS arrived FROM {parquet(held)}) AS b USING (id) "
            "WHERE b.arrived < s.moment GROUP BY day ORDER BY day",
            [since, until],
        ).fetchall()
    return dict(rows)


def _silver_paths(silver: DeltaTable, since: datetime) -> list[str]:
    """The files of silver's transactions in which some may be at an instant or after it."""
    actions = pa.table(silver.get_add_actions(flatten=True))
    if "max.dtTransacao" in actions.column_names:
        newest = actions["max.dtTransacao"]
        least = pa.scalar(since - timedelta(microseconds=SLACK), newest.type)
        actions = actions.filter(pc.or_kleene(pc.is_null(newest), pc.greater_equal(newest, least)))
    return [f"{root_of(silver)}/{path}" for path in actions["path"].to_pylist()]


def _bronze_paths(bronze: DeltaTable, since: datetime) -> list[str]:
    """The files of bronze's transactions whose dates do not end before an instant, or are not known."""
    files = Files.of(bronze).table
    least = int(since.timestamp() * 1_000_000)
    return [*files.filter(pc.fill_null(pc.greater_equal(files["last"], least), True))["path"].to_pylist()]
