"""The rows of bronze that a refresh of silver looks at: those of the keys that changed, as they now stand.

Only the files that hold something newer than what was looked at before are read whole; in the others the keys alone
are looked up that were deleted. Not here: what becomes of the rows (the `.sql` files, `refresh`).
"""

from __future__ import annotations

from collections.abc import Mapping

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
    versioned = {name: source for name, source in sources.items() if name != floors_name(contract)}
    with reader(lake) as connection:
        for number, (name, source) in enumerate(versioned.items()):
            _show(connection, number, source, since[name] if since else None)
        key = quote(table.source_key)
        news = " UNION ".join(f"SELECT {key} FROM news_{number}" for number, _ in enumerate(versioned))
        if since is not None:
            connection.execute(f"CREATE TEMP TABLE touched AS {news}")
        rows = _all_changes(key, since) if table.from_changes else _current_rows(connection, contract, key, since)
        found = connection.sql(rows).to_arrow_table()
        if since is None:
            return found, None
        return found, connection.sql(f"SELECT {key} AS {quote(table.key[0])} FROM touched").to_arrow_table()


def current_rows(connection: duckdb.DuckDBPyConnection, lake: Lake, table: SilverTable, target: DeltaTable) -> None:
    """Make `current`: the live rows of bronze, as of the versions that an opened table of silver was made from."""
    contract = table.contract
    assert contract is not None
    for number, name in enumerate((table_name(contract), tombstones_name(contract))):
        _show(connection, number, lake.open(name, target.transaction_version(name)), None)
    connection.execute(
        f"CREATE TEMP VIEW current AS {_current_rows(connection, contract, quote(table.source_key), None)}"
    )


def _show(connection: duckdb.DuckDBPyConnection, number: int, source: DeltaTable, since: int | None) -> None:
    """Make a table readable as `source_<number>`, and what is newer in it as `news_<number>`."""
    relation = f"source_{number}"
    connection.execute(f"CREATE TEMP VIEW {relation} AS {rows_of(connection, relation, source)}")
    if since is None:
        connection.execute(f"CREATE TEMP VIEW news_{number} AS FROM {relation}")
        return
    files = Files.of(source).table
    paths = [
        path
        for path, newest in zip(files["path"].to_pylist(), files["newest"].to_pylist(), strict=True)
        if newest is None or newest > since
    ]
    news = rows_of(connection, f"news_{number}", source, paths)
    connection.execute(f"CREATE TEMP TABLE news_{number} AS SELECT * FROM ({news}) WHERE {VERSION} > {since}")


def _all_changes(key: str, since: Versions | None) -> str:
    return "FROM source_0" if since is None else f"FROM source_0 SEMI JOIN touched USING ({key})"


def _current_rows(connection: duckdb.DuckDBPyConnection, contract: Contract, key: str, since: Versions | None) -> str:
    """Live rows, without those that a tombstone is newer than: silver may run between bronze's two commits."""
    if since is None:
        connection.execute("CREATE TEMP VIEW live AS FROM source_0")
        connection.execute("CREATE TEMP VIEW graves AS SELECT *, 'D' AS _op FROM source_1")
    else:
        # A key that was buried, and of which no newer row lives, may still have its old one.
        old = f"(SELECT {key} FROM news_1 EXCEPT SELECT {key} FROM news_0)"
        found = f"SELECT * FROM source_0 WHERE {key} IN {old}"
        some = connection.execute(f"SELECT EXISTS (FROM {old})").fetchone() == (True,)
        connection.execute(f"CREATE TEMP TABLE live AS FROM news_0{f' UNION ALL {found}' if some else ''}")
        connection.execute(
            f"CREATE TEMP TABLE graves AS SELECT *, 'D' AS _op FROM source_1 SEMI JOIN touched USING ({key})"
        )
    columns = [name for name in connection.sql("SELECT * FROM live LIMIT 0").columns if not name.startswith("_")]
    later = newer(order_terms(contract, "t", ()), order_terms(contract, "l", columns), or_equal=True)
    return (
        f"SELECT l.* FROM live AS l LEFT JOIN ({newest_per_key(contract, 'graves', ())}) AS t "
        f"ON l.{key} = t.{key} WHERE t.{key} IS NULL OR NOT {later}"
    )
