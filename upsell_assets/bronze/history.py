"""Every accepted change of a table, and when the lake took it in: what was known at a moment can be told later.

Here: how changes are kept (before they are merged, so that none is in bronze that is not here), and what the law made
of those that had arrived by any moment. A crash's repeat or a file that landed twice keeps a change twice; its first
arrival counts, and the law sees through the rest. Ends of full loads have their times beside their floors.

A table of changes that begins beside rows that were there before takes these rows in, without a time: that they came
before it began is all that is known, so that no moment before that can be asked for (`ARRIVALS_SINCE`). Not here: the
law (`law`), nor what is made of versions (`feature_store.point_in_time`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from upsell_assets.bronze.floors import RECORDED, floors_name, open_floors
from upsell_assets.bronze.law import newer, order_terms, place_terms, same_key
from upsell_assets.bronze.tables import (
    ARRIVALS_SINCE,
    INGESTED,
    VERSION,
    WRITTEN,
    changes_name,
    changes_schema,
    table_name,
    tombstones_name,
)
from upsell_assets.bronze.upkeep import compact
from upsell_assets.bronze.write import append, constant
from upsell_assets.clock import Clock, utc_now
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.commits import retry_conflicts
from upsell_assets.lake.duck import connect, quote, register, text
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE, change_schema
from upsell_assets.raw.landing import full_load_prefix

KNOWN_FROM, KNOWN_TO = "_known_from", "_known_to"
"""When a version of a row began to be what bronze held, and when another one, or its delete, took its place."""

_ORDER = (MODIFIED, SEQUENCE, FILE, ROW)

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
"""The arrival of what came before times were kept: earlier than any that can be asked for."""


def remember(
    lake: Lake,
    contract: Contract,
    changes: pa.Table,
    clock: Clock = utc_now,
    arrived: Mapping[str, datetime] | None = None,
) -> None:
    """Keep change rows for good, with the time of their arrival (a repeat keeps them twice).

    Args:
        lake: where the tables lie.
        contract: the table.
        changes: see `raw.files.change_schema`.
        clock: says when the batch arrives.
        arrived: files (as in `_file`) that had arrived before, and when; they are only read again.
    """

    def once() -> None:
        table = open_changes(lake, contract)
        now, tokens = clock(), {}
        kept = changes.append_column(INGESTED, _arrivals(changes, now, arrived))
        if table.transaction_version(ARRIVALS_SINCE) is None:
            before = _taken_in_before(lake, contract)
            tokens[ARRIVALS_SINCE] = _micros(now) if before.num_rows or table.version() > 0 else 0
            kept = pa.concat_tables([before, kept], promote_options="default")
        append(table, kept.append_column(VERSION, constant(table.version() + 1, kept)), tokens)
        compact(lake, table)

    retry_conflicts(changes_name(contract), once)


def open_changes(lake: Lake, contract: Contract) -> DeltaTable:
    """The changes that are kept; none yet, where nothing came but an empty load."""
    return lake.open_or_create(changes_name(contract), changes_schema(contract))


def _arrivals(changes: pa.Table, now: datetime, arrived: Mapping[str, datetime] | None) -> pa.Array:
    kind = WRITTEN[0].type
    if not arrived:
        return constant(now, changes, kind)
    return pa.array([arrived.get(file, now) for file in changes[FILE].to_pylist()], kind)


def _taken_in_before(lake: Lake, contract: Contract) -> pa.Table:
    """What the live table and its tombstones say, as changes."""
    found = [change_schema(contract).empty_table()]
    for name in (table_name(contract), tombstones_name(contract)):
        if table := lake.find(name):
            rows = lake.rows(table).to_table()
            if OP not in rows.column_names:
                rows = rows.append_column(OP, pa.repeat("D", rows.num_rows))
            internal = [c for c in rows.column_names if c.startswith("_") and c not in (OP, *_ORDER)]
            found.append(rows.drop_columns(internal))
    return pa.concat_tables(found, promote_options="default")


def _micros(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def history_pins(lake: Lake, contract: Contract) -> dict[str, int]:
    """The versions of a table's floors and changes: the same versions, the same history.

    Raises:
        PermanentError: the table's contract keeps no history, or there is none yet.
    """
    if not contract.history:
        raise PermanentError(
            f"bronze.{contract.name}: its contract keeps no history, so that nobody knows when a change arrived. Add "
            f"history: true to the contract; what is in raw already gets its times by: upsell repair {contract.table} "
            "--from-raw"
        )
    # The floors first: the rows of a load were kept before its end was written down.
    floors = open_floors(lake, contract).version()
    try:
        return {floors_name(contract): floors, changes_name(contract): lake.open(changes_name(contract)).version()}
    except UnknownTableError as error:
        raise PermanentError(f"{error} Nothing was taken in since its contract keeps the history.") from error


def check_reaches(lake: Lake, contract: Contract, pins: Mapping[str, int], moment: datetime) -> None:
    """See that times of arrival were kept at a moment.

    Raises:
        PermanentError: they begin later.
    """
    name = changes_name(contract)
    since = lake.open(name, pins[name]).transaction_version(ARRIVALS_SINCE)
    if since is None or _micros(moment) < since:
        began = "its next change" if since is None else datetime.fromtimestamp(since / 1_000_000, UTC).isoformat()
        raise PermanentError(
            f"{name}: times of arrival are kept since {began}; what was known at {moment.isoformat()} is not known. Ask "
            f"for later moments, or take the table in again, by the times in the ledger: upsell repair {contract.table} "
            "--from-raw"
        )


def received(lake: Lake, contract: Contract, pins: Mapping[str, int]) -> tuple[pa.Table, pa.Table]:
    """All changes, and all ends of full loads, each with the time of its arrival (`_ingested_at`, `_recorded_at`)."""
    with connect() as connection:
        _open(connection, lake, contract, pins)
        return connection.sql("FROM changes").to_arrow_table(), connection.sql("FROM ends").to_arrow_table()


def _open(connection: duckdb.DuckDBPyConnection, lake: Lake, contract: Contract, pins: Mapping[str, int]) -> list[str]:
    """Make the relations `changes` and `ends`; returns the source's columns, with those that drifted in."""
    name, floors = changes_name(contract), floors_name(contract)
    register(connection, "ends", lake.rows(lake.open(floors, pins[floors])))
    register(connection, "kept", lake.rows(lake.open(name, pins[name])))
    names = connection.sql("FROM kept").columns
    columns = [column for column in names if not column.startswith("_")]
    arrival = INGESTED if INGESTED in names else "NULL::TIMESTAMPTZ"
    connection.execute(
        f"CREATE TEMP VIEW changes AS SELECT {', '.join([*map(quote, columns), OP, *_ORDER])}, "
        f"coalesce({arrival}, TIMESTAMPTZ {text(ALWAYS.isoformat())}) AS {INGESTED} FROM kept"
    )
    return columns


