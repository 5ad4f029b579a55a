"""What a live table and its tombstones hold of the keys of a batch, read from as few files as can be.

The relations that the law judges (`live`, `tombstones`) come from here, with the files in which live rows were found,
which bound the merge. Not here: the law (`law`) and the commits (`merge`).
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa

from upsell_assets.bronze.law import beats, newest_per_key, position_terms, same_key
from upsell_assets.bronze.layout import DATE, Files
from upsell_assets.bronze.tables import INGESTED, VERSION, tombstone_schema
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import quote, text
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import FILE, OP, order_fields
from upsell_assets.raw.landing import full_load_prefix


@dataclass(frozen=True)
class Probed:
    """How the probe went: files read for keys, files with rows of the batch, and keys that lie where they should not.

    `moved` are keys whose live row has another date than their changes say, though the contract calls it immutable.
    """

    read: int
    touched: int
    moved: list[tuple[object, ...]]


def probe(
    lake: Lake,
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    live: Files,
    tombstones: Files,
    shape: pa.Schema,
) -> Probed:
    """Make the relations `live`, `tombstones` and `candidates` from `changes`, one row a key, with its `_date`.

    `candidates` has, for each live row of the batch's keys, its order, and in which file it lies. `live`
    has these rows in the columns of `shape`, those of the contract only where a change stands at the same position:
    nothing else asks for them.
    """
    connection.register("files", live.table)
    connection.register("shape", shape.empty_table())
    _keys(connection, contract)
    order = [*contract.key, *(field.name for field in order_fields(contract))]
    table = _Table(lake, connection, contract, tombstone_schema(contract))
    table.of_keys("tombstones", tombstones.paths, order, f"* EXCLUDE (filename), 'D' AS {OP}")
    table = _Table(lake, connection, contract, shape)
    lying, file = [*order, OP, *([DATE] if contract.immutable_date else [])], "* EXCLUDE (filename), filename AS path"
    if contract.immutable_date is None:
        read = live.paths
        table.of_keys("candidates", table.holding(read, "keys"), lying, file)
    else:
        read = _paths_by_date(connection)
        table.of_keys("candidates", read, lying, file)
        if len(read) < len(live.paths) and _missing(connection, contract):
            others = sorted(set(live.paths) - set(read))
            table.of_keys("elsewhere", table.holding(others, "missing"), lying, file, "missing")
            connection.execute("INSERT INTO candidates SELECT * FROM elsewhere")
            read = live.paths
    _live(table)
    return Probed(len(read), _touched(connection), _moved(connection, contract))


def _touched(connection: duckdb.DuckDBPyConnection) -> int:
    row = connection.execute("SELECT count(DISTINCT path) FROM candidates").fetchone()
    return int(row[0]) if row else 0


def _keys(connection: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """The batch's keys; `_date` is null where it does not tell in which file the row lies.

    A full load may be taken over rows of which it says something else; so its rows are looked for everywhere.
    """
    keys = ", ".join(quote(name) for name in contract.key)
    loaded = f"starts_with({FILE}, {text(full_load_prefix(contract))})"
    date = f"CASE WHEN NOT {loaded} THEN {DATE} END" if contract.immutable_date else "NULL::TIMESTAMPTZ"
    connection.execute(f"CREATE TEMP TABLE keys AS SELECT {keys}, {date} AS {DATE} FROM changes")


def _paths_by_date(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Files in which rows of these dates, to the hour, can lie; all files where a key has no date.

    Those whose dates are not known are among them: rows without a readable date lie in such files.
    """
    hour = 3_600_000_000  # microseconds
    found = connection.execute(
        f"WITH hours AS (SELECT DISTINCT epoch_us({DATE}) // {hour} AS hour FROM keys) "
        "SELECT path FROM files AS f WHERE first IS NULL "
        "OR (SELECT count(*) > count(hour) FROM hours) OR path IN (SELECT f.path FROM files AS f "
        f"JOIN hours AS h ON h.hour BETWEEN f.first // {hour} AND f.last // {hour})"
    )
    return [path for (path,) in found.fetchall()]


