"""Raw's accepted changes against bronze: nothing that was accepted is lost, nothing is there that was not accepted.

What is exactly true, in whatever order files came, and however many loads ended in between:

1. every live row names a file that the ledger accepted, and no file has more live rows than it was accepted with;
2. of every accepted change bronze holds the row, or a delete, or the end of a full load, at its position or after it;
3. a live row has the values of the row of the file that it names.

The first is asked of all rows, from the ledger and one column. The other two read files again, which an ingestion never
does: of the newest ones and some that the day draws. Not here: who is told (`audit`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from upsell_assets.bronze.floors import read_floors
from upsell_assets.bronze.law import newer, position_terms, same_key
from upsell_assets.bronze.layout import Files
from upsell_assets.bronze.tables import table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.errors import FileRejectedError
from upsell_assets.lake.duck import parquet, quote, reader
from upsell_assets.lake.files import rows_of
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, read_changes
from upsell_assets.raw.landing import LandedFile
from upsell_assets.raw.ledger import Ledger

SHOWN = 20
NEWEST, DRAWN = 10, 10
"""Files that are read again: the newest of a table, and others that the day of the check draws."""

MOST_BYTES = 64 << 20
"""Of the files that are read again together."""


@dataclass
class Accepted:
    """What the ledger and bronze say of one table.

    `faults` (at most `SHOWN`) are sentences by key or file; `not_read` are files that are gone from the bucket, or that
    the contract of today refuses.
    """

    table: str
    files: int = 0
    changes: int = 0
    live_rows: int = 0
    files_read: int = 0
    changes_read: int = 0
    faults: list[str] = field(default_factory=list)
    not_read: list[str] = field(default_factory=list)


def accepted(lakehouse: Lakehouse, contract: Contract, now: datetime) -> Accepted:
    """Hold what was accepted against bronze.

    Args:
        lakehouse: where ledger, files and tables lie.
        contract: the table.
        now: the present (UTC); its day draws files.

    Raises:
        UnknownTableError: the table has not been made.
    """
    lake = lakehouse.lake
    # The ledger first: what it accepted was in bronze before.
    records = [r for r in Ledger(lake, contract).history("") if r.state == "accepted"]
    newest = {(r.file.key, r.file.etag): r for r in records}
    rows: dict[str, int] = {}
    for record in records:
        rows[record.file.key] = max(rows.get(record.file.key, 0), record.rows)
    live = lake.open(table_name(contract))
    found = Accepted(contract.name, len(newest), sum(r.rows for r in newest.values()))
    current = {r.file.key: r.file for r in records if r.file.load is None}
    with reader(lake) as connection:
        files = Files.of(live)
        if files.paths:
            connection.register("accepted", pa.table({"file": [*rows], "rows": pa.array([*rows.values()], pa.int64())}))
            _origins(connection, files.paths, found)
        changes = _read_again(lakehouse, contract, _drawn([*current.values()], now), found)
        if contract.tombstone_days is not None:
            # What a delete did is forgotten after so many days.
            horizon = now - timedelta(contract.tombstone_days)
            changes = [part.filter(pc.field(MODIFIED) >= horizon) for part in changes]
        if changes:
            said = pa.concat_tables(changes, promote_options="default")
            found.changes_read = said.num_rows
            connection.register("said", said)
            connection.execute(f"CREATE TEMP VIEW live AS {rows_of(connection, 'live_rows', live)}")
            graves = rows_of(connection, "grave_rows", lake.open(tombstones_name(contract)))
            connection.execute(f"CREATE TEMP VIEW graves AS {graves}")
            connection.register("floors", read_floors(lake, contract))
            _lost(connection, contract, found)
            _other_values(connection, contract, said.column_names, found)
    found.faults = found.faults[:SHOWN]
    return found


def _origins(connection: duckdb.DuckDBPyConnection, paths: list[str], found: Accepted) -> None:
    of_file = f"SELECT {FILE} AS file, count(*) AS live FROM {parquet(paths)} GROUP BY ALL"
    connection.execute(f"CREATE TEMP TABLE origins AS {of_file}")
    [(found.live_rows,)] = connection.execute("SELECT coalesce(sum(live), 0)::BIGINT FROM origins").fetchall()
    odd = connection.execute(
        "SELECT o.file, o.live, a.rows FROM origins AS o LEFT JOIN accepted AS a USING (file) "
        f"WHERE a.rows IS NULL OR o.live > a.rows ORDER BY ALL LIMIT {SHOWN}"
    )
    for file, live, rows in odd.fetchall():
        if rows is None:
            found.faults.append(f"{live:,} live rows name {file}, which the ledger never accepted")
        else:
            found.faults.append(f"{live:,} live rows name {file}, which was accepted with {rows:,}")


def _drawn(files: list[LandedFile], now: datetime) -> list[LandedFile]:
    ordered = sorted(files, key=lambda file: (file.day, file.key))
    newest, others = ordered[-NEWEST:], ordered[:-NEWEST]
    chosen = [*reversed(newest), *random.Random(now.date().toordinal()).sample(others, min(DRAWN, len(others)))]  # noqa: S311
    taken, size = [], 0
    for file in chosen:
        if size + file.size <= MOST_BYTES:
            taken.append(file)
            size += file.size
    return taken


def _read_again(lakehouse: Lakehouse, contract: Contract, files: list[LandedFile], found: Accepted) -> list[pa.Table]:
    changes = []
    for file in files:
        try:
            body = lakehouse.store.read(file.key, etag=file.etag)
            changes.append(read_changes(body, file, contract).changes)
        except FileNotFoundError:
            found.not_read.append(f"{file.key}: is gone, or another version lies there")
        except FileRejectedError as error:
            found.not_read.append(f"{file.key}: {error}")
    found.files_read = len(changes)
    return changes


def _lost(connection: duckdb.DuckDBPyConnection, contract: Contract, found: Accepted) -> None:
    """Changes of which bronze knows nothing at their position or after it."""
    said = position_terms(contract, "c")
    unheard = [
        f"NOT EXISTS (FROM {relation} AS r WHERE {same_key(contract, 'r', 'c')} AND "
        f"{newer(position_terms(contract, 'r'), said, or_equal=True)})"
        for relation in ("live", "graves")
    ]
    ended = f"NOT EXISTS (FROM floors AS f WHERE {newer(position_terms(contract, 'f'), said, or_equal=True)})"
    keys = ", ".join(f"c.{quote(name)}" for name in contract.key)
    lost = connection.execute(
        f"SELECT {keys}, c.{OP}, c.{FILE}, c.{ROW} FROM said AS c WHERE {' AND '.join([*unheard, ended])} "
        f"ORDER BY ALL LIMIT {SHOWN}"
    )
    for *key, operation, file, row in lost.fetchall():
        found.faults.append(f"{', '.join(map(str, key))}: bronze lost the {operation} of {file}, row {row}")


def _other_values(
    connection: duckdb.DuckDBPyConnection, contract: Contract, columns: list[str], found: Accepted
) -> None:
    """Live rows whose values are not those of the row that they name."""
    keys = ", ".join(f"l.{quote(name)}" for name in contract.key)
    own = [quote(name) for name in columns if not name.startswith("_")]
    held = {name for name, *_ in connection.execute("DESCRIBE live").fetchall()}
    differ = [f"l.{name} IS DISTINCT FROM c.{name}" for name in own if name.strip('"') in held]
    other = connection.execute(
        f"SELECT {keys}, l.{FILE}, l.{ROW} FROM live AS l JOIN said AS c ON l.{FILE} = c.{FILE} AND l.{ROW} = c.{ROW} "
        f"WHERE {' OR '.join(differ)} ORDER BY ALL LIMIT {SHOWN}"
    )
    for *key, file, row in other.fetchall():
        found.faults.append(f"{', '.join(map(str, key))}: bronze has other values than {file}, row {row}")