def versions_known(lake: Lake, contract: Contract, pins: Mapping[str, int]) -> pa.Table:
    """Every row that bronze ever held had it been merged at once, with the span in which it was known.

    Returns:
        The contract's columns, `_known_from` (included) and `_known_to` (excluded; null: it still is): what the law
        says of the changes and ends of loads that had arrived, at every moment.
    """
    with connect() as connection:
        columns = _open(connection, lake, contract, pins)
        return connection.sql(_versions(contract, columns)).to_arrow_table()


def _versions(contract: Contract, columns: list[str]) -> str:
    """Query over `changes` and `ends`.

    A change is the newest of its key from its arrival until one that the law places above it arrives, and what the
    end of a load deletes is whatever stands below it; so the two can be told apart. Most keys have one change, which
    needs no order.
    """
    keys = ", ".join(quote(name) for name in contract.key)
    of_key = ", ".join(f"c.{quote(name)}" for name in contract.key)
    order = ", ".join(order_terms(contract, "c", columns))
    declared = ", ".join(f"n.{quote(name)}" for name in contract.columns)
    below = newer(place_terms(contract, "f"), place_terms(contract, "n"))
    return f"""
        WITH several AS (SELECT {keys} FROM changes GROUP BY {keys} HAVING count(*) > 1),
        ordered AS (
            SELECT c.*, row_number() OVER (PARTITION BY {of_key} ORDER BY {order}) AS _place
            FROM (FROM changes AS c SEMI JOIN several AS k ON {same_key(contract, "c", "k")}) AS c
        ),
        running AS (
            SELECT c.*, max(_place) OVER (PARTITION BY {of_key} ORDER BY c.{INGESTED}) AS _newest FROM ordered AS c
        ),
        newest AS (
            SELECT c.* EXCLUDE (_place, _newest),
                lead(c.{INGESTED}) OVER (PARTITION BY {of_key} ORDER BY c.{INGESTED}) AS _overtaken
            FROM running AS c WHERE c._place = c._newest
            UNION ALL BY NAME
            SELECT c.*, NULL::TIMESTAMPTZ AS _overtaken
            FROM changes AS c ANTI JOIN several AS k ON {same_key(contract, "c", "k")}
        ),
        floors AS (
            SELECT {MODIFIED}, {SEQUENCE}, {text(full_load_prefix(contract))} AS {FILE}, min({RECORDED}) AS {RECORDED}
            FROM ends GROUP BY ALL
        ),
        numbered AS (SELECT *, row_number() OVER () AS _number FROM newest WHERE {OP} <> 'D'),
        swept AS (
            SELECT n._number, min(f.{RECORDED}) AS _swept FROM numbered AS n JOIN floors AS f ON {below} GROUP BY ALL
        ),
        known AS (
            SELECT {declared}, n.{INGESTED} AS {KNOWN_FROM}, least(n._overtaken, s._swept) AS {KNOWN_TO}
            FROM numbered AS n LEFT JOIN swept AS s USING (_number)
        )
        FROM known WHERE {KNOWN_TO} IS NULL OR {KNOWN_FROM} < {KNOWN_TO}
    """