def _missing(connection: duckdb.DuckDBPyConnection, contract: Contract) -> bool:
    """Make `missing`: keys of updates and deletes that found neither a row nor a newer tombstone.

    Their row has not come yet, or lies under another date, which an immutable one rules out: where it is so, the
    contract is wrong, and the table must not become so too.
    """
    keys = ", ".join(f"c.{quote(name)}" for name in contract.key)
    missing = connection.execute(
        f"CREATE TEMP TABLE missing AS SELECT DISTINCT {keys} FROM changes AS c "
        f"ANTI JOIN candidates AS h ON {same_key(contract, 'c', 'h')} "
        f"LEFT JOIN ({newest_per_key(contract, 'tombstones', ())}) AS t ON {same_key(contract, 'c', 't')} "
        f"WHERE c.{OP} <> 'I' AND (t.{quote(contract.key[0])} IS NULL OR {beats(contract, 'c', 't')})"
    )
    return missing.fetchone() != (0,)


def _live(table: _Table) -> None:
    """Make `live`, one row a key."""
    connection, contract = table.connection, table.contract
    pairs = zip(position_terms(contract, "c"), position_terms(contract, "l"), strict=True)
    same_place = " AND ".join(f"{left} = {right}" for left, right in pairs)
    tied = connection.execute(
        "CREATE TEMP TABLE tied AS SELECT l.* FROM candidates AS l "
        f"SEMI JOIN changes AS c ON {same_key(contract, 'c', 'l')} AND {same_place}"
    )
    columns = [name for name in table.shape.names if not name.startswith("_")]
    versions = "SELECT * FROM shape UNION ALL BY NAME SELECT * EXCLUDE (path) FROM candidates AS l"
    if tied.fetchone() != (0,):
        paths = [path for (path,) in connection.execute("SELECT DISTINCT path FROM tied").fetchall()]
        table.of_keys("tied_rows", paths, None, f"* EXCLUDE (filename, {INGESTED}, {VERSION})", "tied")
        versions += (
            f" ANTI JOIN tied_rows AS r ON {same_key(contract, 'l', 'r')} UNION ALL BY NAME SELECT * FROM tied_rows"
        )
    connection.execute(f"CREATE TEMP VIEW live_versions AS {versions}")
    one_each = "FROM live_versions" if keys_differ(connection, contract, "candidates") else None
    connection.execute(f"CREATE TEMP TABLE live AS {one_each or newest_per_key(contract, 'live_versions', columns)}")


def keys_differ(connection: duckdb.DuckDBPyConnection, contract: Contract, relation: str) -> bool:
    """Whether no key comes twice: then which of its rows is the newest is no question, and a dear one to ask."""
    keys = ", ".join(quote(name) for name in contract.key)
    query = f"SELECT count(*) = (SELECT count(*) FROM (SELECT DISTINCT {keys} FROM {relation})) FROM {relation}"
    return connection.execute(query).fetchone() == (True,)


def _moved(connection: duckdb.DuckDBPyConnection, contract: Contract) -> list[tuple[object, ...]]:
    if contract.immutable_date is None:
        return []
    return connection.execute(
        f"SELECT DISTINCT {', '.join(f'l.{quote(name)}' for name in contract.key)} FROM candidates AS l "
        f"JOIN changes AS c ON {same_key(contract, 'c', 'l')} WHERE c.{DATE} <> l.{DATE} ORDER BY ALL LIMIT 20"
    ).fetchall()


@dataclass(frozen=True)
class _Table:
    """A table whose files are searched for the keys of a batch."""

    lake: Lake
    connection: duckdb.DuckDBPyConnection
    contract: Contract
    shape: pa.Schema

    def of_keys(
        self, name: str, paths: list[str], columns: list[str] | None, selected: str, keys: str = "keys"
    ) -> None:
        """Make a relation of the rows of files whose key is among `keys`."""
        rows = self.lake.data.rows(
            self.lake, self.connection, paths, self.shape, columns, keys=keys, on=self.contract.key
        )
        self.connection.execute(f"CREATE TEMP TABLE {name} AS SELECT {selected} FROM {rows}")

    def holding(self, paths: list[str], keys: str) -> list[str]:
        """Those of many files that have any of the keys: of the others no other column is read."""
        if not self.lake.data.keys_first:
            return paths
        self.of_keys("held", paths, [*self.contract.key], "DISTINCT filename", keys)
        return [path for (path,) in self.connection.execute("FROM held").fetchall()]
