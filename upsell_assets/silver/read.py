"""The rows of bronze that a refresh of silver looks at: those of the keys that changed, as they now stand.

Only the files that hold something newer than what was looked at before are read whole; in the others the keys alone
are looked up that were deleted. Not here: what becomes of the rows (the `.sql` files, `refresh`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from upsell_assets.bronze.floors import floors_name
from upsell_assets.bronze.law import newer, newest_per_key, order_terms
from upsell_assets.bronze.layout import Files
from upsell_assets.bronze.tables import VERSION, table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import quote, reader
from upsell_assets.lake.files import rows_of
from upsell_assets.lake.tables import Lake
from upsell_assets.silver.tables import SilverTable

Versions = dict[str, int]


def touched_rows(
    lake: Lake, table: SilverTable, since: Versions | None, sources: Mapping[str, DeltaTable]
) -> tuple[pa.Table, pa.Table | None]:
    """The source rows of the touched keys as they now stand, and the keys; without keys, the rows are all there are.

    Args:
        lake: where the tables lie.
        table: made from a table of bronze.
        since: the versions taken in already; None: all rows are asked for.
        sources: what is looked at now, as it was opened.
    """
    contract = table.contract
    assert contract is not None
    versioned = {name: opened for name, opened in sources.items() if name != floors_name(contract)}
    key = quote(table.source_key)
    with reader(lake) as connection:
        if since is None:
            for number, opened in enumerate(versioned.values()):
                _show(connection, number, opened)
            rows = "FROM source_0" if table.from_changes else _all_current(connection, contract, key)
            return connection.sql(rows).to_arrow_table(), None
        read = [_Source(lake, connection, f"{number}", table) for number, table in enumerate(versioned.values())]
        for name, source in zip(versioned, read, strict=True):
            source.show_news(since[name])
        news = " UNION ".join(f"SELECT {key} FROM news_{source.number}" for source in read)
        connection.execute(f"CREATE TEMP TABLE touched AS {news}")
        if table.from_changes:
            rows = f"SELECT * FROM ({read[0].of_keys('touched', table.source_key)})"
        else:
            rows = _current_rows(contract, read, table.source_key)
        found = connection.sql(rows).to_arrow_table()
        return found, connection.sql(f"SELECT {key} AS {quote(table.key[0])} FROM touched").to_arrow_table()


def current_rows(connection: duckdb.DuckDBPyConnection, lake: Lake, table: SilverTable, target: DeltaTable) -> None:
    """Make `current`: the live rows of bronze, as of the versions that an opened table of silver was made from."""
    contract = table.contract
    assert contract is not None
    for number, name in enumerate((table_name(contract), tombstones_name(contract))):
        _show(connection, number, lake.open(name, target.transaction_version(name)))
    rows = _all_current(connection, contract, quote(table.source_key))
    connection.execute(f"CREATE TEMP VIEW current AS {rows}")


def _show(connection: duckdb.DuckDBPyConnection, number: int, source: DeltaTable) -> None:
    """Make a table readable as `source_<number>`."""
    relation = f"source_{number}"
    connection.execute(f"CREATE TEMP VIEW {relation} AS {rows_of(connection, relation, source)}")


@dataclass(frozen=True)
class _Source:
    """A table of which a part is read: what is new in it, and the rows of some keys."""

    lake: Lake
    connection: duckdb.DuckDBPyConnection
    number: str
    table: DeltaTable

    def show_news(self, since: int) -> None:
        """Make what is newer than a version readable as `news_<number>`."""
        files = Files.of(self.table).table
        paths = [
            path
            for path, newest in zip(files["path"].to_pylist(), files["newest"].to_pylist(), strict=True)
            if newest is None or newest > since
        ]
        rows = self._rows(paths, where=f"r.{VERSION} > {since}")
        self.connection.execute(f"CREATE TEMP TABLE news_{self.number} AS {rows}")

    def of_keys(self, keys: str, key: str) -> str:
        """Query: the rows whose key is among those of a relation."""
        return self._rows(Files.of(self.table).paths, keys=keys, on=(key,))

    def _rows(
        self, paths: list[str], *, keys: str | None = None, on: tuple[str, ...] = (), where: str | None = None
    ) -> str:
        """Query: rows in all columns of the table; what a file does not have of them is null."""
        shape = pa.schema(self.table.schema().to_arrow())
        self.connection.register(f"shape_{self.number}", shape.empty_table())
        rows = self.lake.data.rows(self.lake, self.connection, paths, shape, keys=keys, on=on, where=where)
        names = ", ".join(map(quote, shape.names))
        return (
            f"SELECT {names} FROM (SELECT * FROM shape_{self.number} UNION ALL BY NAME "
            f"SELECT * EXCLUDE (filename) FROM {rows})"
        )


def _all_current(connection: duckdb.DuckDBPyConnection, contract: Contract, key: str) -> str:
    connection.execute("CREATE TEMP VIEW live AS FROM source_0")
    connection.execute("CREATE TEMP VIEW graves AS SELECT *, 'D' AS _op FROM source_1")
    return _without_dead(connection, contract, key)


def _current_rows(contract: Contract, sources: list[_Source], key: str) -> str:
    live, graves = sources
    connection, quoted = live.connection, quote(key)
    # A key that was buried, and of which no newer row lives, may still have its old one.
    connection.execute(f"CREATE TEMP TABLE old AS SELECT {quoted} FROM news_1 EXCEPT SELECT {quoted} FROM news_0")
    some = connection.execute("SELECT EXISTS (FROM old)").fetchone() == (True,)
    found = f" UNION ALL {live.of_keys('old', key)}" if some else ""
    connection.execute(f"CREATE TEMP TABLE live AS FROM news_0{found}")
    connection.execute(f"CREATE TEMP TABLE graves AS SELECT *, 'D' AS _op FROM ({graves.of_keys('touched', key)})")
    return _without_dead(connection, contract, quoted)


def _without_dead(connection: duckdb.DuckDBPyConnection, contract: Contract, key: str) -> str:
    """Query: live rows, without those that a tombstone is newer than: silver may run between bronze's two commits."""
    columns = [name for name in connection.sql("SELECT * FROM live LIMIT 0").columns if not name.startswith("_")]
    later = newer(order_terms(contract, "t", ()), order_terms(contract, "l", columns), or_equal=True)
    return (
        f"SELECT l.* FROM live AS l LEFT JOIN ({newest_per_key(contract, 'graves', ())}) AS t "
        f"ON l.{key} = t.{key} WHERE t.{key} IS NULL OR NOT {later}"
    )
